"""The page: one HTML text with its style, its program and, in a report, its data inside, so that it works offline."""

import base64
import hashlib
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

import msgspec

_FILES = files("troupe.runs.dashboard") / "page"


def page(data: Mapping[str, Any] | None = None) -> str:
    """`data`: what a report shows, an answer of Folder; None for a page that asks for it again and again.

    Scripts but our own do not run in it, whatever a name in the data looks like: the policy names them by their hash.
    """
    names = ("page.html", "page.css", "page.js", "plot.js", "uPlot.min.css", "uPlot.iife.min.js")
    html, style, program, plot, plots_style, plots = ((_FILES / name).read_text(encoding="utf-8") for name in names)
    program = plot + program
    # "<" never occurs in the JSON, so that it ends no element of the page.
    text = msgspec.json.encode(data).decode().replace("<", "\\u003c") if data else ""
    parts = {"STYLE": plots_style + style, "PLOTS": plots, "PROGRAM": program, "DATA": text}
    hashes = " ".join(f"'sha256-{_sha256(script)}'" for script in (plots, program))
    parts["POLICY"] = (
        f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; connect-src 'self'; "
        "img-src 'self' data:; media-src 'self' data:; base-uri 'none'; form-action 'none'"
    )
    first, *others = html.split("{{")
    return first + "".join(parts[name] + rest for name, rest in (each.split("}}", 1) for each in others))


def _sha256(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
