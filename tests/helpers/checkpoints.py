"""The state of a checkpoint without a run."""

from typing import Any

import gymnasium as gym

from troupe.runs.store.state import State
from troupe.runtime.progress import Counts


def state(steps: int = 0, **more: Any) -> State:
    spaces = gym.spaces.Box(-1, 1, (3,)), gym.spaces.Discrete(2)
    about: dict[str, Any] = {"seconds": 1.5, "version": 3, "resumes": 0, "custom_network": False}
    about |= {"observation_space": spaces[0], "action_space": spaces[1], "counts": Counts(steps=steps)}
    return State(**about | more)
