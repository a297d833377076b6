"""`troupe report`: the page of one run as a single file, which needs nothing beside it."""

import base64
import time
from pathlib import Path
from typing import Any

from troupe.config import UsageError
from troupe.runs.dashboard.page import page
from troupe.runs.dashboard.shown import MEDIA, ShownRun
from troupe.runs.store.directory import runs_inside
from troupe.safe_files import output_file, writing

MOST_BYTES = 4 * 2**20  # of a video inside the file; mail rarely takes more than 10 MB


def write_report(run: Path, file: Path) -> list[str]:
    """Writes FILE.html; returns the names of videos that are too large for it. Raises UsageError and TroupeError."""
    with output_file(file, (".html",)) as unfinished:
        if not (run / "metrics.jsonl").is_file():
            raise UsageError(f"{run} is not a run directory: it has no metrics.jsonl{runs_inside(run)}")
        root = run.resolve()
        shown = ShownRun(root, root)
        while not shown.complete:
            shown.refresh()
        about = shown.show()
        about["media"] = [_embedded(video) for video in shown.media()]
        group: dict[str, Any] = {
            "environment": shown.environment,
            "name": about["preset"] or root.name,
            "runs": [shown.id],
            "bands": {},
        }
        data = {
            "now": time.time(),
            "folder": shown.id,
            "ids": [shown.id],
            "reading": 0,
            "runs": [about],
            "groups": [group],
        }
        with writing(file):
            unfinished.write_text(page(data), encoding="utf-8")
    return [each["name"] for each in about["media"] if not each["url"]]


def _embedded(video: Path) -> dict[str, Any]:
    size = video.stat().st_size
    if size > MOST_BYTES:
        return {"name": video.name, "url": "", "note": f"{size / 2**20:.1f} MB, not in this file"}
    content = base64.b64encode(video.read_bytes()).decode()
    return {"name": video.name, "url": f"data:{MEDIA[video.suffix.lower()]};base64,{content}"}
