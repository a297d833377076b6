"""Optional packages: which are missing, and the pip command that installs them.

The command names the packages rather than `troupe-rl[extra]`, which pip could not find where troupe was installed
from a checkout.
"""

import importlib.metadata
import importlib.util
import re
import shlex

from troupe.config import UsageError

DISTRIBUTION = "troupe-rl"  # on the package index, "troupe" is another project

# The packages of each extra, for an installation without metadata (a source tree on PYTHONPATH).
_PACKAGES = {
    "atari": ("ale-py", "opencv-python-headless"),
    "box2d": ("gymnasium[box2d]",),
    "mujoco": ("gymnasium[mujoco]",),
    "envpool": ("envpool",),
    "onnx": ("onnx", "onnxruntime", "onnxscript", "torch"),
    "cluster": ("ray>=2.60",),
    "wandb": ("wandb>=0.20",),
    "mlflow": ("mlflow>=3",),
    "parquet": ("pyarrow>=16",),
    "tune": ("optuna>=4",),
    "pandas": ("pandas",),  # no extras of ours, but what `read_metrics` may be asked for
    "polars": ("polars",),
}
_MODULES = {  # without which a command cannot begin
    "onnx": ("onnx", "onnxruntime", "onnxscript"), "cluster": ("ray",), "wandb": ("wandb",), "mlflow": ("mlflow",),
    "parquet": ("pyarrow",), "tune": ("optuna",), "pandas": ("pandas",), "polars": ("polars",),
}  # fmt: skip


def need(extra: str) -> None:
    """Raises UsageError where modules of the extra are missing. Imports none of them: that takes seconds."""
    missing = [name for name in _MODULES[extra] if importlib.util.find_spec(name) is None]
    if missing:
        are = "are" if len(missing) > 1 else "is"
        raise UsageError(f"{', '.join(missing)} {are} not installed: {command(extra)}")


def command(extra: str) -> str:
    """What installs the packages of the extra: "pip install 'ale-py>=0.12' 'opencv-python-headless>=4.8'"."""
    return f"pip install {' '.join(map(shlex.quote, requirements(extra)))}"


def requirements(extra: str) -> tuple[str, ...]:
    """The packages of the extra with their versions, as the installed distribution's metadata state them."""
    try:
        stated = importlib.metadata.requires(DISTRIBUTION) or []
    except importlib.metadata.PackageNotFoundError:
        stated = []
    parts = (requirement.partition(";") for requirement in stated)
    mine = tuple(name.strip() for name, _, marker in parts if re.search(rf"extra == ['\"]{extra}['\"]", marker))
    return mine or _PACKAGES[extra]


def version(distribution: str = DISTRIBUTION) -> str:
    """The installed version; "unknown" where a package runs without its metadata (a source tree on PYTHONPATH)."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"
