"""Packages that only some commands need, and that an extra of the same name brings."""

import importlib.util

from troupe.config import UsageError

_PACKAGES = {"onnx": ("onnx", "onnxruntime", "onnxscript")}


def need(extra: str) -> None:
    """Raises UsageError where packages of the extra are missing. Imports none of them: that takes seconds."""
    missing = [name for name in _PACKAGES[extra] if importlib.util.find_spec(name) is None]
    if missing:
        are = "are" if len(missing) > 1 else "is"
        raise UsageError(f"{', '.join(missing)} {are} not installed: pip install 'troupe[{extra}]'")
