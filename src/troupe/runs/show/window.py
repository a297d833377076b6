"""An agent plays in a window."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from troupe.config import UsageError
from troupe.runs.show.frames import RGBImage
from troupe.runs.show.panel import Panel
from troupe.runs.show.play import PlayingAgent, in_real_time, play
from troupe.runs.show.rendering import MakeEnv, open_rendered

MAX_FPS = 60.0
INSTEAD = "use --terminal, or --video FILE.mp4"


def has_display() -> bool:
    """Whether a window could be opened here."""
    return not sys.platform.startswith("linux") or bool({"DISPLAY", "WAYLAND_DISPLAY"} & os.environ.keys())


def show_window(agent: PlayingAgent, make_env: MakeEnv, episodes: int, seed: int) -> list[float]:
    """Plays at the environment's own speed until the window is closed; returns the returns of complete episodes."""
    if not has_display():
        raise UsageError(f"there is no display for a window here; {INSTEAD}")
    returns = []
    with open_rendered(make_env, MAX_FPS) as rendered, _Window(rendered.title) as window:
        panel = Panel.beside(rendered)
        for (state, _, render), show in in_real_time(play(agent, rendered, episodes, seed)):
            if show:
                window.show(panel.compose(render(), state))
            if state.ended:
                returns.append(state.episode_return)
            if window.closed():
                break
    return returns


class _Window:
    """Opens with the first image, which gives its size.

    The display is initialised before: environments that draw with pygame use it as well, and would fail first where
    there is none.
    """

    def __init__(self, title: str):
        self._title = title
        self._screen: Any = None

    def __enter__(self) -> "_Window":
        import pygame

        with _plain_errors(pygame.error):
            pygame.display.init()
        return self

    def show(self, image: RGBImage) -> None:
        import pygame

        with _plain_errors(pygame.error):
            if self._screen is None:
                pygame.display.set_caption(f"troupe watch: {self._title}")
                self._screen = pygame.display.set_mode(image.shape[1::-1])
            pygame.surfarray.blit_array(self._screen, image.swapaxes(0, 1))
            pygame.display.flip()

    def closed(self) -> bool:
        """Whether the window was closed, or Escape or q was pressed."""
        import pygame

        return any(
            event.type == pygame.QUIT or (event.type == pygame.KEYDOWN and event.key in (pygame.K_ESCAPE, pygame.K_q))
            for event in pygame.event.get()
        )

    def __exit__(self, *_: object) -> None:
        import pygame

        pygame.display.quit()


@contextmanager
def _plain_errors(kind: type[Exception]) -> Iterator[None]:
    try:
        yield
    except kind as error:
        raise UsageError(f"no window can be opened here: {error}; {INSTEAD}") from error
