"""An agent shown: films, the window and the terminal, with a small environment of our own and CartPole."""

import io
import re
import sys
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from troupe.config import TroupeError, UsageError
from troupe.runs import video

Env = gym.Env[Any, Any]


class Countdown(gym.Env[np.ndarray, int]):
    """Ends after `length` steps, each worth 1; its picture becomes lighter with every step."""

    def __init__(self, render_mode: str | None = None, length: int = 5, size: tuple[int, int] = (41, 61)):
        self.metadata = {"render_modes": ["rgb_array"], "render_fps": 50}
        self.render_mode = render_mode
        self.observation_space = gym.spaces.Box(0.0, 1.0, (1,))
        self.action_space = gym.spaces.Discrete(3)
        self.length, self.size = length, size
        self.rendered = 0
        self.closed = False
        self.seeds: list[int | None] = []

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        self.seeds.append(seed)
        self.step_number = 0
        return np.zeros(1), {}

    def step(self, action: int) -> Any:
        self.step_number += 1
        return np.zeros(1), 1.0, self.step_number == self.length, False, {}

    def render(self) -> Any:
        self.rendered += 1
        return np.full((*self.size, 3), min(20 * self.step_number, 250), np.uint8)

    def close(self) -> None:
        self.closed = True


class Decided:
    def act(self, observation: Any) -> int:
        return 1

    def distribution(self, observation: Any) -> tuple[np.ndarray, float]:
        return np.array([0.25, 0.75, 0.0]), 12.5


class Balancing:
    """Keeps a CartPole up."""

    def act(self, observation: Any) -> int:
        return int(observation[2] + 0.5 * observation[3] > 0)

    def distribution(self, observation: Any) -> tuple[np.ndarray, float]:
        return np.array([0.5, 0.5]), 0.0


def cartpole(mode: str) -> Env:
    return gym.make("CartPole-v1", render_mode=mode, max_episode_steps=12)


def frames_of(file: Path) -> tuple[dict[str, Any], list[np.ndarray]]:
    """What ffmpeg says about the film, and its frames."""
    import imageio_ffmpeg

    reader = imageio_ffmpeg.read_frames(str(file))
    about = next(reader)
    width, height = about["size"]
    return about, [np.frombuffer(frame, np.uint8).reshape(height, width, 3) for frame in reader]


def test_an_mp4_has_every_frame_even_sizes_and_the_environments_speed(tmp_path: Path) -> None:
    env = Countdown(render_mode="rgb_array")
    assert video.record(Decided(), lambda mode: env, tmp_path / "a.mp4", episodes=2, seed=7) == [5.0, 5.0]
    about, frames = frames_of(tmp_path / "a.mp4")
    assert about["codec"] == "h264"
    assert about["pix_fmt"].startswith("yuv420p")
    assert about["fps"] == 50
    assert all(side % 2 == 0 for side in about["size"])
    assert len(frames) == 2 * (5 + 30)  # the last frame of an episode stands for 0.6 s
    assert [round(frame[20:200, 20:200].mean()) for frame in frames[:6]] == pytest.approx(
        [0, 20, 40, 60, 80, 100], abs=4
    )
    assert env.seeds == [7, None]
    assert env.closed


def test_a_gif_leaves_frames_out_and_keeps_the_speed(tmp_path: Path) -> None:
    from PIL import Image

    env = Countdown(render_mode="rgb_array", length=30)
    video.record(Decided(), lambda mode: env, tmp_path / "a.gif", episodes=1, seed=0)
    assert env.rendered == 11  # steps 0, 3, ... 30
    with Image.open(tmp_path / "a.gif") as image:
        durations = []
        for frame in range(image.n_frames):  # type: ignore[attr-defined]
            image.seek(frame)
            durations.append(image.info["duration"])
    assert set(durations[:-1]) <= {60}
    assert sum(durations) == pytest.approx(1200, abs=70)


