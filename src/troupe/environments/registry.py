"""Environments by their registered id, and what to say of an id that is not known or needs a package."""

import importlib
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import gymnasium as gym
from gymnasium.vector import AutoresetMode, VectorEnv

from troupe.config import Environment, UsageError, did_you_mean, one_line
from troupe.environments import atari, pool
from troupe.environments.own_code import own_code
from troupe.environments.probe import EXTRAS, probe
from troupe.environments.source import EnvironmentSource, quiet_gymnasium
from troupe.extras import command


def from_registry(env_id: str) -> EnvironmentSource:
    try:
        with quiet_gymnasium():
            spec = _spec(env_id)
    except (gym.error.Error, ImportError) as error:
        raise UsageError(_unknown(env_id, error)) from None

    if atari.is_game(spec):
        game = partial(atari.single, env_id)
        batch = partial(atari.batch, spec.kwargs["game"])
        with quiet_gymnasium():
            return replace(probe(env_id, game), native_vector=batch, atari=True)

    def make(render_mode: str | None = None, config: Environment | None = None) -> gym.Env[Any, Any]:  # noqa: ARG001
        asked: dict[str, Any] = {"render_mode": render_mode} if render_mode else {}  # not every environment takes one
        with quiet_gymnasium():
            return gym.make(env_id, **asked)

    def native(count: int, config: Environment) -> VectorEnv[Any, Any, Any]:  # noqa: ARG001
        return gym.make_vec(env_id, num_envs=count, vectorization_mode="vector_entry_point")

    source = probe(env_id, make, spec.reward_threshold)
    vector = native if _resets_on_the_next_step(spec, native) else None
    return replace(source, native_vector=vector, pool_name=pool.name_of(spec))


def _spec(env_id: str) -> gym.envs.registration.EnvSpec:
    """The registered environment; of `module:Id` the module is imported first, for it registers Id."""
    module, _, name = env_id.rpartition(":")
    if module:
        try:
            with own_code():
                importlib.import_module(module)
        except Exception as error:
            raise UsageError(f"environment {env_id}: '{module}' cannot be imported: {one_line(error)}") from error
    try:
        return gym.spec(name)
    except gym.error.Error:
        atari.register()
        return gym.spec(name)


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


def _unknown(env_id: str, error: Exception) -> str:
    name = env_id.rpartition(":")[2]
    namespace = name.partition("/")[0].lower() if "/" in name else ""
    if namespace in EXTRAS and not any(key.lower().startswith(f"{namespace}/") for key in gym.registry):
        return f"environment {env_id} needs a package that is not installed: {command(EXTRAS[namespace])}"
    if isinstance(error, ImportError):
        return f"environment {env_id}: {error}"
    hint = did_you_mean(name, [known for known, spec in gym.registry.items() if not atari.is_old(spec)])
    return f"no environment '{env_id}'{hint} (troupe envs lists those with tuned settings)"
