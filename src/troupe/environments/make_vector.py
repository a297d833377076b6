"""`troupe.make_vector`: the environments that a run would play in, as Gymnasium's vector environment."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import gymnasium as gym
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv

from troupe.config import UsageError, checked, one_line, resolve
from troupe.environments.checks.quiet import quiet_gymnasium
from troupe.environments.lookup.find import settle
from troupe.environments.source import name_of
from troupe.user_code.guard import user_code


@checked
@quiet_gymnasium()
def make_vector(
    env: str | Callable[..., gym.Env[Any, Any]],
    num_envs: int = 1,
    *,
    settings: Mapping[str, Any] | None = None,
    env_kwargs: Mapping[str, Any] | None = None,
) -> VectorEnv[Any, Any, Any]:
    """`num_envs` environments that step together, found, configured and wrapped as for `train`, which resolves `env`,
    `settings` ("env.max_steps": 200) and `env_kwargs` alike.

    An environment is reset on the step after its episode's end (`AutoresetMode.NEXT_STEP`). Rewards are the
    environment's own. Raises UsageError.
    """
    config, source = settle(resolve(name_of(env), settings=settings), env, env_kwargs)
    source.check(config.env)
    if source.is_native(config.env):
        return source.make_vector(num_envs, config.env).vector
    try:
        with user_code():
            makers = [partial(source.make, config=config.env)] * num_envs
            return SyncVectorEnv(makers, autoreset_mode=AutoresetMode.NEXT_STEP)
    except Exception as error:
        raise UsageError(f"environment {source.id} cannot be made {num_envs} times: {one_line(error)}") from error
