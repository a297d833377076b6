"""Writes docs/presets.md: what was published of each preset, and what it has here.

python docs/presets.py
"""

import json
import statistics
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from troupe.config import TrainConfig, flatten, load_preset, resolve

DOCS = Path(__file__).parent
MEASURED = DOCS.parent / "benchmarks" / "results" / "published.json"
INTRODUCTION = """\
# Presets: what was published, and what is here

Written by `python docs/presets.py` from `docs/presets.toml` (what was published), `src/troupe/presets/*.toml` (what is
here) and `benchmarks/results/published.json` (what was measured): do not edit this page.

The presets `a3c`, `a3c-lstm`, `ga3c` and `impala` have the published settings; where one of them differs, the last
column says why. Their settings for CartPole-v1 are not the published ones: with them it is learned in fewer steps, and
`--untuned` leaves them out. The table of `a3c-lstm` has only the settings in which it differs from `a3c`.
`appo`, the default preset, was not published in this form; what `article` changed is in [article.md](article.md).

The measurements have seeds 1 to 10, by which impala's settings for CartPole-v1 were chosen. Other programs ran beside
them, so only steps are comparable, and the policy lag was larger than on an idle machine. Runs of a3c, a3c-lstm and
ga3c end after 30,000 steps; the published settings were made for millions.

Values are in the units of our settings. The number of hidden layers and units, and what the environment is, are ours
unless a row says otherwise."""


def page() -> str:
    return "\n".join(_lines()) + "\n"


def _lines() -> Iterator[str]:
    published = tomllib.loads((DOCS / "presets.toml").read_text())
    measured = json.loads(MEASURED.read_text())["presets"]
    yield from (INTRODUCTION, "", "Sources:", "")
    yield from (f"- **{key}**: {source}" for key, source in published["sources"].items())
    for name, rows in published["presets"].items():
        yield from ("", f"## {name}", "", f"{load_preset(name).summary}.", "")
        yield from ("| setting | published | source | here | |", "|---|---|---|---|---|")
        yield from (_row(name, **row) for row in rows)
        yield from _differences(name)
        yield from _measured(measured.get(name, {}))


def _row(
    preset: str, setting: str, source: str, published: Any = None, env: str = "", note: str = "", why: str = ""
) -> str:
    """Raises ValueError where a difference is not explained, or an explanation has no difference."""
    config = resolve(env or "any", preset)
    here = _value(config, setting)
    if (here != (config.stop.steps if published == "stop.steps" else published)) != bool(why):
        raise ValueError(f"{preset}, {setting}: {here} here, {published} published; `why` is for a difference")
    where = " (Atari)" if env else ""
    theirs = "nothing" if published is None else f"`{_written(published)}`"
    return f"| `{setting}`{where} | {theirs} | {source} | `{_written(here)}` | {why or note} |"


def _differences(preset: str) -> Iterator[str]:
    """The settings for single environments, against those without any."""
    for env, tuned in load_preset(preset).tuned.items():
        untuned = resolve("any", preset)
        given = [f"`{name} = {_written(value)}`" for name, value in flatten(tuned.settings)
                 if not name.startswith(("stop.", "evaluation.")) and value != _value(untuned, name)]  # fmt: skip
        yield from ("", f"`{env}`: {', '.join(given)}.")


def _measured(kinds: dict[str, Any]) -> Iterator[str]:
    if not kinds:
        yield from ("", "Not measured.")
        return
    yield from ("", "| CartPole-v1 | solved | mean return | lowest | steps (median) | command, for each seed |")
    yield "|---|---|---|---|---|---|"
    for kind, entry in kinds.items():
        runs = entry["runs"]
        returns = [run["mean_return"] for run in runs]
        solved = f"{sum(run['outcome'] == 'solved' for run in runs)} of {len(runs)}"
        steps = statistics.median(run["steps"] for run in runs)
        figures = f"{statistics.mean(returns):.1f} | {min(returns):.1f} | {steps:,.0f}"
        yield f"| {kind} | {solved} | {figures} | `{entry['command']}` |"


def _value(config: TrainConfig, setting: str) -> Any:
    value: Any = config
    for part in setting.split("."):
        value = getattr(value, part)
    return value


def _written(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return ", ".join(map(str, value))
    return f"{value:,}" if isinstance(value, int) else f"{value:g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    (DOCS / "presets.md").write_text(page())
