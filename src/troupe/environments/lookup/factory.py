"""Environments made by a callable of the user, in this program or in a file."""

from collections.abc import Callable, Collection
from dataclasses import replace
from typing import Any

import gymnasium as gym

from troupe.config import Environment, UsageError
from troupe.config.signatures import parameters_of
from troupe.environments.checks.contract import OLD_INTERFACE
from troupe.environments.lookup.arguments import fill, naming_unexpected
from troupe.environments.lookup.probe import probe
from troupe.environments.lookup.wrappers import wrapping
from troupe.environments.source import EnvironmentSource
from troupe.user_code.files import unwrapped


def from_factory(
    name: str, factory: Callable[..., gym.Env[Any, Any]], options: Environment, texts: Collection[str] = ()
) -> EnvironmentSource:
    """`options` holds the factory's arguments, wrappers and time limit; see `find` for `texts`."""
    parameters = parameters_of(unwrapped(factory))
    values, plain = fill(name, parameters, options.kwargs, texts)
    wrap, takes_mode = wrapping(options), parameters.takes_mode

    def make(render_mode: str | None = None, config: Environment | None = None) -> gym.Env[Any, Any]:  # noqa: ARG001
        env: object = factory(**values, **({"render_mode": render_mode} if takes_mode else {}))
        if not isinstance(env, gym.Env):
            old = f"; {OLD_INTERFACE}" if hasattr(env, "reset") and hasattr(env, "step") else ""
            raise UsageError(f"environment {name}: the factory returned {type(env).__name__}, not a gymnasium.Env{old}")
        return wrap(env)

    with naming_unexpected(name, parameters, values):
        return replace(probe(name, make, ignore=options.ignore), kwargs=plain)
