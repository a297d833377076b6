"""Environment backends, which make batches of environments: native, EnvPool, Python, or the user's.

A backend of the user's is a callable, passed from Python or named by its file (docs/extending.md).
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv

from troupe.config import Environment, UsageError, one_line, signatures
from troupe.environments.source import Backend, EnvironmentSource
from troupe.environments.stepping import atari, pool
from troupe.environments.stepping.closing import close_in_time
from troupe.environments.stepping.vector import EnvironmentFailed, VectorEnvironment
from troupe.extras import command
from troupe.user_code.choices import Choice
from troupe.user_code.files import unwrapped
from troupe.user_code.guard import user_code

BACKENDS = Choice("backend", "env.backend", if_changed="it may step another environment than the agent was trained in")
VectorMaker = Callable[..., VectorEnv[Any, Any, Any]]


class Native(Backend):
    """The environment's own vector version."""

    name = "native"

    def refusal(self, source: EnvironmentSource, config: Environment) -> str:  # noqa: ARG002
        if source.native_vector is not None:
            return ""
        taking = f" that takes {source.changed_settings}" if source.changed else ""
        return f"{source.id} has no vector version of its own{taking}; use sync"

    def make(self, source: EnvironmentSource, count: int, config: Environment) -> VectorEnvironment:
        assert source.native_vector is not None
        kind = atari.AtariEnvironment if source.atari else VectorEnvironment
        return source.wrapped(source.native_vector(count, config), config, kind)


class Sync(Backend):
    """Environments in Python, one after another."""

    name = "sync"
    penalty = 2.0  # its actors are processes, which take seconds to start
    in_python = True

    def make(self, source: EnvironmentSource, count: int, config: Environment) -> VectorEnvironment:
        return source.wrapped(source.sync_vector(count, config), config)


class EnvPool(Backend):
    """EnvPool, if it has the same environment (stepping/pool.py)."""

    name = "envpool"
    penalty = 1.1
    threaded = True
    startup_seconds = 2.0  # its import and the check of its spaces, on a busy machine
    call_seconds = 40e-6

    def available(self, source: EnvironmentSource) -> bool:
        return source.pool_name != "" and pool.installed()

    def refusal(self, source: EnvironmentSource, config: Environment) -> str:  # noqa: ARG002
        if source.changed:
            why = f"EnvPool takes no {source.changed_settings}"
        elif not source.pool_name:
            other = pool.OTHERWISE.get(source.id)
            why = f"{source.id} is not taken from EnvPool: {other}" if other else f"EnvPool has no {source.id}"
        elif not pool.installed():
            return f"EnvPool is not installed: {command('envpool')}"
        else:
            why = pool.refusal(source.pool_name, source.observation_space, source.action_space)
        return f"{why}; use auto" if why else ""

    def make(self, source: EnvironmentSource, count: int, config: Environment) -> VectorEnvironment:
        spaces = source.observation_space, source.action_space
        vector = pool.PoolVector(source.pool_name, count, *spaces, threads=max(1, config.threads))
        return source.wrapped(vector, config, pool.PoolEnvironment)


@dataclass(frozen=True)
class UserBackend(Backend):
    """`make_vector(num_envs, **env.kwargs)` gives a `gymnasium.vector.VectorEnv` of `num_envs` environments that resets
    on the step after an episode's end."""

    name: str
    make_vector: VectorMaker

    def refusal(self, source: EnvironmentSource, config: Environment) -> str:
        refused = ["env.ignore"] if source.left_out else []
        refused += ["env.wrappers"] if config.wrappers else []
        if config.max_steps and "max_episode_steps" not in signatures.parameters_of(unwrapped(self.make_vector)).known:
            refused.append("env.max_steps")
        return f"it takes no {', '.join(refused)}; use sync" if refused else ""

    def make(self, source: EnvironmentSource, count: int, config: Environment) -> VectorEnvironment:
        """Raises UsageError in one line for a batch that cannot be made, or is not of this environment."""
        parameters = signatures.parameters_of(unwrapped(self.make_vector))
        passed = [*list(parameters.known)[:1], "max_episode_steps"]
        arguments, _ = signatures.fill(
            f"backend {BACKENDS.shown(self.name)}", "env.kwargs", parameters, source.kwargs, passed=passed
        )
        limit = {"max_episode_steps": config.max_steps} if config.max_steps else {}
        try:
            with user_code():
                vector = self.make_vector(count, **arguments, **limit)
        except Exception as error:
            raise UsageError(f"env.backend = '{self.name}': making {count} raised {one_line(error)}") from error
        if wrong := _departure(vector, source, count):
            if isinstance(vector, VectorEnv):
                close_in_time(vector.close, source.id)
            raise UsageError(f"env.backend = '{self.name}': it {wrong}")
        return source.wrapped(vector, config)


def _departure(vector: Any, source: EnvironmentSource, count: int) -> str:
    """Why `vector` is not a batch of `count` environments of `source`; "" if it is."""
    if not isinstance(vector, VectorEnv):
        return f"gave {type(vector).__name__}, not a gymnasium.vector.VectorEnv"
    if vector.num_envs != count:
        return f"made {vector.num_envs} environments where {count} were asked for"
    if vector.metadata.get("autoreset_mode") != AutoresetMode.NEXT_STEP:
        return (
            "must reset an environment on the step after its episode's end, and say so: "
            "metadata = {'autoreset_mode': gymnasium.vector.AutoresetMode.NEXT_STEP}"
        )
    for kind in ("observation_space", "action_space"):
        theirs, ours = getattr(vector, f"single_{kind}"), getattr(source, kind)
        if theirs != ours:
            return f"has single_{kind} = {theirs}, the environment {source.id} {kind} = {ours}"
    return ""


_BUILT_IN: tuple[Backend, ...] = (Native(), Sync(), EnvPool())  # the cheapest to try first


def with_backends(source: EnvironmentSource, config: Environment) -> EnvironmentSource:
    """`source` with its backends; if `config` names one of the user's, a batch of it is made, reset and stepped once.

    Raises UsageError where that fails.
    """
    if BACKENDS.is_builtin(config.backend):
        return replace(source, known_backends=_BUILT_IN)
    own = UserBackend(config.backend, BACKENDS.load(config.backend))
    source = replace(source, known_backends=(*_BUILT_IN, own))
    vector = source.make_vector(1, config)
    try:
        obs = vector.reset(np.random.SeedSequence(0))
        vector.step(source.random_actions(np.random.default_rng(0), obs))
    except EnvironmentFailed as error:
        raise UsageError(f"env.backend = '{config.backend}': {error}") from error
    finally:
        close_in_time(vector.close, source.id)
    return source
