"""The window, on a display that SDL only pretends to have."""

import sys

import numpy as np
import pytest

from troupe.config import UsageError
from troupe.runs.show import window


@pytest.fixture(autouse=True)
def _display(monkeypatch):
    monkeypatch.setenv("DISPLAY", ":99")
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")


def test_whole_episodes_are_played_with_the_panel_beside(balancing, cartpole, monkeypatch):
    import pygame

    shown = []

    def flip():
        shown.append(pygame.surfarray.array3d(pygame.display.get_surface()).swapaxes(0, 1))

    monkeypatch.setattr(pygame.display, "flip", flip)
    assert window.show_window(balancing(), cartpole, episodes=1, seed=0) == [12.0]
    assert len(shown) > 2
    assert shown[0].shape == (400, 878, 3)
    assert (shown[0][:100, :600] > 240).all()
    assert (shown[0][-10:, 610:] < 60).all()
    assert not pygame.display.get_init()


def test_closing_it_ends_quietly(balancing, cartpole):
    class Closing(balancing):
        def act(self, observation):
            import pygame

            pygame.event.post(pygame.event.Event(pygame.QUIT))
            return super().act(observation)

    assert window.show_window(Closing(), cartpole, episodes=1, seed=0) == []


def test_escape_and_q_close_it_and_other_keys_do_not():
    import pygame

    with window._Window("Pong") as opened:
        opened.show(np.zeros((20, 30, 3), np.uint8))
        for event, key, closes in (
            (pygame.KEYDOWN, pygame.K_ESCAPE, True), (pygame.KEYDOWN, pygame.K_q, True), (pygame.QUIT, None, True),
            (pygame.KEYDOWN, pygame.K_w, False), (pygame.KEYUP, pygame.K_q, False),
        ):  # fmt: skip
            assert not opened.closed()
            pygame.event.post(pygame.event.Event(event, key=key))
            assert opened.closed() == closes


def test_it_has_the_environments_name_and_its_frames_stay_as_they_were_drawn():
    import pygame

    image = np.arange(30 * 20 * 3).reshape(30, 20, 3).astype(np.uint8)
    with window._Window("Pong") as opened:
        opened.show(image)
        first = pygame.display.get_surface()
        assert pygame.display.get_caption()[0] == "troupe watch: Pong"
        assert (pygame.surfarray.array3d(first).swapaxes(0, 1) == image).all()
        opened.show(image[::-1])
        assert pygame.display.get_surface() is first
        assert (pygame.surfarray.array3d(first).swapaxes(0, 1) == image[::-1]).all()
        assert not opened.closed()
    assert not pygame.display.get_init()


def test_a_display_that_does_not_answer_is_a_plain_line(balancing, cartpole, monkeypatch):
    monkeypatch.setenv("SDL_VIDEODRIVER", "nonesuch")
    with pytest.raises(UsageError, match=r"no window can be opened here: .*; use --terminal"):
        window.show_window(balancing(), cartpole, episodes=1, seed=0)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="elsewhere there is always a display")
def test_no_display_is_a_plain_line(balancing, cartpole, monkeypatch):
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    with pytest.raises(UsageError, match="no display for a window here; use --terminal, or --video"):
        window.show_window(balancing(), cartpole, episodes=1, seed=0)
