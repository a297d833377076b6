"""An agent's episodes as a film, .mp4 or .gif.

Each picture is drawn, written and forgotten, so a long episode costs no more memory than a short one.
"""

from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from troupe.config import TroupeError
from troupe.runs.show.frames import Picture
from troupe.runs.show.panel import Panel
from troupe.runs.show.play import LAST_PICTURE_SECONDS, MAX_STEPS, MakeEnv, Player, opened, play, without_display
from troupe.safe_files import output_file

FASTEST = {".mp4": 60.0, ".gif": 25.0}  # pictures per second; faster worlds are thinned out
GOOD_HEIGHT = {".mp4": 560, ".gif": 400}  # pixels; a GIF is large enough as it is


def record(
    agent: Player, make_env: MakeEnv, file: Path, episodes: int, seed: int, max_steps: int = MAX_STEPS
) -> list[float]:
    """Writes episodes into an .mp4 or .gif, what the agent thinks beside the picture; gives their returns."""
    kind = file.suffix.lower()
    with (
        output_file(file, tuple(FASTEST)) as unfinished,
        without_display(),
        opened(make_env, FASTEST[kind]) as stage,
        closing(_Film(unfinished, stage.pictures_per_second)) as film,
    ):
        panel = Panel(stage.title, stage.actions, stage.pixel_aspect, GOOD_HEIGHT[kind])
        returns = []
        for moment, _, picture in play(agent, stage, episodes, seed, max_steps):
            times = 1
            if moment.ended:
                returns.append(moment.total)
                times = round(LAST_PICTURE_SECONDS * stage.pictures_per_second)
            film.add(panel.compose(picture(), moment), times)
        return returns


class _Film:
    """Pictures, one by one, to ffmpeg; the first one opens the file, as it gives the size."""

    def __init__(self, file: Path, fps: float):
        self._file, self._fps = file, fps
        self._writer: Any = None

    def add(self, picture: Picture, times: int) -> None:
        self._writer = self._writer or self._open(picture)
        try:
            for _ in range(times):
                self._writer.send(np.ascontiguousarray(picture))
        except OSError as error:  # what ffmpeg itself has said follows, over many lines
            raise TroupeError(f"the video could not be written to its end: {_first_line(error)}") from error

    def close(self) -> None:
        if self._writer:
            self._writer.close()

    def _open(self, picture: Picture) -> Any:
        import imageio_ffmpeg  # type: ignore[import-untyped]

        if self._file.suffix.lower() == ".gif":
            # A palette for each picture: one for the whole film would have ffmpeg hold all of it until the end.
            palette = "palettegen=max_colors=64:stats_mode=single[p];[b][p]paletteuse=new=1:dither=none"
            codec, pixels, quality = "gif", "pal8", None
            extra = ["-filter_complex", f"split[a][b];[a]{palette}"]
        else:
            codec, pixels, quality = "libx264", "yuv420p", 7
            extra = ["-preset", "veryfast", "-movflags", "+faststart"]
        try:
            writer = imageio_ffmpeg.write_frames(
                str(self._file),
                picture.shape[1::-1],
                fps=self._fps,
                codec=codec,
                pix_fmt_out=pixels,
                quality=quality,
                macro_block_size=1,
                output_params=extra,
                ffmpeg_log_level="error",
            )
            writer.send(None)
        except (RuntimeError, OSError) as error:
            raise TroupeError(f"no video can be written: {_first_line(error)}") from error
        return writer


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0] or type(error).__name__