def test_only_the_finished_film_is_left(tmp_path: Path) -> None:
    class Raising(Decided):
        def act(self, observation: Any) -> int:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        video.record(Raising(), Countdown, tmp_path / "a.mp4", episodes=1, seed=0)
    assert not list(tmp_path.iterdir())
    video.record(Decided(), Countdown, tmp_path / "a.mp4", episodes=1, seed=0)
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]


def test_an_episode_without_an_end_is_left(tmp_path: Path) -> None:
    def endless(mode: str) -> Env:
        return Countdown(mode, length=0)

    assert video.record(Decided(), endless, tmp_path / "a.mp4", 1, 0, max_steps=9) == [9.0]


def test_cartpole_is_filmed(tmp_path: Path) -> None:
    assert video.record(Balancing(), cartpole, tmp_path / "a.mp4", episodes=1, seed=0) == [12.0]
    _, frames = frames_of(tmp_path / "a.mp4")
    assert frames[0].shape[1] == 600
    assert (frames[0][:100] > 240).all()  # CartPole's white sky
    assert (frames[0][-10:, :5] < 60).all()  # the dark strip


def composed(thought: video._Thought, size: tuple[int, int] = (400, 600)) -> np.ndarray:
    moment = video._Moment(0, 3, 12, 12.0, None, False)
    return video._compose(np.zeros((*size, 3), np.uint8), moment, thought)


def test_bars_are_as_long_as_the_probabilities() -> None:
    picture = composed(video._Thought(np.array([0.25, 0.75]), 1.0, ()))
    lit = (picture == (0x56, 0xB4, 0xE9)).all(axis=2).any(axis=0).sum()
    soft = (picture == (0x98, 0xA1, 0xB3)).all(axis=2).sum(axis=1).max()
    assert lit / (lit + soft) == pytest.approx(0.75, abs=0.03)


@pytest.mark.parametrize("actions", [1, 2, 18, 200])
@pytest.mark.parametrize("size", [(210, 160), (3, 5), (401, 1001)])
def test_any_picture_and_any_number_of_actions_can_be_composed(actions: int, size: tuple[int, int]) -> None:
    names = ["upright and fire"] * actions
    picture = composed(video._Thought(np.full(actions, 1 / actions), -1e9, names), size)
    assert picture.shape[0] % 2 == picture.shape[1] % 2 == 0
    assert picture.shape[1] >= 480


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("a.avi", "must end in .mp4 or .gif"),
        ("a", "must end in .mp4 or .gif"),
        ("nowhere/a.mp4", "there is no folder"),
    ],
)
def test_a_file_that_cannot_be_written_is_told_before_playing(name: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=words):
        video.record(Decided(), lambda mode: pytest.fail("an environment was made"), tmp_path / name, 1, 0)


class Blind(Countdown):
    def __init__(self, render_mode: str | None = None):
        super().__init__()
        self.metadata = {"render_modes": ["ansi"]}


class Deaf(Countdown):
    def __init__(self) -> None:
        super().__init__()


class Empty(Countdown):
    def render(self) -> Any:
        return None


class Broken(Countdown):
    def render(self) -> Any:
        raise OSError("no OpenGL\nand more")


@pytest.mark.parametrize(
    ("make_env", "words"),
    [
        (Blind, "Blind cannot be shown: it has no render mode 'rgb_array', only ansi"),
        (lambda mode: Deaf(render_mode=mode), "cannot be shown: it takes no render_mode"),  # type: ignore[call-arg]
        (Empty, "gave no picture"),
        (Broken, "Broken could not draw a picture: no OpenGL$"),
    ],
)
def test_an_environment_without_pictures_is_a_plain_line(make_env: Any, words: str, tmp_path: Path) -> None:
    with pytest.raises(TroupeError, match=words):
        video.record(Decided(), make_env, tmp_path / "a.mp4", 1, 0)
    with pytest.raises(TroupeError, match=words):
        video.show_terminal(Decided(), make_env, 1, 0, io.StringIO())
    assert not list(tmp_path.iterdir())


