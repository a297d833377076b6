"""A run's directory: its name and place, and what the summary says of machine and versions."""

import re
import sys
from datetime import datetime
from pathlib import Path

from troupe.config import TrainConfig, UsageError
from troupe.extras import DISTRIBUTION, version


def run_name(env_id: str) -> str:
    """An environment's id as a folder's name."""
    return re.sub(r"[^\w.-]+", "_", env_id).strip("_")


def check_free(place: Path) -> None:
    if (place / "config.toml").exists():
        raise UsageError(f"'{place}' already holds a run; go on with it (troupe resume {place}) or name another")
    if place.exists() and not place.is_dir():
        raise UsageError(f"'{place}' is a file; --run-dir names a directory")


def new_run_directory(config: TrainConfig, asked: str | Path | None) -> Path:
    """Makes the run's directory: the one asked for, or one that no other run has taken."""
    base = Path("runs") / run_name(config.env.id) / f"{datetime.now():%Y-%m-%d_%H%M%S}_seed{config.seed}"
    place, again = Path(asked) if asked is not None else base, 1
    while True:
        try:
            place.mkdir(parents=True, exist_ok=asked is not None)
            return place
        except FileExistsError:  # two runs that started in the same second
            again += 1
            place = base.with_name(f"{base.name}_{again}")
        except OSError as error:
            raise unwritable(place, error) from error


def unwritable(place: Path, error: OSError) -> UsageError:
    return UsageError(f"run directory '{place}' cannot be written: {error.strerror or error}")


def peak_memory_mb() -> float | None:
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (1024**2 if sys.platform == "darwin" else 1024), 1)


def versions() -> dict[str, str]:
    packages = {"troupe": DISTRIBUTION} | {name: name for name in ("torch", "gymnasium", "numpy")}
    return {"python": sys.version.split()[0]} | {name: version(package) for name, package in packages.items()}
