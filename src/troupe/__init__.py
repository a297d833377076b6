"""troupe: asynchronous actor-critic reinforcement learning.

run = troupe.train("CartPole-v1", seed=1)
agent = troupe.load(run.path)
action = agent.act(observation)
"""

import importlib
from typing import TYPE_CHECKING, Any

from troupe.config import TrainConfig, TroupeError, UsageError
from troupe.importing import import_announced, interrupts_held_back
from troupe.interpreter import watch_lock

if TYPE_CHECKING:
    from troupe.agent import Agent, load
    from troupe.environments.make_vector import make_vector
    from troupe.run import Run
    from troupe.runs.callbacks.callback import Callback, Training
    from troupe.runs.evaluate.evaluation import evaluate
    from troupe.runs.report.tables import read_metrics
    from troupe.runs.show.watch import watch
    from troupe.trainer import resume, train

__all__ = [
    "Agent", "Callback", "Run", "TrainConfig", "Training", "TroupeError", "UsageError",
    "evaluate", "load", "make_vector", "read_metrics", "resume", "train", "watch",
]  # fmt: skip

_LAZY = {
    "Callback": "troupe.runs.callbacks.callback", "Training": "troupe.runs.callbacks.callback",
    "read_metrics": "troupe.runs.report.tables", "make_vector": "troupe.environments.make_vector",
    "Agent": "troupe.agent", "load": "troupe.agent", "evaluate": "troupe.runs.evaluate.evaluation",
    "Run": "troupe.run", "resume": "troupe.trainer", "train": "troupe.trainer", "watch": "troupe.runs.show.watch",
}  # fmt: skip


watch_lock()


def __getattr__(name: str) -> Any:
    """Imports torch and Gymnasium only when they are first needed: `troupe --help` answers at once."""
    if name in _LAZY:
        with import_announced(), interrupts_held_back():
            module = importlib.import_module(_LAZY[name])
        return getattr(module, name)
    raise AttributeError(f"module 'troupe' has no attribute '{name}'")
