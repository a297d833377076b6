"""Environments by their registered id."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import gymnasium as gym
from gymnasium.vector import AutoresetMode, VectorEnv

from troupe.config import Environment
from troupe.environments import atari, pool
from troupe.environments.lookup import lookup
from troupe.environments.own_code import own_code
from troupe.environments.probe import probe
from troupe.environments.quiet import quiet_gymnasium
from troupe.environments.source import EnvironmentSource


def from_registry(env_id: str) -> EnvironmentSource:
    spec = lookup(env_id)
    if atari.is_game(spec):
        game = partial(atari.single, env_id)
        batch = partial(atari.batch, spec.kwargs["game"])
        with quiet_gymnasium():
            return replace(probe(env_id, game), native_vector=batch, atari=True)

    def make(render_mode: str | None = None, config: Environment | None = None) -> gym.Env[Any, Any]:  # noqa: ARG001
        asked: dict[str, Any] = {"render_mode": render_mode} if render_mode else {}  # not every environment takes one
        with quiet_gymnasium():
            return gym.make(lookup(env_id), **asked)

    def native(count: int, config: Environment) -> VectorEnv[Any, Any, Any]:  # noqa: ARG001
        return gym.make_vec(lookup(env_id), num_envs=count, vectorization_mode="vector_entry_point")

    source = probe(env_id, make, spec.reward_threshold)
    vector = native if not source.left_out and _resets_on_the_next_step(spec, native) else None
    return replace(source, native_vector=vector, pool_name=pool.name_of(spec))


def _resets_on_the_next_step(spec: Any, native: Callable[[int, Environment], VectorEnv[Any, Any, Any]]) -> bool:
    """Whether the environment's own vector version exists, can be made, and keeps the rollout contract."""
    if spec.vector_entry_point is None:
        return False
    try:
        with quiet_gymnasium(), own_code():
            vector = native(1, Environment())
    except Exception:  # one that needs packages we do not ask for (JAX): the Python version serves
        return False
    mode = vector.metadata.get("autoreset_mode")
    vector.close()
    return mode == AutoresetMode.NEXT_STEP
