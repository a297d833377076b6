"""Environments by their registered id."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import gymnasium as gym
from gymnasium.vector import AutoresetMode, VectorEnv

from troupe.config import Environment
from troupe.config.signatures import Parameters, parameters_of
from troupe.environments.checks.quiet import quiet_gymnasium
from troupe.environments.lookup.arguments import fill, naming_unexpected
from troupe.environments.lookup.ids import lookup
from troupe.environments.lookup.probe import probe
from troupe.environments.lookup.wrappers import wrapping
from troupe.environments.source import EnvironmentSource
from troupe.environments.stepping import atari, pool
from troupe.user_code.guard import user_code


def from_registry(env_id: str, options: Environment, texts: Collection[str] = ()) -> EnvironmentSource:
    """`options` holds the arguments, wrappers and time limit; see `find` for `texts`."""
    spec = lookup(env_id)
    parameters = _parameters(spec.entry_point, spec.kwargs)
    if atari.is_game(spec):
        known = {name: each for name, each in parameters.known.items() if name in atari.ARGUMENTS}
        parameters = Parameters(known, open=False)
    changed = tuple(name for name in ("kwargs", "wrappers", "max_steps") if getattr(options, name))
    values, plain = fill(env_id, parameters, options.kwargs, texts)
    one = partial(atari.single if atari.is_game(spec) else _single, env_id)
    # -1 takes the registered time limit away, for `wrap` puts its own around the wrappers.
    asked = values | ({"max_episode_steps": -1} if options.max_steps else {})
    wrap = wrapping(options)

    def make(render_mode: str | None = None, config: Environment | None = None) -> gym.Env[Any, Any]:
        mode = {"render_mode": render_mode} if render_mode else {}  # not every environment takes one
        with quiet_gymnasium():
            return wrap(one(config, **asked, **mode))

    def native(count: int, config: Environment) -> VectorEnv[Any, Any, Any]:  # noqa: ARG001
        limit: dict[str, Any] = {"max_episode_steps": options.max_steps} if options.max_steps else {}
        mode = "vector_entry_point"
        return gym.make_vec(lookup(env_id), num_envs=count, vectorization_mode=mode, **values, **limit)

    with naming_unexpected(env_id, parameters, values), quiet_gymnasium():
        # The registered threshold is of the registered environment.
        source = probe(env_id, make, None if changed else spec.reward_threshold, options.ignore)
    source = replace(source, kwargs=plain, changed=changed)
    if atari.is_game(spec):
        batch = None if changed else partial(atari.batch, spec.kwargs["game"])
        return replace(source, native_vector=batch, atari=True)
    takes_options = not source.left_out and _native_takes(spec, options)
    vector = native if takes_options and _resets_on_the_next_step(spec, native) else None
    return replace(source, native_vector=vector, pool_name="" if changed else pool.name_of(spec))


def _single(env_id: str, _: Environment | None = None, **asked: Any) -> gym.Env[Any, Any]:
    return gym.make(lookup(env_id), **asked)


def _parameters(entry_point: Any, defaults: Mapping[str, Any]) -> Parameters:
    """What an entry point takes; open where it cannot be imported, for the error of making it says why."""
    try:
        creator = gym.envs.registration.load_env_creator(entry_point) if isinstance(entry_point, str) else entry_point
        return parameters_of(creator, defaults) if creator else Parameters({}, open=True)
    except Exception:
        return Parameters({}, open=True)


def _native_takes(spec: gym.envs.registration.EnvSpec, options: Environment) -> bool:
    """Whether the environment's own vector version takes the arguments and the time limit; it takes no wrappers."""
    asked = {*options.kwargs, *(["max_episode_steps"] if options.max_steps else [])}
    takes_all = not asked or asked <= _parameters(spec.vector_entry_point, {}).known.keys()
    return takes_all and not options.wrappers


def _resets_on_the_next_step(spec: Any, native: Callable[[int, Environment], VectorEnv[Any, Any, Any]]) -> bool:
    """Whether the environment's own vector version exists, can be made, and keeps the rollout contract."""
    if spec.vector_entry_point is None:
        return False
    try:
        with quiet_gymnasium(), user_code():
            vector = native(1, Environment())
    except Exception:  # it needs packages that are not ours (JAX): the Python version serves
        return False
    mode = vector.metadata.get("autoreset_mode")
    vector.close()
    return mode == AutoresetMode.NEXT_STEP
