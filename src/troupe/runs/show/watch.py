"""`troupe.watch`: shows a run's agent in a window, in the terminal or as a video."""

import os
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym

from troupe import safe_files
from troupe.config import checked
from troupe.environments import quiet_gymnasium
from troupe.networks.custom import AnyNetwork
from troupe.runs.show import window
from troupe.runs.show.terminal import show_terminal
from troupe.runs.show.video import record
from troupe.runs.show.window import show_window
from troupe.torch_threads import one_torch_thread
from troupe.with_code import environment_of, load_with_code


@checked
def watch(
    run: str | os.PathLike[str],
    *,
    env: str | Callable[..., gym.Env[Any, Any]] | None = None,
    network: AnyNetwork | None = None,
    encoder: str | Callable[..., Any] | None = None,
    backend: str | Callable[..., Any] | None = None,
    episodes: int = 3,
    seed: int = 0,
    video: str | os.PathLike[str] | None = None,
    terminal: bool = False,
    trust: bool = False,
) -> list[float]:
    """Shows episodes of the agent of a run directory, a checkpoint or a file (as `load`); returns their returns.

    They are shown in a window, in the terminal, or in `video`, an .mp4 or .gif that is written; where there is no
    display for a window, in videos/agent.mp4 of the run directory. `env`, `network`, `encoder` and `backend` are needed
    only if the run was trained with callables passed from Python; those of files it finds by name. Files and modules
    that you have not trained with are imported only with `trust` (SECURITY.md).
    """
    instead = None if video or terminal else video_without_display(Path(run))
    passed = {"network": network, "encoder": encoder, "backend": backend}
    returns = show(run, env, passed, episodes, seed, video or instead, terminal=terminal, trust=trust)
    if instead:
        print(f"wrote {instead}")
    return returns


@quiet_gymnasium()
def show(
    run: str | os.PathLike[str],
    env: str | Callable[..., gym.Env[Any, Any]] | None,
    passed: Mapping[str, Any],
    episodes: int,
    seed: int,
    video: str | os.PathLike[str] | None,
    *,
    terminal: bool,
    trust: bool,
) -> list[float]:
    """As `watch`, with its callables in `passed`, but raises UsageError where there is no display for a window."""
    agent, saved = load_with_code(run, trusted=trust, env=env, **passed)
    make = partial(environment_of(agent, saved, env).make, config=saved.config.env)
    # One thread: for single observations, several would only wait for one another.
    with one_torch_thread():
        if video:
            return record(agent, make, Path(video), episodes, seed)
        if terminal:
            return show_terminal(agent, make, episodes, seed, sys.stdout)
        return show_window(agent, make, episodes, seed)


def video_without_display(run: Path) -> Path | None:
    """The video in the run directory that is written where no window can be opened; None where one can."""
    if window.has_display():
        return None
    if not (run / "config.toml").is_file():  # a checkpoint, or an agent's file
        return Path("agent.mp4")
    return safe_files.folder(run / "videos") / "agent.mp4"
