"""How many steps each host delivers, and how old the weights are that it plays with."""

import threading
from collections.abc import Mapping

from troupe.runtime.progress import Lag


class Figures:
    """Steps by host since the beginning, and their lag when they arrived. One thread adds, another reads."""

    def __init__(self) -> None:
        self._total: dict[str, Lag] = {}
        self._recent: dict[str, Lag] = {}  # since the last row
        self._lock = threading.Lock()

    def add(self, host: str, lag: Lag) -> None:
        with self._lock:
            self._total.setdefault(host, Lag()).add(lag)
            self._recent.setdefault(host, Lag()).add(lag)

    def take_row(self, actors: Mapping[str, int]) -> dict[str, dict[str, float]]:
        """For metrics, by host: its `actors` now, the steps it has delivered in all, and the lag of those since the
        last row."""
        with self._lock:
            recent, self._recent = self._recent, {}
            return {
                host: {
                    "actors": actors.get(host, 0),
                    "steps": self._total.get(host, Lag()).steps,
                    "lag_mean": round(_mean(recent.get(host, Lag())), 4),
                    "lag_max": recent.get(host, Lag()).most,
                }
                for host in sorted({*actors, *self._total})
            }

    def lines(self) -> list[str]:
        """For the end of a run: a line for each host."""
        with self._lock:
            total = sum(lag.steps for lag in self._total.values())
            return [
                f"host {host}: {lag.steps:,} steps ({lag.steps / max(total, 1):.0%}), "
                f"{_mean(lag):.1f} weight versions between acting and arriving (largest {lag.most})"
                for host, lag in sorted(self._total.items())
            ]


def _mean(lag: Lag) -> float:
    return lag.total / max(lag.steps, 1)
