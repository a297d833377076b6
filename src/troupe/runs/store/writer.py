"""What a run writes while it trains: settings, metrics, checkpoints and its journal."""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Self

from troupe.config import TrainConfig, reason, to_toml
from troupe.runs.store import checkpoint
from troupe.runs.store.directory import RunDirectory, unwritable
from troupe.runs.store.metrics import MetricsLog
from troupe.runtime.journal import Journal
from troupe.user_code import trust


class RunWriter:
    """Writes into a run's directory; if that is moved or deleted, it continues in a new one and reports it to `warn`.

    A checkpoint is of use only beside a config.toml, so one is written wherever a checkpoint is. Raises UsageError if
    the directory cannot be written at the start.
    """

    def __init__(
        self, directory: RunDirectory, config: TrainConfig, journal: Journal | None, warn: Callable[[str], None]
    ):
        self._directory, self._config, self._journal, self._warn = directory, config, journal, warn
        self._unsaved = False  # the last checkpoint could not be written, and the user knows
        self.saved: Path | None = None  # the last checkpoint, if it was written
        try:
            self._write_config()
            self.metrics = MetricsLog(self.path, warn)
        except OSError as error:
            raise unwritable(self.path, error) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self.metrics.__exit__(*raised)

    @property
    def path(self) -> Path:
        return self._directory.path

    def save(self, taken: checkpoint.Checkpoint) -> Path:
        """Writes a checkpoint. Raises OSError."""
        self._follow_directory()
        self.metrics.retry()
        self.saved = None
        self.saved = checkpoint.save(self.path, taken.state.counts.steps, taken)
        return self.saved

    def try_to_save(self, taken: checkpoint.Checkpoint) -> None:
        """Writes a checkpoint if that is possible; of several failures in a row the first is reported."""
        try:
            self.save(taken)
            self._unsaved = False
        except OSError as error:
            if not self._unsaved:
                self._warn(f"no checkpoint could be written: {reason(error)}; the run continues")
            self._unsaved = True

    def write_journal(self) -> None:
        if self._journal is None:
            return
        try:
            self._journal.append_to(self.path)
        except OSError as error:
            self._warn(f"the journal is no longer written: {reason(error)}; the run continues and cannot be replayed")

    def _write_config(self) -> None:
        trust.remember(self._config)
        checkpoint.write_durably(self.path / "config.toml", to_toml(self._config).encode())

    def _follow_directory(self) -> None:
        before = self.path
        if self._directory.is_gone():
            self._directory.renew()
            self._write_config()
            self.metrics.reopen(self.path)
            self._warn(f"'{before}' has been moved or deleted; continuing in a new directory, {self.path}")
            if self._journal:
                self._journal.discard()
                self._warn("not recorded from here on: the new directory cannot be replayed")
        elif not (before / "config.toml").exists():
            self._write_config()
            self._warn(f"config.toml was missing in '{before}', and has been written again")
        if not (self.path / "metrics.jsonl").exists():
            with suppress(OSError):  # a full disk, which the log itself reports
                self.metrics.reopen(self.path)
                self._warn(f"metrics.jsonl was missing in '{before}'; it begins again, without the rows so far")
