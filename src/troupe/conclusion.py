"""The end of a run: environments are closed within a deadline, and its results are written."""

import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from troupe import safe_files
from troupe.config import TrainConfig, TroupeError, UsageError, one_line, printable, protocol_of, reason
from troupe.runs.store import checkpoint
from troupe.runs.store.directory import newest_first, peak_memory_mb, versions
from troupe.runs.store.metrics import to_json
from troupe.runtime.execution.interruption import run_interruptible
from troupe.runtime.execution.supervisor import Failure
from troupe.runtime.progress import Counts

SAVING, EVALUATING = "saving", "the final evaluation"  # what can fail after training
_CLOSE_SECONDS = 10.0  # for environments to close


def close_in_time(close: Callable[[], None], interrupted: Callable[[], bool]) -> str | None:
    """Closes environments, however the run ended; returns what went wrong, which does not affect the saved run.

    Once `interrupted`, they have a second left.
    """
    deadline = time.monotonic() + _CLOSE_SECONDS

    def work() -> bool:
        close()
        return True

    try:
        if not run_interruptible(work, lambda: interrupted() or time.monotonic() > deadline):
            return "close() has not returned, and is abandoned"
    except Exception as error:
        return f"close raised {one_line(error)}"
    return None


def write_summary(run: Path, config: TrainConfig, counts: Counts, seconds: float, **more: Any) -> None:
    """Writes summary.json. `seconds`: of training. Raises OSError."""
    summary = {
        "preset": config.preset,
        "tuned": config.tuned,
        "seed": config.seed,
        **({"protocol": protocol} if (protocol := protocol_of(config.env)) else {}),
        **more,
        **asdict(counts),
        "training_seconds": round(seconds, 3),
        "steps_per_s": round(counts.steps / max(seconds, 1e-9), 1),
        "peak_memory_mb": peak_memory_mb(),
        "versions": versions(),
    }
    checkpoint.write_durably(run / "summary.json", to_json(summary, indent=2))
    if more.get("outcome") != "failed":
        (run / "error.txt").unlink(missing_ok=True)  # of a failure before it was resumed


def failure_of(run: Path, failure: Failure, saved: Path | None) -> TroupeError:
    """Writes the traceback into the run's directory, if that is possible; returns the error, which is one line."""
    trace, where = "".join(traceback.format_exception(failure.error)), "--debug shows where"
    with suppress(OSError):
        checkpoint.write_durably(run / "error.txt", printable(trace).encode())
        where = f"traceback in {run / 'error.txt'}"
    older = newest_first(run)
    kept = f"weights saved in {saved}" if saved else f"newest checkpoint: {older[0] if older else 'none'}"
    why = reason(failure.error) if failure.part == SAVING else one_line(failure.error)
    return TroupeError(f"{failure.part} failed: {why} ({where}; {kept})")


def draw_picture(run: Path) -> Path | None:
    """Draws the run's learning curve, and redraws that of its group; None if no episode has ended. Raises OSError."""
    from troupe.runs.report import group
    from troupe.runs.report.plots import plot_runs

    picture = safe_files.folder(run / "plots") / "learning.png"
    try:
        plot_runs([run], picture)
    except UsageError:
        return None
    group.redraw(run)
    return picture
