"""What is read of a run's summary.json."""

from pathlib import Path

import msgspec

from troupe import safe_files


class FinalScores(msgspec.Struct, frozen=True):
    episodes: int = 0
    mean_return: float = 0.0
    std_return: float = 0.0
    min_return: float = 0.0
    max_return: float = 0.0
    mean_length: float = 0.0
    cut_off: int = 0
    unfinished: int = 0


class Summary(msgspec.Struct, frozen=True):
    outcome: str = ""
    evaluation: FinalScores | None = None
    target: float | None = None
    measured: tuple[str, ...] = ()  # the settings that were chosen by a measurement on the machine
    steps: int = 0
    episodes: int = 0
    updates: int = 0
    best_steps: int = 0
    training_seconds: float = 0.0
    total_seconds: float = 0.0
    steps_per_s: float = 0.0


def summary_of(run: Path) -> Summary:
    """Nothing but defaults where there is none that can be read."""
    return safe_files.read_json(run / "summary.json", Summary) or Summary()