class TestTerminal:
    @pytest.fixture(autouse=True)
    def _size(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("COLUMNS", "20")
        monkeypatch.setenv("LINES", "9")
        monkeypatch.setenv("COLORTERM", "truecolor")
        monkeypatch.setattr(video, "LAST_FRAME_SECONDS", 0.0)

    def play(self, encoding: str = "utf-8") -> tuple[list[float], str]:
        raw = io.BytesIO()
        stream = io.TextIOWrapper(raw, encoding=encoding, newline="")
        returns = video.show_terminal(Decided(), Countdown, episodes=2, seed=0, stream=stream)
        stream.flush()
        return returns, raw.getvalue().decode(encoding)

    def test_half_blocks_fill_the_width_in_proportion(self) -> None:
        returns, written = self.play()
        last = written.split("\x1b[H")[-1]
        assert returns == [5.0, 5.0]
        assert "\x1b[38;2;100;100;100;48;2;100;100;100m" + "▀" * 20 in last
        assert last.count("▀") == 20 * 7  # 41 of 61 pixels high: 13 of 20, in pairs
        assert "episode 2/2" in last

    def test_without_true_colour_the_256_are_used(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("COLORTERM")
        _, written = self.play()
        assert "\x1b[38;5;241;48;5;241m" in written
        assert "38;2;" not in written

    def test_without_unicode_characters_stand_for_grey(self) -> None:
        _, written = self.play("ascii")
        rows = re.findall(r"^[^\x1b]*", written.split("\x1b[H")[-1], re.MULTILINE)
        assert "=" * 20 in rows or "-" * 20 in rows or "+" * 20 in rows

    def test_the_terminal_comes_back_after_an_interruption(self) -> None:
        class Interrupted(Decided):
            def act(self, observation: Any) -> int:
                raise KeyboardInterrupt

        out = io.StringIO()
        with pytest.raises(KeyboardInterrupt):
            video.show_terminal(Interrupted(), Countdown, 1, 0, out)
        assert out.getvalue().endswith("\x1b[0m\x1b[?25h\x1b[?1049l")

    def test_it_plays_at_the_environments_speed_and_drops_frames_when_late(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """With a clock of our own: steps take 0.02 s, a picture 0.1 s."""
        now = [0.0]

        class Time:
            @staticmethod
            def monotonic() -> float:
                return now[0]

            @staticmethod
            def sleep(seconds: float) -> None:
                now[0] += seconds

        class Slow(Countdown):
            def render(self) -> Any:
                now[0] += 0.1
                return super().render()

        monkeypatch.setattr(video, "time", Time)
        env = Slow(render_mode="rgb_array", length=100)
        video.show_terminal(Decided(), lambda mode: env, 1, 0, io.StringIO())
        assert now[0] == pytest.approx(101 * 0.02, abs=0.13)
        assert 12 <= env.rendered <= 22


class TestWindow:
    @pytest.fixture
    def window(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A display that SDL only pretends to have."""
        monkeypatch.setenv("DISPLAY", ":99")
        monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")

    def test_whole_episodes_are_played(self, window: None) -> None:
        assert video.show_window(Balancing(), cartpole, episodes=1, seed=0) == [12.0]

    def test_closing_the_window_ends_quietly(self, window: None) -> None:
        class Closing(Balancing):
            def act(self, observation: Any) -> int:
                import pygame

                pygame.event.post(pygame.event.Event(pygame.QUIT))
                return super().act(observation)

        assert video.show_window(Closing(), cartpole, episodes=1, seed=0) == []

    def test_a_display_that_does_not_answer_is_a_plain_line(
        self, window: None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("SDL_VIDEODRIVER", "nonesuch")
        with pytest.raises(UsageError, match=r"no window can be opened here: .*; use --terminal"):
            video.show_window(Balancing(), cartpole, episodes=1, seed=0)

    @pytest.mark.skipif(not sys.platform.startswith("linux"), reason="elsewhere there is always a display")
    def test_no_display_is_a_plain_line(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("DISPLAY", raising=False)
        monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
        with pytest.raises(UsageError, match="no display for a window here; use --terminal, or --video"):
            video.show_window(Balancing(), cartpole, episodes=1, seed=0)
