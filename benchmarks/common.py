"""What the benchmark scripts share: whole commands, timed from outside, and their results as files."""

import importlib.metadata
import json
import os
import platform
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


def troupe(*arguments: str, src: Path | None = None) -> tuple[str, float]:
    """Runs one command, of the source tree `src` if one is given; gives what it printed and the seconds from its start
    to its exit."""
    environment = None if src is None else os.environ | {"PYTHONPATH": str(src)}
    began = time.perf_counter()
    done = subprocess.run([sys.executable, "-m", "troupe", *arguments], capture_output=True, text=True, env=environment)
    spent = time.perf_counter() - began
    if done.returncode:
        sys.exit(f"troupe {' '.join(arguments)} failed:\n{done.stderr}")
    if "after which nothing is learned" in done.stdout:
        sys.exit(f"troupe {' '.join(arguments)}: its limits are beyond learner.anneal_steps; give it others")
    return done.stdout, spent


def peak_memory_of_children_mb() -> float:
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024


def write(name: str, result: dict[str, Any]) -> None:
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(result | {"machine": machine()}, indent=1) + "\n")
    print(f"wrote {RESULTS / name}.json")


def machine() -> dict[str, Any]:
    """What results depend on, besides the code: the processor and the versions."""
    packages = ("troupe-rl", "torch", "gymnasium", "numpy")
    versions = {package: importlib.metadata.version(package) for package in packages}
    return {"processor": _processor(), "cores": os.cpu_count(), "python": platform.python_version(), **versions}


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(": ", 1)[1] for line in lines if line.startswith("model name")), platform.processor())
