"""How the runs of a picture are told apart: colours by setting, and within a setting colours or dashes by run."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from troupe.config import presets
from troupe.runs.report.lines import Groups, Line
from troupe.runs.report.statistics import FEWEST

# Okabe and Ito's colours, which colour-blind people can tell apart.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#101010")
SOFT = "#707070"
Dashes = str | tuple[int, tuple[int, ...]]
DASHES: tuple[Dashes, ...] = ("-", "--", "-.", (0, (6, 1, 1, 1, 1, 1)))  # for runs, or for more groups than colours


class Look(NamedTuple):
    colour: str
    dashes: Dashes


class Looks(NamedTuple):
    of_runs: dict[Path, Look]
    legend: list[tuple[str, Look]]


def looks_of(groups: Groups) -> Looks:
    """A group has a colour. The runs of one that are drawn one by one differ in dashes, which mean the same seed in all
    groups where that is possible; the runs of the only group have colours of their own."""
    found, seeds = Looks({}, []), _dashes_of_seeds(groups)
    for (name, lines), (colour, dashes) in zip(groups.items(), styles(groups), strict=True):
        one_by_one = _are_few(lines) and len(groups) <= len(COLOURS)
        if one_by_one and not seeds:
            each = [Look(own, "-") for own in COLOURS] if len(groups) == 1 else [Look(colour, own) for own in DASHES]
            found.of_runs.update((line.path, look) for line, look in zip(lines, each, strict=False))
            found.legend.extend((f"{name}, {own}", look) for own, look in zip(names_of(lines), each, strict=False))
            continue
        for line in lines:
            found.of_runs[line.path] = Look(colour, seeds[line.seed] if one_by_one else dashes)
        runs = f" ({len(lines)} runs)" if len(lines) > 1 else ""
        found.legend.append((name + runs, Look(colour, dashes)))
    found.legend.extend((f"seed {seed}", Look(SOFT, dashes)) for seed, dashes in seeds.items())
    return found


def _are_few(lines: Sequence[Line]) -> bool:
    return 1 < len(lines) < FEWEST


def _dashes_of_seeds(groups: Groups) -> dict[str, Dashes]:
    """By seed; nothing where there is only one group, and where runs of a group would have the same dashes."""
    drawn = [[line.seed for line in lines] for lines in groups.values() if _are_few(lines)]
    seeds = sorted({seed for those in drawn for seed in those}, key=lambda seed: (len(seed), seed))
    distinct = all(len(set(those)) == len(those) for those in drawn)
    fits = distinct and len(seeds) <= len(DASHES) and 1 < len(groups) <= len(COLOURS)
    return dict(zip(seeds, DASHES, strict=False)) if fits else {}


def names_of(lines: Sequence[Line]) -> list[str]:
    """What tells the runs of a group apart: their seeds, or else the ends of their paths."""
    names = [f"seed {line.seed}" for line in lines]
    depth, longest = 0, max(len(line.path.parts) for line in lines)
    while len(set(names)) < len(names) and depth < longest:
        depth += 1
        names = ["/".join(line.path.parts[-depth:]) for line in lines]
    return names


def styles(groups: Iterable[str]) -> list[Look]:
    """The colour and the dashes of each group."""
    count = len(COLOURS)
    return [Look(COLOURS[number % count], DASHES[number // count % len(DASHES)]) for number in _numbers(groups)]


def _numbers(groups: Iterable[str]) -> Sequence[int]:
    """Presets ("appo", or "appo, tuned") have a fixed number, and so a fixed colour; other groups are counted."""
    names, known = [name.partition(",")[0] for name in groups], presets()
    fixed = set(names) <= set(known) and len(set(names)) == len(names)
    return [known.index(name) for name in names] if fixed else range(len(names))


def side_by_side(points: Float[np.ndarray, "n 2"], near: tuple[float, float]) -> list[float]:
    """For each point by how many places it is moved sideways, so that those that nearly coincide (within `near` of one
    of them, by axis) are all seen: 0 for one alone, -0.5 and 0.5 for two."""
    heaps: list[list[int]] = []
    for number, point in enumerate(points):
        heap = next((those for those in heaps if (np.abs(points[those[0]] - point) <= near).all()), None)
        if heap is None:
            heaps.append([number])
        else:
            heap.append(number)
    places = {number: place - (len(heap) - 1) / 2 for heap in heaps for place, number in enumerate(heap)}
    return [places[number] for number in range(len(points))]
