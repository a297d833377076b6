"""Makes an environment once and plays one step, to learn its spaces and to check its interface."""

import logging
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np

from troupe.config import Environment, UsageError, one_line
from troupe.environments.checks.contract import Conforming, ContractError, WrongEnvironment
from troupe.environments.checks.observations import Limits, misfit
from troupe.environments.layers import never_truncates, no_time_limit, time_limit, unwise_wrappers
from troupe.environments.lookup import packages
from troupe.environments.packing import MaskSource
from troupe.environments.readable import Reduced, reduced
from troupe.environments.source import EnvironmentSource
from troupe.environments.spaces import MASK, Space
from troupe.environments.stepping.closing import close_in_time
from troupe.user_code.guard import user_code

SLOW_SECONDS = 10.0  # a call that takes longer is reported


def probe(
    name: str, make: Callable[..., gym.Env[Any, Any]], threshold: float | None = None, ignore: Sequence[str] = ()
) -> EnvironmentSource:
    """Makes one environment to learn its spaces and its time limit, and plays one step to check what it returns.

    Entries of its observation that no network reads, or that `ignore` names, are left out. Raises UsageError in one
    line.
    """
    try:
        with _named_if_slow(name, "making it"), user_code():
            env = make()
    except UsageError:
        raise
    except (gym.error.DependencyNotInstalled, ImportError) as error:
        raise UsageError(packages.missing(name, error)) from None
    except Exception as error:
        raise UsageError(f"environment {name} cannot be made: {one_line(error)}") from error
    try:
        return _describe(name, make, env, reduced(env.observation_space, ignore), threshold)
    finally:
        close_in_time(env.close, name)


def _describe(
    name: str,
    make: Callable[..., gym.Env[Any, Any]],
    env: gym.Env[Any, Any],
    seen: Reduced,
    threshold: float | None,
) -> EnvironmentSource:
    if getattr(env.unwrapped, "ale", None) is not None:  # conforms to the interface, and is slow to start
        return EnvironmentSource(
            name, make, seen.space, env.action_space, reward_threshold=threshold, time_limit=time_limit(env)
        )
    space = None if seen.whole else seen.space
    made, env = env, Conforming(env, space)
    obs, info = _asked(name, "reset", lambda: env.reset(seed=0))
    masked: MaskSource = "info" if MASK in info else ""
    if isinstance(seen.space, gym.spaces.Dict) and MASK in seen.space.spaces:
        masked = "observation"
    source = EnvironmentSource(
        name,
        partial(_conforming, make, space),
        seen.space,
        env.action_space,
        masked,
        threshold,
        left_out=tuple(leaf.dotted for leaf in (*seen.ignored, *seen.unreadable)),
        notices=(*seen.notices, *unwise_wrappers(made)),
        time_limit=time_limit(made),
    )

    def act(obs: Any, info: Any) -> Any:
        return source.random_action(np.random.default_rng(0), obs, info)

    try:
        action = act(obs, info)
    except (AttributeError, ValueError) as error:
        raise WrongEnvironment(f"environment {name}, first reset: {MASK} {error}") from None
    _check(source, "reset", obs)
    obs, reward, *_ = _asked(name, "step", lambda: env.step(action))
    _check(source, "step", obs)
    if not np.isfinite(reward):
        raise WrongEnvironment(f"environment {name}, first step: the reward is {reward}, expected a finite number")
    if source.time_limit is None and never_truncates(env, act):
        source = replace(source, notices=(*source.notices, no_time_limit(name)))
    return source


def _conforming(
    make: Callable[..., gym.Env[Any, Any]],
    space: Space | None,
    render_mode: str | None = None,
    config: Environment | None = None,
) -> gym.Env[Any, Any]:
    return Conforming(make(render_mode, config), space)


@contextmanager
def _named_if_slow(name: str, verb: str) -> Iterator[None]:
    """Logs a slow call: before a run begins, nothing else would show that an environment blocks."""
    text = f"environment {name}: {verb} has not returned after {SLOW_SECONDS:g} s; still waiting (Ctrl-C gives up)"
    timer = threading.Timer(SLOW_SECONDS, logging.getLogger("troupe").warning, [text])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _asked(name: str, verb: str, ask: Callable[[], Any]) -> Any:
    try:
        with _named_if_slow(name, verb), user_code():
            return ask()
    except ContractError as error:
        raise WrongEnvironment(f"environment {name}: {error}") from None
    except Exception as error:
        if verb == "reset" and isinstance(error, TypeError) and re.search(r"unexpected keyword argument", str(error)):
            raise WrongEnvironment(
                f"environment {name}: reset does not take the arguments that Gymnasium passes: expected "
                f"reset(self, *, seed=None, options=None), found {one_line(error)}"
            ) from error
        raise WrongEnvironment(f"environment {name}: {verb} raised {one_line(error)}") from error


def _check(source: EnvironmentSource, verb: str, obs: Any) -> None:
    """Raises UsageError for an observation that does not fit its space or is not finite."""
    where = f"environment {source.id}, first {verb}"
    if wrong := misfit(source.packing.leaves, obs):
        raise WrongEnvironment(f"{where}: {wrong}")
    for leaf in source.packing.leaves:
        if wrong_value := Limits(leaf).unfit(np.asarray(leaf.of(obs), leaf.space.dtype)[None]):
            raise WrongEnvironment(f"{where}: the observation{leaf.name} {wrong_value[1]}")
