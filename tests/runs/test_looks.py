"""Colours, dashes and names of the runs in a picture, and marks that would cover each other."""

from pathlib import Path

import numpy as np
import pytest

from troupe.runs.report.curves import Curve, Points
from troupe.runs.report.lines import Line
from troupe.runs.report.looks import COLOURS, DASHES, Look, looks_of, names_of, side_by_side, styles

NOTHING = *[Points(*[np.zeros(0)] * 4)] * 3, np.zeros((0, 4)), np.zeros((0, 2))
CURVE = Curve(np.arange(2), np.arange(2.0), np.arange(2.0), np.arange(2), *NOTHING)


def line(path: str, seed: int) -> Line:
    return Line(Path(path), {"seed": seed}, (), CURVE, np.arange(2.0), None)


def group(name: str, *seeds: int) -> list[Line]:
    return [line(f"{name}/{number}", seed) for number, seed in enumerate(seeds)]


def test_the_runs_of_the_only_group_have_colours_of_their_own():
    looks = looks_of({"appo": group("a", 4, 2, 9)})
    expected = [Look(colour, "-") for colour in COLOURS[:3]]
    assert list(looks.of_runs.values()) == expected
    assert looks.legend == list(zip(("appo, seed 4", "appo, seed 2", "appo, seed 9"), expected, strict=True))


def test_dashes_are_those_of_seeds_where_groups_share_them():
    looks = looks_of({"a": group("a", 7, 10), "b": group("b", 10), "c": group("c", 10, 7)})
    of = {str(path): look.dashes for path, look in looks.of_runs.items()}
    assert of == {"a/0": DASHES[0], "a/1": DASHES[1], "b/0": "-", "c/0": DASHES[1], "c/1": DASHES[0]}
    assert [name for name, _ in looks.legend] == ["a (2 runs)", "b", "c (2 runs)", "seed 7", "seed 10"]
    assert [look.colour for _, look in looks.legend[:3]] == list(COLOURS[:3])


@pytest.mark.parametrize("seeds", [((1, 2, 3), (4, 5, 6)), ((3, 3, 3), (3, 4, 5))])
def test_dashes_are_those_of_runs_where_seeds_would_not_do(seeds: tuple[tuple[int, ...], ...]):
    """Too many seeds, or several runs of one."""
    looks = looks_of({name: group(name, *those) for name, those in zip("ab", seeds, strict=True)})
    assert [look.dashes for look in looks.of_runs.values()] == [*DASHES[:3]] * 2
    assert len(set(looks.of_runs.values())) == len({name for name, _ in looks.legend}) == 6
    assert looks.legend[3][0] == f"b, seed {seeds[1][0]}"


def test_the_runs_of_a_mean_look_as_it_does_and_so_do_all_where_groups_need_the_dashes():
    looks = looks_of({"appo": group("a", *range(5))})
    assert set(looks.of_runs.values()) == {styles(["appo"])[0]}
    assert looks.legend == [("appo (5 runs)", styles(["appo"])[0])]
    many = {f"{number}": group(f"{number}", 0, 1) for number in range(len(COLOURS) + 1)}
    assert [look for _, look in looks_of(many).legend] == styles(many)


def test_runs_are_named_by_their_seeds_or_by_as_much_of_their_paths_as_it_takes():
    assert names_of(group("a", 3, 1)) == ["seed 3", "seed 1"]
    assert names_of([line("x/a", 1), line("x/b", 1)]) == ["a", "b"]
    assert names_of([line("x/a", 1), line("y/a", 1), line("y/b", 1)]) == ["x/a", "y/a", "y/b"]
    assert names_of([line("a", 1), line("a", 1)]) == ["a", "a"]  # the same run


def test_what_nearly_coincides_stands_side_by_side():
    points = np.array([[0.5, 0.5], [0.9, 0.5], [0.505, 0.49], [0.5, 0.9], [0.509, 0.515]])
    assert side_by_side(points, (0.01, 0.02)) == [-1.0, 0.0, 0.0, 0.0, 1.0]
    assert side_by_side(points, (0.001, 0.001)) == [0.0] * 5
    assert side_by_side(points[[0, 2]], (0.01, 0.02)) == [-0.5, 0.5]
