"""A run's directory: its name, its lock, and the memory and versions of this process."""

import os
import re
import sys
from datetime import datetime
from pathlib import Path
from typing import Self

from troupe import hints
from troupe.config import TrainConfig, UsageError
from troupe.extras import DISTRIBUTION, version
from troupe.runs.store.lock import FILE as LOCK
from troupe.runs.store.lock import Lock
from troupe.user_code.files import without_folder


def run_name(env_id: str) -> str:
    """An environment's id as a folder's name; of a file without its folder."""
    return re.sub(r"[^\w.-]+", "_", without_folder(env_id)).strip("_")


def check_named(path: str | Path | None) -> None:
    """Raises UsageError for an empty name, which Path would read as the current directory."""
    if path is not None and not str(path).strip():
        raise UsageError(f"{hints.option('run-dir')} is empty; name a directory")


def check_free(path: Path) -> None:
    if (path / "config.toml").exists():
        resume, option = hints.call("resume", path), hints.option("run-dir")
        raise UsageError(f"'{path}' already holds a run; to continue: {resume}, or name another {option}")
    if path.exists() and not path.is_dir():
        raise UsageError(f"'{path}' is a file; {hints.option('run-dir')} names a directory")


def check_empty(folder: Path) -> None:
    """Raises UsageError for a folder that holds anything but a lock."""
    if folder.is_dir() and any(each.name != LOCK for each in folder.iterdir()):
        raise UsageError(f"'{folder}' is not empty; name another {hints.option('run-dir')}")


def runs_inside(folder: Path) -> str:
    """'; it holds runs: ...' for a folder of runs (train --seeds, compare) that was mistaken for a run; or nothing."""
    found = sorted(file.parent for pattern in ("*", "*/*") for file in folder.glob(f"{pattern}/config.toml"))
    more = ", ..." if len(found) > 4 else ""
    return f"; it holds runs: {', '.join(map(str, found[:4]))}{more}" if found else ""


def newest_first(run: Path) -> list[Path]:
    """The checkpoints of a run. A run that was killed between two renames leaves one named `.replaced`."""
    folder = run / "checkpoints"
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    known = [name for name in names if re.fullmatch(r"[0-9]+(\.replaced)?", name)]
    return [
        folder / name for name in sorted(known, key=lambda name: (step_of(folder / name), -len(name)), reverse=True)
    ]


def step_of(path: Path) -> int:
    return int(path.name.removesuffix(".replaced"))


class RunDirectory:
    """A run's directory, locked while this process writes there. `with` releases it.

    Raises UsageError where another process has it, or where it cannot be written.
    """

    def __init__(self, path: Path):
        self.path = path
        for name in (LOCK, "metrics.jsonl", "journal.jsonl", "checkpoints", "plots", "videos"):
            if (path / name).is_symlink():
                raise UsageError(f"'{path / name}' is a link: a run writes only inside its directory; remove the link")
        try:
            self._take()
        except OSError as error:
            raise unwritable(path, error) from error

    @classmethod
    def new(cls, config: TrainConfig, asked: str | Path | None) -> Self:
        """Makes the directory `asked` for, or one that no other run has."""
        base = Path("runs") / run_name(config.env.id) / f"{datetime.now():%Y-%m-%d_%H%M%S}_seed{config.seed}"
        path = Path(asked) if asked is not None else base
        try:
            if asked is None:
                path = _made(base)
            else:
                path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise unwritable(path, error) from error
        directory = cls(path)
        try:
            check_free(path)  # again: nobody else can take it from here on
        except UsageError:
            directory.release()
            raise
        return directory

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def release(self) -> None:
        self._lock.release()

    def is_gone(self) -> bool:
        """Whether it has been moved or deleted since; another one may have its path."""
        try:
            return not os.path.samestat(self._identity, self.absolute.stat())
        except (FileNotFoundError, NotADirectoryError):
            return True

    def renew(self) -> None:
        """Continues in a new directory at the same path, or beside it if that is taken. Raises OSError."""
        self.release()
        self.path = _made(self.absolute)
        self._take()

    def _take(self) -> None:
        self.absolute = self.path.absolute()  # the working directory may change or vanish
        self._lock = Lock(self.path)
        self._identity = self.absolute.stat()


def _made(base: Path) -> Path:
    """A directory that was not there before: `base`, or with a number behind its name."""
    path, again = base, 1
    while True:
        try:
            path.mkdir(parents=True)
            return path
        except FileExistsError:  # two runs that started in the same second
            again += 1
            path = base.with_name(f"{base.name}_{again}")


def unwritable(path: Path, error: OSError) -> UsageError:
    return UsageError(f"run directory '{path}' cannot be written: {error.strerror or error}")


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
