"""Environments by their registered id, or by a callable of the user's, in this program or in a file."""

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import gymnasium as gym
from gymnasium.vector import AutoresetMode, VectorEnv

from troupe.config import Environment, UsageError, signatures
from troupe.config.signatures import Parameters, parameters_of
from troupe.environments.checks.contract import OLD_INTERFACE
from troupe.environments.checks.quiet import quiet_gymnasium
from troupe.environments.lookup.ids import lookup
from troupe.environments.lookup.probe import probe
from troupe.environments.lookup.wrappers import wrapping
from troupe.environments.source import EnvironmentSource
from troupe.environments.stepping import atari, pool
from troupe.user_code.files import unwrapped
from troupe.user_code.guard import user_code

Env = gym.Env[Any, Any]
_UNEXPECTED = re.compile(r"unexpected keyword argument '(\w+)'")
_TABLE = "env.kwargs"


def from_factory(
    name: str, factory: Callable[..., Env], options: Environment, texts: Collection[str] = ()
) -> EnvironmentSource:
    """`options` holds the factory's arguments, wrappers and time limit; see `find` for `texts`."""
    parameters = parameters_of(unwrapped(factory))

    def build(_: Environment | None, *, render_mode: str | None = None, **values: Any) -> Env:
        env: object = factory(**values, **({"render_mode": render_mode} if parameters.takes_mode else {}))
        if not isinstance(env, gym.Env):
            old = f"; {OLD_INTERFACE}" if hasattr(env, "reset") and hasattr(env, "step") else ""
            raise UsageError(f"environment {name}: the factory returned {type(env).__name__}, not a gymnasium.Env{old}")
        return env

    values, plain = _fill(name, parameters, options.kwargs, texts)
    return replace(_probed(name, build, parameters, options, values), kwargs=plain)


def from_registry(env_id: str, options: Environment, texts: Collection[str] = ()) -> EnvironmentSource:
    """`options` holds the arguments, wrappers and time limit; see `find` for `texts`."""
    spec = lookup(env_id)
    parameters = _parameters(spec.entry_point, spec.kwargs)
    if is_game := atari.is_game(spec):
        known = {name: each for name, each in parameters.known.items() if name in atari.ARGUMENTS}
        parameters = Parameters(known, open=False)
    changed = tuple(name for name in ("kwargs", "wrappers", "max_steps") if getattr(options, name))
    values, plain = _fill(env_id, parameters, options.kwargs, texts)

    def build(config: Environment | None, **asked: Any) -> Env:
        # -1 removes the registered time limit: `wrapping` puts its own around the wrappers.
        limit: dict[str, Any] = {"max_episode_steps": -1} if options.max_steps else {}
        if is_game:
            return atari.single(env_id, config, **asked, **limit)
        return gym.make(lookup(env_id), **asked, **limit)

    def native(count: int, config: Environment) -> VectorEnv[Any, Any, Any]:  # noqa: ARG001
        limit: dict[str, Any] = {"max_episode_steps": options.max_steps} if options.max_steps else {}
        mode = "vector_entry_point"
        return gym.make_vec(lookup(env_id), num_envs=count, vectorization_mode=mode, **values, **limit)

    # The registered threshold holds only for the environment as registered.
    source = _probed(env_id, build, parameters, options, values, None if changed else spec.reward_threshold)
    source = replace(source, kwargs=plain, changed=changed)
    if is_game:
        batch = None if changed else partial(atari.batch, spec.kwargs["game"])
        return replace(source, native_vector=batch, atari=True)
    takes_options = not source.left_out and _native_takes(spec, options)
    vector = native if takes_options and _resets_on_the_next_step(spec, native) else None
    return replace(source, native_vector=vector, pool_name="" if changed else pool.name_of(spec))


def _probed(
    name: str,
    build: Callable[..., Env],
    parameters: Parameters,
    options: Environment,
    values: Mapping[str, Any],
    threshold: float | None = None,
) -> EnvironmentSource:
    """`build(config, render_mode=, **values)` makes one without its wrappers; without a `render_mode` where none is
    asked for, as not every environment takes one."""
    wrap = wrapping(options)

    def make(render_mode: str | None = None, config: Environment | None = None) -> Env:
        with quiet_gymnasium():
            return wrap(build(config, **values, **({"render_mode": render_mode} if render_mode else {})))

    with _naming_unexpected(name, parameters, values), quiet_gymnasium():
        return probe(name, make, threshold, options.ignore)


def _fill(
    env_id: str, parameters: Parameters, given: Mapping[str, Any], texts: Collection[str]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The environment's arguments out of `given`: see `signatures.fill`."""
    if "render_mode" in given:
        raise UsageError("env.kwargs.render_mode: it is set by what renders it (troupe watch); leave it out")
    if "max_episode_steps" in given and "max_episode_steps" not in parameters.known and not parameters.open:
        raise _not_taken(env_id, parameters, "max_episode_steps")
    return signatures.fill(f"environment {env_id}", _TABLE, parameters, given, texts, passed=["render_mode"])


@contextmanager
def _naming_unexpected(env_id: str, parameters: Parameters, given: Collection[str]) -> Iterator[None]:
    """Names the argument in `given` that the environment does not take, if that is why it could not be made."""
    try:
        yield
    except UsageError as error:
        match = _UNEXPECTED.search(str(error.__cause__)) if isinstance(error.__cause__, TypeError) else None
        if match and match[1] in given:
            raise _not_taken(env_id, parameters, match[1]) from None
        raise


def _not_taken(env_id: str, parameters: Parameters, name: str) -> UsageError:
    if name == "max_episode_steps":
        return UsageError("env.kwargs.max_episode_steps: a time limit is set by --env.max_steps")
    return signatures.not_taken(f"environment {env_id}", _TABLE, parameters, name, hidden=["render_mode"])


def _parameters(entry_point: Any, defaults: Mapping[str, Any]) -> Parameters:
    """The parameters of an entry point; open if it cannot be imported, as making it will raise the error."""
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
    """Whether the environment's own vector version exists, can be made, and resets as rollouts expect."""
    if spec.vector_entry_point is None:
        return False
    try:
        with quiet_gymnasium(), user_code():
            vector = native(1, Environment())
    except Exception:  # it needs other packages (JAX): the Python version is used
        return False
    mode = vector.metadata.get("autoreset_mode")
    vector.close()
    return mode == AutoresetMode.NEXT_STEP
