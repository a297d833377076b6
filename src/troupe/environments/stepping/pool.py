"""EnvPool: batches of environments in C++ (Weng et al. 2022), for those that are the same as Gymnasium's.

EnvPool resets on the step after an episode's end, whose reward is 0, as the tests check. One difference remains: an
episode that terminates in the very step of its time limit is reported as truncated only.
"""

import importlib.util
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from troupe.environments.stepping.vector import VectorEnvironment

_MUJOCO = (
    "Ant", "HalfCheetah", "Hopper", "Humanoid", "HumanoidStandup", "InvertedDoublePendulum", "InvertedPendulum",
    "Pusher", "Reacher", "Swimmer", "Walker2d",
)  # fmt: skip
# Compared with Gymnasium's: classic control and MuJoCo step by step (up to rounding, with one release of
# MuJoCo), Box2D and Pusher by the returns and observations of a fixed policy over a hundred episodes or more.
SAME = frozenset(
    [
        "Acrobot-v1", "BipedalWalker-v3", "BipedalWalkerHardcore-v3", "CartPole-v1", "LunarLander-v3",
        "LunarLanderContinuous-v3", "MountainCar-v0", "MountainCarContinuous-v0", "Pendulum-v1",
        *(f"{name}-v5" for name in _MUJOCO),
    ]
)  # fmt: skip
# Those that EnvPool has under Gymnasium's name but that are not used, and why.
_TABLES = "a table is looked up as fast in Python"
OTHERWISE = {
    "Blackjack-v1": "its observation is an array there and a tuple in Gymnasium",
    "CarRacing-v3": "its images are rendered by another program there",
    "CartPole-v0": "only its newest version has been compared",
    "CliffWalking-v1": _TABLES,
    "CliffWalkingSlippery-v1": _TABLES,
    "FrozenLake-v1": _TABLES,
    "FrozenLake8x8-v1": _TABLES,
} | {f"{name}-v{old}": "only its newest version has been compared" for name in _MUJOCO for old in (2, 3, 4)}


def installed() -> bool:
    """Whether EnvPool is installed. It is imported, which takes half a second, only where it is used."""
    return importlib.util.find_spec("envpool") is not None


def name_of(spec: EnvSpec) -> str:
    """EnvPool's name of an environment; "" if it does not have the same one."""
    own = isinstance(spec.entry_point, str) and spec.entry_point.startswith("gymnasium.envs.")
    return spec.id if own and spec.id in SAME else ""


def refusal(name: str, observation_space: gym.Space[Any], action_space: gym.Space[Any]) -> str:
    """Why the installed EnvPool's `name` differs from Gymnasium's; "" if it does not."""
    import envpool

    if name not in envpool.list_all_envs():
        return f"EnvPool {envpool.__version__} has no {name}"
    spec = envpool.make_spec(name)
    observed, played = spec.gymnasium_observation_space, spec.gymnasium_action_space
    limit, own_limit = spec.config.max_episode_steps, gym.spec(name).max_episode_steps
    for what, theirs, ours, same in (
        ("observations", observed, observation_space, _alike(observed, observation_space)),
        ("actions", played, action_space, _same_actions(played, action_space)),
        ("a time limit", limit, own_limit, limit == own_limit),
    ):
        if not same:
            return f"{name} has {what} of {theirs} in EnvPool {envpool.__version__}, of {ours} in Gymnasium"
    return ""


def _alike(theirs: gym.Space[Any], ours: gym.Space[Any]) -> bool:
    """Bounds are not compared: those of EnvPool's Box2D observations are placeholders."""
    return (type(theirs), theirs.shape, theirs.dtype) == (type(ours), ours.shape, ours.dtype)


def _same_actions(theirs: gym.Space[Any], ours: gym.Space[Any]) -> bool:
    """Dtypes are not compared: EnvPool converts actions, and declares float64 where Gymnasium has float32."""
    if isinstance(theirs, gym.spaces.Box) and isinstance(ours, gym.spaces.Box):
        bounds = (theirs.low, ours.low), (theirs.high, ours.high)
        return all(np.array_equal(a.astype(np.float32), b.astype(np.float32)) for a, b in bounds)
    return theirs == ours


class PoolVector(VectorEnv[Any, Any, Any]):
    """A batch of EnvPool's as a vector environment of Gymnasium, with Gymnasium's spaces.

    EnvPool takes seeds only when a pool is made, so every `reset` makes a new one: 3 ms for 100 environments of
    CartPole, 160 ms for 100 of HalfCheetah.
    """

    metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP}  # noqa: RUF012

    def __init__(
        self,
        name: str,
        count: int,
        observation_space: gym.Space[Any],
        action_space: gym.Space[Any],
        threads: int,
    ):
        self.num_envs = count
        self.single_observation_space, self.single_action_space = observation_space, action_space
        self.observation_space = batch_space(observation_space, count)
        self.action_space = batch_space(action_space, count)
        self._name, self._threads = name, threads
        self._pool: Any = None

    def reset(self, *, seed: Any = None, options: Any = None) -> tuple[Any, dict[str, Any]]:  # noqa: ARG002
        """`seed`: one for each environment, of 31 bits."""
        import envpool

        self._pool = envpool.make_gymnasium(self._name, num_envs=self.num_envs, num_threads=self._threads, seed=seed)
        return self._pool.reset()  # type: ignore[no-any-return]

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        self.send(actions)
        return self.receive()

    def send(self, actions: Any) -> None:
        """Begins a step, in EnvPool's threads."""
        self._pool.send(actions)

    def receive(self) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        return self._pool.recv()  # type: ignore[no-any-return]

    def close(self, **_: Any) -> None:
        self._pool = None  # whose threads end with it


class PoolEnvironment(VectorEnvironment):
    """Between `send` and `receive` the environments step while the caller does other work."""

    _vector: Any

    def _begin(self, seeds: np.ndarray) -> Any:
        return self._vector.reset(seed=[int(seed) & 0x7FFFFFFF for seed in seeds])

    def _ask(self, action: np.ndarray) -> None:
        self._vector.send(action)

    def _answer(self) -> Any:
        return self._vector.receive()
