"""Arguments of an environment (`env.kwargs`): which it takes, and which are set elsewhere."""

import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from troupe.config import UsageError, signatures
from troupe.config.signatures import Parameters

_UNEXPECTED = re.compile(r"unexpected keyword argument '(\w+)'")
_TABLE = "env.kwargs"


def fill(
    env_id: str, parameters: Parameters, given: Mapping[str, Any], texts: Collection[str]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The environment's arguments out of `given`: see `signatures.fill`."""
    if "render_mode" in given:
        raise UsageError("env.kwargs.render_mode: it is set by what shows the environment (troupe watch); leave it out")
    if "max_episode_steps" in given and "max_episode_steps" not in parameters.known and not parameters.open:
        raise _not_taken(env_id, parameters, "max_episode_steps")
    return signatures.fill(f"environment {env_id}", _TABLE, parameters, given, texts, passed=["render_mode"])


@contextmanager
def naming_unexpected(env_id: str, parameters: Parameters, given: Collection[str]) -> Iterator[None]:
    """Names the argument among `given` that the environment does not take, if that is why it could not be made."""
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
