"""An agent at play in a window."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from troupe.config import UsageError
from troupe.runs.show.frames import Picture
from troupe.runs.show.panel import Panel
from troupe.runs.show.play import MakeEnv, Player, in_real_time, opened, play

FASTEST = 60.0  # pictures per second
INSTEAD = "use --terminal, or --video FILE.mp4"


def has_display() -> bool:
    """Whether a window could be opened here."""
    return not sys.platform.startswith("linux") or bool({"DISPLAY", "WAYLAND_DISPLAY"} & os.environ.keys())


def show_window(agent: Player, make_env: MakeEnv, episodes: int, seed: int) -> list[float]:
    """Plays at the environment's own speed until the window is closed; gives the returns of the whole episodes."""
    if not has_display():
        raise UsageError(f"there is no display for a window here; {INSTEAD}")
    returns = []
    with opened(make_env, FASTEST) as stage, _Window(stage.title) as window:
        panel = Panel(stage.title, stage.actions, stage.pixel_aspect)
        for (moment, _, picture), show in in_real_time(play(agent, stage, episodes, seed)):
            if show:
                window.show(panel.compose(picture(), moment))
            if moment.ended:
                returns.append(moment.total)
            if window.closed():
                break
    return returns


class _Window:
    """Opens with the first picture, which gives its size. The display is taken before: environments that draw
    with pygame want it too, and would be the first to find that there is none.
    """

    def __init__(self, title: str):
        self._title = title
        self._screen: Any = None

    def __enter__(self) -> "_Window":
        import pygame

        with _in_plain_words(pygame.error):
            pygame.display.init()
        return self

    def show(self, picture: Picture) -> None:
        import pygame

        with _in_plain_words(pygame.error):
            if self._screen is None:
                pygame.display.set_caption(f"troupe watch: {self._title}")
                self._screen = pygame.display.set_mode(picture.shape[1::-1])
            pygame.surfarray.blit_array(self._screen, picture.swapaxes(0, 1))
            pygame.display.flip()

    def closed(self) -> bool:
        """Whether the person closed the window or pressed Escape or q."""
        import pygame

        return any(
            event.type == pygame.QUIT or (event.type == pygame.KEYDOWN and event.key in (pygame.K_ESCAPE, pygame.K_q))
            for event in pygame.event.get()
        )

    def __exit__(self, *_: object) -> None:
        import pygame

        pygame.display.quit()


@contextmanager
def _in_plain_words(kind: type[Exception]) -> Iterator[None]:
    try:
        yield
    except kind as error:
        raise UsageError(f"no window can be opened here: {error}; {INSTEAD}") from error
