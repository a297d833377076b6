"""Videos: what ffmpeg reads back is what was played."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from troupe.config import TroupeError, UsageError
from troupe.runs.show import video


def frames_of(file: Path) -> tuple[dict[str, Any], list[np.ndarray]]:
    """What ffmpeg says about the video, and its frames."""
    import imageio_ffmpeg

    reader = imageio_ffmpeg.read_frames(str(file))
    about = next(reader)
    width, height = about["size"]
    return about, [np.frombuffer(frame, np.uint8).reshape(height, width, 3) for frame in reader]


def durations_of(file: Path) -> list[int]:
    """Of a GIF's pictures, in ms."""
    from PIL import Image

    durations = []
    with Image.open(file) as image:
        for frame in range(image.n_frames):  # type: ignore[attr-defined]
            image.seek(frame)
            durations.append(image.info["duration"])
    return durations


def test_an_mp4_has_every_frame_even_sizes_and_the_environments_speed(tmp_path, countdown, decided):
    env = countdown(render_mode="rgb_array")
    assert video.record(decided(), lambda mode: env, tmp_path / "a.mp4", episodes=2, seed=7) == [5.0, 5.0]
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


def test_a_gif_leaves_frames_out_and_keeps_the_speed(tmp_path, countdown, decided):
    env = countdown(render_mode="rgb_array", length=30)
    video.record(decided(), lambda mode: env, tmp_path / "a.gif", episodes=1, seed=0)
    assert env.rendered == 16  # steps 0, 2, ... 30
    durations = durations_of(tmp_path / "a.gif")
    assert set(durations[:-1]) <= {40}
    assert sum(durations) == pytest.approx(1200, abs=50)


@pytest.mark.slow
def test_a_video_of_pong_has_its_speed(tmp_path, decided):
    pytest.importorskip("ale_py")
    from troupe.environments import find

    class Still(decided):
        def distribution(self, observation: Any) -> tuple[np.ndarray, float]:
            return np.full(6, 1 / 6), 0.0

    make = find("ALE/Pong-v5").make
    for name in ("a.mp4", "a.gif"):
        video.record(Still(), make, tmp_path / name, episodes=1, seed=0, max_steps=60)
    about, frames = frames_of(tmp_path / "a.mp4")
    assert (about["fps"], about["size"]) == (30, (1120, 630))
    assert len(frames) == 120 + 18  # four seconds, and the last picture's 0.6
    durations = durations_of(tmp_path / "a.gif")
    assert set(durations[:-1]) <= {50}
    assert sum(durations) == pytest.approx(4600, abs=60)


def test_only_the_finished_video_is_left(tmp_path, countdown, decided):
    class Raising(decided):
        def act(self, observation: Any) -> int:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        video.record(Raising(), countdown, tmp_path / "a.mp4", episodes=1, seed=0)
    assert not list(tmp_path.iterdir())
    video.record(decided(), countdown, tmp_path / "a.mp4", episodes=1, seed=0)
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]


def test_nothing_is_left_of_an_environment_without_pictures(tmp_path, countdown, decided):
    class Empty(countdown):
        def render(self) -> Any:
            return None

    with pytest.raises(TroupeError, match="returned None, not an image"):
        video.record(decided(), Empty, tmp_path / "a.mp4", episodes=1, seed=0)
    assert not list(tmp_path.iterdir())


def test_an_episode_without_an_end_is_left(tmp_path, countdown, decided):
    assert video.record(decided(), lambda mode: countdown(mode, 0), tmp_path / "a.mp4", 1, 0, max_steps=9) == [9.0]


def test_a_video_of_cartpole(tmp_path, balancing, cartpole):
    assert video.record(balancing(), cartpole, tmp_path / "a.mp4", episodes=1, seed=0) == [12.0]
    _, frames = frames_of(tmp_path / "a.mp4")
    assert frames[0].shape[0] == 400
    assert (frames[0][:100, :600] > 240).all()  # CartPole's white sky
    assert (frames[0][-10:, 610:] < 60).all()  # the dark panel


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("a.avi", "must end in .mp4 or .gif"),
        ("a", "must end in .mp4 or .gif"),
        ("nowhere/a.mp4", "there is no folder"),
    ],
)
def test_a_file_that_cannot_be_written_is_reported_before_playing(name, words, tmp_path, decided):
    with pytest.raises(UsageError, match=words):
        video.record(decided(), lambda mode: pytest.fail("an environment was made"), tmp_path / name, 1, 0)


def test_of_what_ffmpeg_says_the_first_line_is_told(tmp_path, monkeypatch, countdown, decided):
    import imageio_ffmpeg

    def refuse(*given: Any, **more: Any) -> Any:
        raise OSError("no such codec\nand forty lines more")

    monkeypatch.setattr(imageio_ffmpeg, "write_frames", refuse)
    with pytest.raises(TroupeError) as refused:
        video.record(decided(), countdown, tmp_path / "a.mp4", episodes=1, seed=0)
    assert str(refused.value) == "no video can be written: no such codec"
    assert list(tmp_path.iterdir()) == []
