"""What render() may give, and what is made of it: unit by unit, and as a video from the command line."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from troupe import cli
from troupe.config import UsageError
from troupe.runs.show.frames import FrameConverter

RAMP = np.linspace(0.0, 1.0, 12).reshape(2, 2, 3)
BYTES = np.round(255 * RAMP)


@pytest.mark.parametrize(
    ("frame", "expected"),
    [
        (BYTES.astype(np.uint8), BYTES),
        (BYTES, BYTES),
        (BYTES.astype(np.int64), BYTES),
        (RAMP, BYTES),
        (RAMP.astype(np.float32), BYTES),
        (RAMP.astype(np.float16), BYTES),
        (RAMP > 0.5, 255 * (RAMP > 0.5)),
        ((257 * BYTES).astype(np.uint16), BYTES),
        (BYTES.tolist(), BYTES),
        (300 * RAMP - 20, np.round(300 * RAMP - 20).clip(0, 255)),
        (np.where(RAMP > 0.5, np.nan, RAMP), np.where(RAMP > 0.5, 0, BYTES)),
        (np.concatenate([RAMP, RAMP[:, :, :1]], 2), BYTES),  # transparency
        (RAMP[:, :, 0], BYTES[:, :, :1].repeat(3, 2)),  # grey
        (RAMP[:, :, :1], BYTES[:, :, :1].repeat(3, 2)),
    ],
)
def test_every_kind_of_numbers_becomes_bytes(frame: Any, expected: np.ndarray) -> None:
    picture = FrameConverter("Env")(frame)
    assert picture.dtype == np.uint8
    assert picture == pytest.approx(expected, abs=1)


def test_a_dark_frame_among_frames_to_255_stays_dark() -> None:
    pictures = FrameConverter("Env")
    pictures(BYTES)
    assert pictures(np.ones((2, 2, 3))).max() == 1


def test_a_frame_of_another_size_is_scaled_to_the_first_and_keeps_its_proportions() -> None:
    pictures = FrameConverter("Env")
    pictures(np.zeros((20, 40, 3), np.uint8))
    wide = pictures(np.full((20, 80, 3), 200, np.uint8))
    high = pictures(np.full((80, 80, 3), 200, np.uint8))
    assert wide.shape == high.shape == (20, 40, 3)
    assert [wide[y, 20, 0] for y in (0, 4, 5, 14, 15)] == [0, 0, 200, 200, 0]  # black above and below
    assert [high[10, x, 0] for x in (0, 9, 10, 29, 30)] == [0, 0, 200, 200, 0]


def test_a_frame_that_is_hardly_anything_is_a_line_in_the_middle() -> None:
    pictures = FrameConverter("Env")
    pictures(np.zeros((20, 40, 3), np.uint8))
    for shape, lit in (((1, 400, 3), (slice(9, 10), slice(0, 40))), ((400, 1, 3), (slice(0, 20), slice(19, 20)))):
        picture = pictures(np.full(shape, 200, np.uint8))
        expected = np.zeros((20, 40, 3), np.uint8)
        expected[lit] = 200
        assert (picture == expected).all()


def test_what_is_beyond_the_range_of_bytes_is_its_end() -> None:
    """Infinity is above 1, so that what follows is taken as 0 to 255."""
    pictures = FrameConverter("Env")
    assert pictures(np.full((2, 2, 3), -0.5)).max() == 0
    assert pictures(np.ones((2, 2, 3))).min() == 255
    assert pictures(np.full((2, 2, 3), np.inf)).min() == 255
    assert pictures(np.full((2, 2, 3), 0.6)).max() == 1
    assert pictures(np.full((2, 2, 3), 256, np.int64)).min() == 255


@pytest.mark.parametrize(
    ("frame", "words"),
    [
        (np.zeros((4, 4, 2)), "shape (4, 4, 2)"),
        (np.zeros((4, 4, 5)), "shape (4, 4, 5)"),
        (np.zeros(4), "shape (4,)"),
        (((1, 2), (3,)), "a tuple of 2"),
        (["a", "b"], "a list of 2"),
        (None, "returned None, not an image"),
        ([np.zeros((4, 4, 3))] * 5, "a list of 5"),
        ([np.zeros((4, 4, 3)), np.zeros((5, 4, 3))], "a list of 2"),
        ([], "a list of 0"),
        ("ascii art", "str of type <U9"),
        (object(), "object of type object"),
        (np.zeros((3, 8, 8)), "shape (3, 8, 8)"),
        (np.zeros((0, 8, 3)), "shape (0, 8, 3)"),
    ],
)
def test_what_is_no_picture_is_named_in_a_line(frame: Any, words: str) -> None:
    with pytest.raises(UsageError) as error:
        FrameConverter("Env")(frame)
    assert words in str(error.value)
    assert str(error.value).endswith("expected an array of height x width x 3")
    assert "\n" not in str(error.value)


ENVIRONMENT = """
import gymnasium as gym
import numpy as np

class Growing(gym.Env):
    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}
    observation_space = gym.spaces.Box(-1, 1, (2,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def __init__(self, render_mode=None):
        self.render_mode = render_mode

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return np.zeros(2, np.float32), {}

    def step(self, action):
        self.steps += 1
        return np.zeros(2, np.float32), 1.0, self.steps == 6, False, {}

    def render(self):
        return np.full((40 + 10 * self.steps, 60, 3), 0.8)
"""
TRAIN = (
    "train env.py:Growing --steps 64 --run-dir run --quiet --topology serial --actor.count 1 "
    "--actor.rollout_steps 16 --evaluation.final_episodes 1"
)


def test_a_video_of_frames_from_0_to_1_that_grow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import imageio_ffmpeg

    monkeypatch.chdir(tmp_path)
    Path("env.py").write_text(ENVIRONMENT)
    assert cli.run(TRAIN.split()) == 0
    assert cli.run(["watch", "run", "--video", "agent.mp4", "--episodes", "1"]) == 0
    reader = imageio_ffmpeg.read_frames("agent.mp4")
    width, height = next(reader)["size"]
    frames = [np.frombuffer(frame, np.uint8).reshape(height, width, 3) for frame in reader]
    assert len(frames) == 6 + 6  # the last stands for 0.6 s
    assert all(frame[height // 2, 300].mean() == pytest.approx(0.8 * 255, abs=6) for frame in frames)

    Path("env.py").write_text(
        ENVIRONMENT.replace("return np.full((40 + 10 * self.steps, 60, 3), 0.8)", "return [1, 2]")
    )
    capsys.readouterr()
    assert cli.run(["watch", "run", "--video", "other.mp4"]) == 2
    assert "its render() returned a list of 2, not an image; expected an array" in capsys.readouterr().err
    assert not Path("other.mp4").exists()
