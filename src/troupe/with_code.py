"""The agent and the environment of a run with the code that the run names, for commands that execute it."""

import logging
import os
from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym

from troupe import hints
from troupe.agent import Agent, restored
from troupe.config import UsageError
from troupe.config import replace as replace_settings
from troupe.environments import EnvironmentSource, of_run
from troupe.environments.actions import Actions
from troupe.networks.custom import AnyNetwork, network_of_run
from troupe.networks.user_encoder import ENCODERS
from troupe.runs.store import saved_agent
from troupe.runs.store.saved_agent import SavedAgent
from troupe.runtime import choices
from troupe.user_code import trust


def load_with_code(
    run: str | os.PathLike[str],
    network: AnyNetwork | None = None,
    settings: Collection[str] = trust.EVALUATED,
    *,
    trusted: bool,
    **passed: str | Callable[..., Any] | None,
) -> tuple[Agent, SavedAgent]:
    """The agent as `load` returns it, but with the network and the encoder that the run names, for commands that also
    execute the run's environment; and what it was restored from. `passed` (`env`, `encoder`, `backend`) replaces what
    the run names. Raises UsageError where `settings` name code that is not trusted."""
    saved = saved_agent.read(Path(run), logging.getLogger("troupe").warning)
    saved = replace(saved, config=replace_settings(saved.config, choices.named({}, **passed)))
    given = {hints.CODE[name] for name, value in {**passed, "network": network}.items() if value is not None}
    trust.check(Path(run), saved.config, given, settings, trust=trusted)
    own = network_of_run(saved.path, saved.config, network, trained_with_one=saved.custom_network)
    encoder = None
    if own is None:
        encoder = ENCODERS.of_run(saved.path, saved.config.network.encoder, saved.config.env.files)
    return restored(saved, own, encoder), saved


def environment_of(
    agent: Agent, saved: SavedAgent, env: str | Callable[..., gym.Env[Any, Any]] | None
) -> EnvironmentSource:
    """The environment that a restored agent plays in: its run's, or `env`. Raises UsageError if its spaces are not the
    agent's."""
    source = of_run(saved.path, saved.config.env, env)
    for what, its, known in (
        ("observations", _form(source.packing.space), _form(agent.network.packing.space)),
        ("actions", source.actions.parts, Actions(agent.action_space).parts),
    ):
        if env and its != known:
            raise UsageError(f"env = {source.id}: its {what} are not those that the agent was trained with")
    return source


def _form(space: gym.Space[Any]) -> tuple[Any, ...]:
    return space.shape, space.dtype
