"""Environments that are shown: what is known of them, and how they are made and closed."""

import os
from types import SimpleNamespace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from troupe import TroupeError, UsageError
from troupe.runs.show import rendering
from troupe.runs.show.rendering import RenderedEnv, open_rendered, without_display


class Bare(gym.Env[Any, Any]):
    metadata: dict[str, Any] = {"render_modes": ["rgb_array"]}  # noqa: RUF012
    observation_space, action_space = gym.spaces.Box(-1, 1, (1,)), gym.spaces.Discrete(3)

    def __init__(self, render_mode: str | None = "rgb_array"):
        self.render_mode, self.closed = render_mode, False

    def close(self) -> None:
        self.closed = True


class Emulator(Bare):
    def __init__(self, frame_skip: Any = 4):
        super().__init__()
        self.ale, self._frameskip = SimpleNamespace(), frame_skip


def test_what_states_no_speed_has_thirty_frames_a_second_and_square_pixels():
    shown = RenderedEnv(Bare(), 60)
    assert (shown.title, shown.fps, shown.pixel_aspect, shown.stride, shown.shown_fps) == ("Bare", 30.0, 1.0, 1, 30.0)
    assert (shown.first_action, shown.action_names) == (0, ())
    assert not shown.camera._flickers


@pytest.mark.parametrize(
    ("base", "wrapper", "fps"), [(50, None, 50.0), (50, 20, 50.0), (None, 20, 20.0), (0, None, 30.0)]
)
def test_the_speed_is_that_of_the_environment_itself_or_else_of_its_wrapper(base, wrapper, fps):
    env = Bare()
    env.metadata = {"render_fps": base}
    outer = gym.Wrapper(env)
    outer.metadata = {"render_fps": wrapper}
    shown = RenderedEnv(outer, 25)
    assert shown.fps == fps
    assert shown.stride == {50.0: 2, 20.0: 1, 30.0: 2}[fps]
    assert shown.shown_fps == fps / shown.stride


@pytest.mark.parametrize(
    ("skip", "most", "fps", "stride", "flickers"),
    [(4, 60, 15.0, 1, False), (1, 60, 60.0, 2, True), (1, 20, 60.0, 3, True), ((2, 5), 60, 60 / 3.5, 1, False),
     (2, 25, 30.0, 2, False), (1, 30, 60.0, 2, True)],
)  # fmt: skip
def test_an_emulator_has_sixty_frames_a_second_less_those_it_skips_and_of_all_thirty_are_shown(
    skip, most, fps, stride, flickers
):
    shown = RenderedEnv(Emulator(skip), most)
    assert (shown.fps, shown.stride, shown.camera._flickers) == (fps, stride, flickers)
    assert shown.pixel_aspect == 12 / 7


def test_the_camera_is_below_all_wrappers():
    env = Bare()
    inner = gym.Wrapper(env)
    outer = gym.Wrapper(inner)
    shown = RenderedEnv(outer, 60)
    assert shown.env is outer
    assert inner.env is shown.camera
    assert shown.camera.env is env
    alone = RenderedEnv(env, 60)
    assert alone.env is alone.camera
    assert alone.camera.env is env


@pytest.mark.parametrize(
    ("name", "actions"),
    [("CartPole-v1", ("left", "right")), ("LunarLanderContinuous-v3", ("main", "sideways")), ("Nowhere-v0", ())],
)
def test_actions_of_well_known_environments_have_names(name, actions):
    env = Bare()
    env.spec = SimpleNamespace(id=name)  # type: ignore[assignment]
    shown = RenderedEnv(env, 60)
    assert (shown.title, tuple(shown.action_names)) == (name, actions)


def test_every_known_name_is_of_an_environment_with_as_many_actions():
    for name, words in rendering._ACTIONS.items():
        found = [each for each in gym.registry if each.partition("-")[0] == name]
        assert found, name
        try:
            env = gym.make(sorted(found)[-1])
        except gym.error.DependencyNotInstalled:
            continue
        space = env.action_space
        assert len(words) == (space.n if isinstance(space, gym.spaces.Discrete) else int(np.prod(space.shape))), name
        assert all(word == word.strip().lower() for word in words)
        env.close()


def test_actions_that_an_environment_names_are_told_apart_word_by_word():
    env = Bare()
    env.get_action_meanings = lambda: ["UPLEFTFIRE", "Go there", 7, "a\nb"]  # type: ignore[attr-defined]
    env.action_space = gym.spaces.Discrete(4, start=2)
    shown = RenderedEnv(env, 60)
    assert shown.action_names == ["up left fire", "go there", "7", "a b"]
    assert shown.first_action == 2
    assert rendering.action_name(shown.action_names, 3) == "a b"
    assert rendering.action_name(shown.action_names, 4) == "action 4"


@pytest.mark.parametrize(("error", "told"), [(ValueError(), "ValueError"), (OSError("no\nway"), "no")])
def test_what_rendering_raises_is_told_in_a_line(error, told):
    def render() -> Any:
        raise error

    env = Bare()
    env.render = render  # type: ignore[method-assign]
    with pytest.raises(TroupeError, match=rf"^Bare could not render: {told}$"):
        RenderedEnv(env, 60).render()


def test_an_environment_is_asked_for_images_and_closed_whatever_happens():
    made: list[Bare] = []

    def make(mode: str) -> Bare:
        assert mode == "rgb_array"
        made.append(Bare(mode))
        return made[-1]

    with open_rendered(make, 60) as shown:
        assert shown.camera.env is made[0]
        assert not made[0].closed
    with pytest.raises(KeyError), open_rendered(make, 60):
        raise KeyError
    assert [each.closed for each in made] == [True, True]


@pytest.mark.parametrize(
    ("modes", "mode", "refused"),
    [
        (["rgb_array", "human"], None, ""),
        ([], "rgb_array", ""),  # it does not say so, but does
        (["human", "ansi"], None, "Bare cannot be shown: it offers render modes human, ansi ('rgb_array' is needed)"),
        (None, None, "Bare cannot be shown: it offers no render modes ('rgb_array' is needed)"),
    ],
)
def test_what_renders_no_images_is_refused_with_what_it_renders_and_closed(modes, mode, refused):
    env = Bare(mode)
    env.metadata = {"render_modes": modes}
    if not refused:
        with open_rendered(lambda _: env, 60):
            pass
    else:
        with pytest.raises(UsageError) as caught, open_rendered(lambda _: env, 60):
            pass
        assert str(caught.value) == refused
    assert env.closed


def test_an_error_of_the_making_is_only_taken_for_a_missing_mode_if_it_names_it():
    def other(mode: str) -> Any:
        raise TypeError("no such maze")

    with pytest.raises(TypeError, match="no such maze"), open_rendered(other, 60):
        pass


@pytest.mark.parametrize("before", [None, "x11"])
def test_no_display_is_looked_for_meanwhile(before, monkeypatch):
    monkeypatch.delenv("SDL_VIDEODRIVER", raising=False)
    if before:
        monkeypatch.setenv("SDL_VIDEODRIVER", before)
    with without_display():
        assert os.environ["SDL_VIDEODRIVER"] == "dummy"
    assert os.environ.get("SDL_VIDEODRIVER") == before
    with pytest.raises(KeyError), without_display():
        raise KeyError
    assert os.environ.get("SDL_VIDEODRIVER") == before
