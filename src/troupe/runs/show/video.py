"""An agent's episodes as a video, .mp4 or .gif.

Each image is drawn, written and dropped, so a long episode takes no more memory than a short one.
"""

from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from troupe.config import TroupeError
from troupe.runs.show.frames import RGBImage
from troupe.runs.show.panel import Panel
from troupe.runs.show.play import LAST_FRAME_SECONDS, MAX_STEPS, PlayingAgent, play
from troupe.runs.show.rendering import MakeEnv, open_rendered, without_display
from troupe.safe_files import output_file

MAX_FPS = {".mp4": 60.0, ".gif": 25.0}  # frames of faster environments are left out
PREFERRED_HEIGHT = {".mp4": 560, ".gif": 400}  # pixels; a GIF is a large file as it is


def record(
    agent: PlayingAgent, make_env: MakeEnv, file: Path, episodes: int, seed: int, max_steps: int = MAX_STEPS
) -> list[float]:
    """Writes episodes into an .mp4 or .gif, with policy and value beside the frames; returns their returns."""
    kind = file.suffix.lower()
    with (
        output_file(file, tuple(MAX_FPS)) as unfinished,
        without_display(),
        open_rendered(make_env, MAX_FPS[kind]) as rendered,
        closing(_VideoWriter(unfinished, rendered.shown_fps)) as video,
    ):
        panel = Panel.beside(rendered, PREFERRED_HEIGHT[kind])
        returns = []
        for state, _, render in play(agent, rendered, episodes, seed, max_steps):
            times = 1
            if state.ended:
                returns.append(state.episode_return)
                times = round(LAST_FRAME_SECONDS * rendered.shown_fps)
            video.add(panel.compose(render(), state), times)
        return returns


class _VideoWriter:
    """Sends images to ffmpeg, which is started with the first one, as that gives the size."""

    def __init__(self, file: Path, fps: float):
        self._file, self._fps = file, fps
        self._ffmpeg: Any = None

    def add(self, image: RGBImage, times: int) -> None:
        self._ffmpeg = self._ffmpeg or self._start(image)
        try:
            for _ in range(times):
                self._ffmpeg.send(np.ascontiguousarray(image))
        except OSError as error:  # its first line; ffmpeg's own output follows, over many lines
            raise TroupeError(f"the video could not be written to its end: {_first_line(error)}") from error

    def close(self) -> None:
        if self._ffmpeg:
            self._ffmpeg.close()

    def _start(self, image: RGBImage) -> Any:
        import imageio_ffmpeg  # type: ignore[import-untyped]

        if self._file.suffix.lower() == ".gif":
            # A palette for each image: with one for the whole video ffmpeg would hold all of it until the end.
            palette = "palettegen=max_colors=64:stats_mode=single[p];[b][p]paletteuse=new=1:dither=none"
            codec, pixels, quality = "gif", "pal8", None
            extra = ["-filter_complex", f"split[a][b];[a]{palette}"]
        else:
            codec, pixels, quality = "libx264", "yuv420p", 7
            extra = ["-preset", "veryfast", "-movflags", "+faststart"]
        try:
            ffmpeg = imageio_ffmpeg.write_frames(
                str(self._file),
                image.shape[1::-1],
                fps=self._fps,
                codec=codec,
                pix_fmt_out=pixels,
                quality=quality,
                macro_block_size=1,
                output_params=extra,
                ffmpeg_log_level="error",
            )
            ffmpeg.send(None)
        except (RuntimeError, OSError) as error:
            raise TroupeError(f"no video can be written: {_first_line(error)}") from error
        return ffmpeg


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0] or type(error).__name__
