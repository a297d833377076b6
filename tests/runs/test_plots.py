"""Pictures of runs: what is read, what is drawn from it, and that nothing half-written is left."""

import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tomli_w

from helpers.pictures import assert_looks_the_same
from troupe import cli
from troupe.config import UsageError
from troupe.runs.report import lines, looks, plots
from troupe.runs.report.curves import read_curve
from troupe.runs.report.plots import plot_runs
from troupe.runs.store.metrics import read_log
from troupe.safe_files import output_file

MakeRun = Callable[..., Path]


def report(steps: int, mean: float | None, episodes: int = 0) -> dict[str, Any]:
    seconds = steps / 50_000
    return {
        "kind": "report", "seconds": seconds, "steps": steps, "episodes": episodes or steps // 50,
        "return_mean": mean, "from_the_future": {"x": 1},
    }  # fmt: skip


def evaluation(steps: int, mean: float, **more: Any) -> dict[str, Any]:
    return {"kind": "evaluation", "seconds": steps / 50_000, "steps": steps, "mean": mean} | more


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    def make(
        name: str,
        rows: Sequence[dict[str, Any]] | None = None,
        *,
        preset: str = "appo",
        env: str = "CartPole-v1",
        target: str = "475.0",
        level: float = 400.0,
    ) -> Path:
        run = tmp_path / name
        run.mkdir()
        config = f'preset = "{preset}"\nseed = 3\n[env]\nid = "{env}"\n[stop]\ntarget = {target}\n'
        (run / "config.toml").write_text(config)
        if rows is None:
            rows = [*(report(i * 1000, level * i / 40) for i in range(1, 41)), evaluation(40_000, 480.0)]
        (run / "metrics.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
        return run

    return make


@pytest.mark.parametrize("form", ["png", "svg", "pdf", "PNG"])
def test_a_picture_has_the_form_its_name_says(form: str, make_run: MakeRun, tmp_path: Path) -> None:
    out = tmp_path / f"returns.{form}"
    plot_runs([make_run("a")], out)
    beginning = {"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}[form.lower()]
    assert out.read_bytes().startswith(beginning)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", out.name]


def test_a_picture_is_1200_by_500_pixels_unless_its_form_has_none(make_run: MakeRun, tmp_path: Path) -> None:
    from PIL import Image

    plot_runs([make_run("a"), make_run("b")], tmp_path / "returns.png")
    with Image.open(tmp_path / "returns.png") as image:
        assert image.size == (1200, 500)


def picture_of(runs: Sequence[Path], title: str | None = None) -> np.ndarray:
    from PIL import Image

    plot_runs(runs, runs[0].parent / "picture.png", title)
    with Image.open(runs[0].parent / "picture.png") as image:
        return np.asarray(image.convert("RGB"))


def test_the_picture_of_a_run_looks_like_the_reference_picture(make_run: MakeRun, tmp_path: Path) -> None:
    """Marks, colours and positions, which no other test checks."""
    noise = np.random.default_rng(0).normal(0.0, 20.0, 101)
    rows: list[dict[str, Any]] = []
    for steps in range(1000, 101_000, 1000):
        rows.append(report(steps, min(450.0, steps / 150) + noise[steps // 1000]))
        if steps % 25_000 == 0:
            rows.append(evaluation(steps, min(500.0, steps / 120)))
        if steps == 60_000:
            rows.append({"kind": "collapse", "seconds": 1.2, "steps": steps, "mean": 50.0})
    rows.append({"kind": "gap", "from_steps": 40_000, "steps": 45_000, "from_seconds": 0.8, "seconds": 0.9})
    rows.append({"kind": "resume", "steps": 80_000, "seconds": 1.6})
    rows.append(evaluation(100_000, 490.0, purpose="final", weights_steps=75_000))
    assert_looks_the_same(picture_of([make_run("a", rows)]), "plot-of-a-run", tmp_path)


@pytest.mark.parametrize("longest", [40_000, 800_000])
def test_the_picture_of_several_runs_looks_like_the_reference_picture(
    longest: int, make_run: MakeRun, tmp_path: Path
) -> None:
    runs = []
    for number, preset in enumerate([*["appo"] * 5, "impala", "impala", "article"]):
        end = longest if preset == "article" else 26_000 + 2000 * number
        rows = [report(steps, 60.0 * number + 200 * steps / end) for steps in range(1000, end + 1, 1000)]
        rows.append(evaluation(end, 100.0 * number, purpose="final" if preset == "appo" else "progress"))
        runs.append(settings_of(make_run(f"r{number}", rows, preset=preset), seed=number))
    name = "plot-of-several" if longest == 40_000 else "plot-of-several-logarithmic"
    assert_looks_the_same(picture_of(runs, "A title"), name, tmp_path)


def test_the_picture_of_groups_with_targets_of_their_own_looks_like_the_reference_picture(
    make_run: MakeRun, tmp_path: Path
) -> None:
    """Seeds by their dashes, a group of one run, what is unfinished and what is missing, and the note on targets."""
    from PIL import Image

    runs, names = [], []
    for number, (name, seed) in enumerate([("one", 7), ("one", 10), ("two", 7), ("two", 10), ("three", 7)]):
        rows = [report(steps, 90.0 * number + steps / 250) for steps in range(500, 20_500 + 4000 * number, 500)]
        rows += [evaluation(12_000, 20.0)]
        rows.append(evaluation(20_000, 380.0 - 75 * number, purpose="final" if seed == 7 else "progress"))
        rows.append({"kind": "gap", "from_steps": 9000, "steps": 11_000, "from_seconds": 0.18, "seconds": 0.22})
        run = make_run(f"r{number}", rows, target={"one": "300.0", "two": "150.0", "three": '"none"'}[name])
        runs.append(settings_of(run, seed=seed, evaluation={"greedy": name != "two"}))
        names.append(name)
    plot_runs(runs, tmp_path / "picture.png", names=names, note="not drawn: four, seeds 1, 2 (failed)")
    with Image.open(tmp_path / "picture.png") as image:
        assert_looks_the_same(np.asarray(image.convert("RGB")), "plot-of-targets", tmp_path)


def words_of(runs: Sequence[Path], title: str | None = None) -> str:
    out = runs[0].parent / "words.svg"
    plot_runs(runs, out, title)
    return out.read_text()


def lines_of(runs: Sequence[Path]) -> str:
    """The words, without the places where a legend's lines end."""
    return " ".join(" ".join(re.findall(">([^<>]+)<", words_of(runs))).split())


def test_one_run_shows_its_name_its_target_and_its_evaluations(make_run: MakeRun) -> None:
    words = words_of([make_run("a")])
    assert "CartPole-v1 · preset appo · seed 3" in words
    window = "moving mean over 10 % of the run (3,900 steps)"
    for expected in ("target 475", "evaluation", "environment steps", "training seconds", window):
        assert expected in words


@pytest.mark.slow
def test_evaluations_of_the_newest_and_of_the_best_weights_are_told_apart_also_after_a_resume(
    make_run: MakeRun,
) -> None:
    def final(steps: int, of: int) -> dict[str, Any]:
        return evaluation(steps, 480.0, purpose="final", weights_steps=of)

    rows = [report(2000, 5.0), evaluation(2000, 9.0), report(4000, 6.0), final(4000, 2000)]
    rows.append({"kind": "resume", "steps": 4000, "seconds": 4000 / 50_000})
    rows += [report(8000, 7.0), evaluation(8000, 3.0, purpose="confirm"), final(8000, 2000)]
    run = make_run("a", rows)
    curve = read_curve(run)
    assert curve.evaluations.steps.tolist() == [2000, 8000]
    assert (curve.final.steps.tolist(), curve.final.weights_steps.tolist()) == ([4000, 8000], [2000, 2000])
    words = words_of([run])
    assert "evaluation of the newest weights (greedy)" in words
    assert "final evaluations of the best weights (greedy):<" in words
    assert "where the run was resumed" in words
    for at in ("4,000", "8,000"):
        assert f"weights of step 2,000, evaluated at step {at}<" in words
    old = make_run("old", [report(2000, 5.0), evaluation(2000, 9.0, purpose="final")])
    assert "final evaluation of the best weights (greedy):<" in words_of([old])
    assert "of step" not in words_of([old])
    assert "was resumed" not in words_of([old])
    sampled = settings_of(old, evaluation={"greedy": False})
    assert "final evaluation of the best weights (sampled actions): " in lines_of([sampled])
    assert "best weights (greedy or sampled actions): " in lines_of([run, sampled])
    assert ["evaluated greedily" in words_of(runs) for runs in ([run, old], [run, sampled])] == [False, False]


def test_the_marks_of_evaluations_at_one_point_are_all_seen(make_run: MakeRun, tmp_path: Path) -> None:
    """The final evaluation may have the return of the one that confirmed the target, and a collapse that of its own."""
    from matplotlib.colors import to_rgb
    from PIL import Image

    rows = [report(i * 1000, 10.0 * i) for i in range(1, 41)]
    rows += [evaluation(20_000, 100.0), evaluation(20_000, 100.0) | {"kind": "collapse"}]
    rows += [evaluation(40_000, 300.0, purpose="confirm"), evaluation(40_000, 300.0, purpose="final")]
    plot_runs([make_run("a", rows)], tmp_path / "marks.png")
    with Image.open(tmp_path / "marks.png") as image:
        pixels = np.asarray(image.convert("RGB"))[:380]  # without the legend
    for colour in (plots.COLOURS[1], plots.COLOURS[2], plots.INK):
        near = np.abs(pixels - 255 * np.array(to_rgb(colour))).max(axis=2) < 3
        assert near.sum() > 30, colour


def groups_of(runs: Sequence[Path]) -> lines.Groups:
    made = [lines.line_of(run) for run in runs]
    return lines.grouped(made, plots.labels([line.settings for line in made]))


@pytest.mark.parametrize("runs", [2, 4, 5])
def test_fewer_than_five_runs_are_drawn_one_by_one_without_a_mean_or_a_band(runs: int, make_run: MakeRun) -> None:
    """The 95 % bootstrap band of three runs is their minimum and maximum."""
    from matplotlib.figure import Figure

    made = [make_run(f"r{number}", level=100.0 * number + 100) for number in range(runs)]
    panel = Figure().subplots()
    plots._draw_groups(panel, groups_of(made), "steps")
    curves = [line for line in panel.get_lines() if len(line.get_xdata()) > 1]
    assert len(curves) == runs + (runs == 5)  # each, and the mean of five
    words = words_of(made)
    assert (plots.BAND in words) == ("their mean (thick" in words) == (runs == 5)
    assert "last evaluation of an unfinished run" in words


def test_runs_that_are_drawn_one_by_one_have_the_colour_of_their_group_and_the_dashes_of_their_seed(
    make_run: MakeRun,
) -> None:
    from matplotlib.figure import Figure

    runs = [
        settings_of(make_run(f"{preset}{seed}", preset=preset), seed=seed)
        for preset in ("appo", "impala")
        for seed in (7, 10)
    ]
    panel = Figure().subplots()
    plots._draw_groups(panel, groups_of(runs), "steps")
    curves = [line for line in panel.get_lines() if len(line.get_xdata()) > 1]
    assert [line.get_linestyle() for line in curves] == ["-", "--"] * 2
    assert len({line.get_color() for line in curves}) == 2
    assert [f"seed {seed}<" in words_of(runs) for seed in (7, 10)] == [True, True]
    many = [settings_of(make_run(f"many{seed}"), seed=seed) for seed in range(5)]
    assert "seed" not in words_of(many)  # a mean, and thin lines


def stars_in(panel: Any) -> list[Any]:
    """Without those of the legend."""
    return [line for line in panel.get_lines() if line.get_marker() == "*" and len(line.get_xdata())]


def test_a_final_evaluation_that_missed_its_target_is_a_hollow_star_and_the_legend_says_so(make_run: MakeRun) -> None:
    from matplotlib.colors import same_color
    from matplotlib.figure import Figure

    def made(name: str, mean: float, **more: Any) -> Path:
        return make_run(name, [report(1000, 5.0), report(2000, 6.0), evaluation(2000, mean, purpose="final")], **more)

    runs = made("reached", 475.0), made("missed", 474.9), made("without", 1.0, target='"none"')
    for run, says in zip(runs, ("target reached<", "target missed<", ""), strict=True):
        panel = Figure().subplots()
        plots._draw_run(panel, lines.line_of(run), "steps", returns=True)
        (star,) = stars_in(panel)
        assert same_color(star.get_markerfacecolor(), "white") == (says == "target missed<")
        assert same_color(star.get_markeredgecolor(), "white") == (says != "target missed<")
        words = words_of([run])
        assert [each in words for each in ("target reached<", "target missed<")] == [
            each == says for each in ("target reached<", "target missed<")
        ]
    panel = Figure().subplots()
    plots._draw_groups(panel, groups_of(runs), "steps")
    assert [same_color(star.get_markerfacecolor(), "white") for star in stars_in(panel)] == [False, True, False]
    words = words_of(runs)
    assert "target reached<" in words
    assert "target missed<" in words


def test_a_resumed_run_that_reached_its_target_at_last_has_a_star_of_each_kind(make_run: MakeRun) -> None:
    rows = [report(1000, 5.0), evaluation(1000, 300.0, purpose="final", weights_steps=900)]
    rows += [report(2000, 5.0), evaluation(2000, 500.0, purpose="final", weights_steps=2000)]
    words = words_of([make_run("a", rows)])
    assert words.index("target reached<") < words.index("weights of step 2,000<")
    assert words.index("target missed<") < words.index("weights of step 900, evaluated at step 1,000<")


def test_evaluations_of_several_runs_are_drawn_and_named(make_run: MakeRun) -> None:
    from matplotlib.figure import Figure

    rows = [report(steps, steps / 100) for steps in range(1000, 9000, 1000)]
    seen = [evaluation(3000, 40.0), evaluation(6000, 70.0), evaluation(8000, 90.0, purpose="final")]
    runs = [settings_of(make_run(name, rows + seen), seed=seed) for seed, name in enumerate("abcdef")]
    for count in (2, 6):
        panel = Figure().subplots()
        plots._draw_groups(panel, groups_of(runs[:count]), "steps")
        drawn = [line for line in panel.get_lines() if line.get_marker() == "D" and len(line.get_xdata())]
        assert [line.get_xydata().tolist() for line in drawn] == [[[3000, 40.0], [6000, 70.0]]] * count
        assert "evaluation of the newest weights (greedy)<" in words_of(runs[:count])
    assert "newest weights" not in words_of([make_run("g", rows), make_run("h", rows)])


def test_final_evaluations_at_one_point_are_all_seen_side_by_side(make_run: MakeRun) -> None:
    from matplotlib.figure import Figure

    rows = [report(1000, 5.0), report(2000, 6.0), evaluation(2000, 500.0, purpose="final")]
    runs = [settings_of(make_run(name, rows), seed=seed) for seed, name in enumerate("abc")]
    runs.append(settings_of(make_run("d", [*rows[:2], evaluation(2000, 100.0, purpose="final")]), seed=3))
    panel = Figure().subplots()
    assert plots._draw_groups(panel, groups_of(runs), "steps")
    at = [star.get_transform().transform(star.get_xydata())[0] for star in stars_in(panel)]
    points = [(x * 72 / panel.figure.dpi, y) for x, y in at]
    middle = points[3][0]  # the one alone, whose x is the same
    assert [x - middle for x, _ in points[:3]] == pytest.approx([-plots.PLACE_POINTS, 0.0, plots.PLACE_POINTS])
    assert len({round(y, 3) for _, y in points[:3]}) == 1
    assert [plots.MOVED_NOTE in words_of(those) for those in (runs, runs[2:])] == [True, False]


@pytest.mark.parametrize("metric", ["return_mean", "entropy"])
def test_runs_of_one_setting_are_told_apart_also_with_one_seed_and_their_resumptions_are_marked(
    metric: str, make_run: MakeRun, tmp_path: Path
) -> None:
    from matplotlib.figure import Figure

    rows = with_entropy([report(steps, 9.0) for steps in range(1000, 9000, 1000)], 0.5)
    resumed = [*rows[:4], {"kind": "resume", "steps": 4500, "seconds": 0.09}, *rows[4:]]
    runs = [make_run("one", rows), make_run("two", resumed), make_run("three", rows)]
    panel = Figure().subplots()
    groups = lines.grouped(lines.lines_of(runs, metric), ["appo"] * 3)
    plots._draw_groups(panel, groups, "steps")
    curves = [line for line in panel.get_lines() if len(line.get_xdata()) > 1]
    assert len({(line.get_color(), str(line.get_linestyle())) for line in curves}) == 3
    (mark,) = (line for line in panel.get_lines() if line.get_marker() == "o" and len(line.get_xdata()))
    assert mark.get_xdata().tolist() == [4500]
    assert mark.get_markeredgecolor() == curves[1].get_color()
    words = ""
    for out in ("alone.svg", "besides.svg"):  # the only setting, and one of two
        others = [str(make_run("other", rows, preset="impala"))] if out == "besides.svg" else []
        assert cli.run(["plot", *map(str, runs), *others, "--metric", metric, "-o", f"{tmp_path / out}"]) == 0
        words = (tmp_path / out).read_text()
        for name in (
            "appo, one<",
            "appo, two<",
            "appo, three<",
            "where a run was resumed<",
            "mean over 10 % of the run",
        ):
            assert name in words, (out, name)
    assert "impala<" in words


def test_runs_of_a_group_share_its_name_and_colour_whatever_limits_they_were_resumed_to(make_run: MakeRun) -> None:
    runs = [make_run("a"), settings_of(make_run("b"), seed=4, stop={"target": 475.0, "steps": 900}), make_run("c")]
    out = runs[0].parent / "picture.svg"
    plot_runs(runs, out, names=["appo, tuned", "appo, tuned", "impala, untuned"], note="not drawn: impala, seed 9")
    words = out.read_text()
    assert "appo, tuned (2 runs)" in words
    assert "impala, untuned<" in words
    assert "not drawn: impala, seed 9" in words
    for preset in ("appo", "impala"):  # their colours in every picture
        assert looks.styles([preset])[0].colour.lower() in words.lower()


def test_returns_of_several_environments_are_noted_to_have_no_common_scale(make_run: MakeRun) -> None:
    runs = [make_run("a"), make_run("b")]
    assert plots.SEVERAL not in words_of(runs)
    assert plots.SEVERAL in words_of([*runs, make_run("c", env="Acrobot-v1")])


def test_runs_and_pictures_may_be_named_by_text(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run("a")
    assert read_curve(str(run)).steps.tolist() == read_curve(run).steps.tolist()
    plot_runs([str(run)], str(tmp_path / "text.png"))
    assert (tmp_path / "text.png").exists()


def test_a_target_in_words_draws_no_line(make_run: MakeRun) -> None:
    assert "target" not in words_of([make_run("a", target='"none"')])


@pytest.mark.parametrize("file", ["summary.json", "checkpoints/500/state.json"])
def test_a_target_that_is_auto_is_drawn_as_the_run_resolved_it(file: str, make_run: MakeRun) -> None:
    """From the summary, or from the newest checkpoint of a run under way; nothing where it is not known yet."""
    run = make_run("a", target='"auto"')
    assert "target" not in words_of([run])
    (run / "checkpoints" / "500").mkdir(parents=True)
    (run / file).write_text('{"target": 475.0}')
    assert "target 475" in words_of([run])
    (run / file).write_text('{"target": null}')
    assert "target" not in words_of([run])


def test_the_picture_of_an_untuned_run_has_the_target(tmp_path: Path) -> None:
    command = "train CartPole-v1 --untuned --steps 300 --actors 1 --run-dir run --quiet --evaluation.final_episodes 1"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        assert cli.run(command.split()) == 0
        assert cli.run(["plot", "run", "--output", "run.svg"]) == 0
        (tmp_path / "run" / "summary.json").unlink()
        assert cli.run(["plot", "run", "--output", "under_way.svg"]) == 0
    assert all("target 475" in (tmp_path / name).read_text() for name in ("run.svg", "under_way.svg"))


def test_a_title_of_ones_own(make_run: MakeRun) -> None:
    assert "Ten seeds" in words_of([make_run("a")], "Ten seeds")


@pytest.mark.parametrize(
    ("one", "two", "labels"),
    [
        ({}, {"preset": "impala"}, ["appo (2 runs)", "impala (2 runs)"]),
        ({}, {"env": "Acrobot-v1"}, ["CartPole-v1 (2 runs)", "Acrobot-v1 (2 runs)"]),
        (
            {"env": "Acrobot-v1"},
            {"preset": "impala"},
            ["Acrobot-v1 · appo (2 runs)", "CartPole-v1 · impala (2 runs)"],
        ),
    ],
)
def test_several_runs_are_grouped_where_they_differ(
    one: dict[str, str], two: dict[str, str], labels: list[str], make_run: MakeRun
) -> None:
    runs = [make_run(f"a{i}", **one) for i in range(2)] + [make_run(f"b{i}", **two) for i in range(2)]
    for i, run in enumerate(runs):
        settings_of(run, seed=i % 2)
    words = words_of(runs)
    assert all(label in words for label in labels)
    assert words.count(" runs)") == len(labels)


def settings_of(run: Path, **sections: Any) -> Path:
    """The run with these settings in its config.toml as well, and with what summary.json says was measured."""
    measured = sections.pop("measured", None)
    if measured is not None:
        (run / "summary.json").write_text(json.dumps({"measured": measured}))
    config = tomllib.loads((run / "config.toml").read_text())
    (run / "config.toml").write_text(tomli_w.dumps(config | sections))
    return run


def labels_of(runs: Sequence[Path]) -> dict[str, int]:
    """The labels of the lines, and of how many runs each is."""
    return {label: len(lines) for label, lines in groups_of(runs).items()}


def test_runs_of_different_settings_are_lines_of_their_own_named_by_what_differs(make_run: MakeRun) -> None:
    """Two learning rates with two seeds each: no mean and no band across them."""
    runs = [
        settings_of(make_run(f"{rate}-{seed}"), seed=seed, learner={"learning_rate": rate, "epochs": 4})
        for rate in (0.001, 0.01)
        for seed in (1, 2)
    ]
    assert labels_of(runs) == {"appo · learner.learning_rate=0.001": 2, "appo · learner.learning_rate=0.01": 2}
    out = runs[0].parent / "picture.svg"
    assert cli.run(["plot", *map(str, runs), "-o", str(out)]) == 0
    assert "learner.learning_rate=0.001 (2 runs)" in out.read_text()


def test_a_setting_that_one_run_does_not_know_has_its_default(make_run: MakeRun) -> None:
    runs = [make_run("old"), settings_of(make_run("new"), network={"core": "none", "hidden": [64, 64]})]
    assert labels_of([*runs, settings_of(make_run("wide"), network={"hidden": [128, 128]})]) == {
        "appo · network.hidden=64,64": 2,
        "appo · network.hidden=128,128": 1,
    }


def test_what_was_measured_is_no_setting_of_ones_own(make_run: MakeRun) -> None:
    runs = [
        settings_of(make_run("a"), actor={"count": 2}, measured=["actor.count"]),
        settings_of(make_run("b"), actor={"count": 4}, measured=["actor.count"]),
        settings_of(make_run("c"), actor={"count": 4}, measured=[]),
    ]
    assert labels_of(runs) == {"appo · actor.count=auto": 2, "appo · actor.count=4": 1}


def test_one_that_still_trains_is_in_the_group_of_those_that_have_ended(make_run: MakeRun, tmp_path: Path) -> None:
    """What was measured is said in summary.json, and that is written at the end."""
    one, two = (settings_of(make_run(name), actor={"count": count}) for name, count in (("one", 2), ("two", 3)))
    (one / "summary.json").write_text('{"measured": ["actor.count"]}')
    words = words_of([one, settings_of(two, seed=4), make_run("other", preset="impala")])
    assert "appo (2 runs)" in words


def with_entropy(rows: Sequence[dict[str, Any]], at: float) -> list[dict[str, Any]]:
    return [row | {"entropy": at - row["steps"] / 1e5, "shares": {"actor": {"wait": 0.5}}} for row in rows]


def test_any_metrics_of_reports_are_drawn_one_below_the_other(make_run: MakeRun, tmp_path: Path) -> None:
    from PIL import Image

    rows = [report(steps, 9.0) for steps in range(1000, 41_000, 1000)]
    runs = [make_run("a", with_entropy(rows, 0.7)), make_run("b", with_entropy(rows, 0.6), preset="impala")]
    runs.append(make_run("without", rows, preset="a3c"))
    command = ["plot", *map(str, runs), "-o", f"{tmp_path}/new.png", "--metric", "entropy,shares.actor.wait"]
    assert cli.run(command) == 0
    with Image.open(tmp_path / "new.png") as image:
        assert image.size == (1200, 800)
        assert_looks_the_same(np.asarray(image.convert("RGB")), "plot-of-metrics", tmp_path)
    plot_runs(runs[:1], tmp_path / "one.svg", metrics=["entropy"])
    words = (tmp_path / "one.svg").read_text()
    for expected in ("entropy", "each report", "smoothed", "preset appo"):
        assert expected in words
    for other in ("return", "evaluation", "target"):
        assert other not in words


@pytest.mark.parametrize(
    ("metric", "error"),
    [
        ("entropie", "'entropie': no metric; did you mean entropy? (docs/metrics.md names them)"),
        ("return_min", "'return_min': no report has a value of it (docs/metrics.md names them)"),
        ("kind", "'kind': no metric"),
    ],
)
def test_a_metric_that_no_run_has_is_named_with_the_nearest(
    metric: str, error: str, make_run: MakeRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run("a", with_entropy([report(1000, 1.0) | {"return_min": None}], 0.5))
    assert cli.run(["plot", str(run), "--metric", metric, "-o", f"{tmp_path}/new.png"]) == 2
    assert error in capsys.readouterr().err


def test_many_differences_are_counted_and_still_tell_the_runs_apart(make_run: MakeRun) -> None:
    names = ("lam", "gamma", "clip", "rho_clip", "value_coefficient")
    values = [(0.1, 0.1, 0.1, 1, 1), (0.2, 0.2, 0.2, 1, 1), (0.2, 0.2, 0.2, 1, 2), (0.2, 0.2, 0.2, 2, 1)]
    runs = [settings_of(make_run(f"r{i}"), loss=dict(zip(names, row, strict=True))) for i, row in enumerate(values)]
    found = list(labels_of(runs))
    assert len(found) == len(runs)
    assert found[1] == "appo · loss.lam=0.2 · loss.gamma=0.2 · loss.clip=0.2 · 2 more"
    assert all(len(label) < 120 for label in found)


def test_tuned_and_untuned_are_told_apart(make_run: MakeRun) -> None:
    gammas = {True: 0.95, False: 0.9}
    runs = [settings_of(make_run(f"r{tuned}"), tuned=tuned, loss={"gamma": gammas[tuned]}) for tuned in gammas]
    assert labels_of(runs) == {"appo · tuned": 1, "appo · untuned": 1}


def test_a_preset_has_the_same_colour_in_every_picture(make_run: MakeRun) -> None:
    a, b, c = (make_run(preset, preset=preset) for preset in ("impala", "appo", "article"))
    names = ("appo", "article", "impala")
    colours = dict(zip(names, (look.colour for look in looks.styles(names)), strict=True))
    assert len(set(colours.values())) == 3
    for group in ([a, b], [b, a], [c, a]):
        words = words_of(group).lower()
        for preset, colour in colours.items():
            assert (colour.lower() in words) == (preset in {run.name for run in group})


@pytest.mark.parametrize(("reports", "scale"), [(9, "log"), (11, "linear")])
def test_an_axis_is_logarithmic_where_one_group_is_a_tenth_of_another(
    reports: int, scale: str, make_run: MakeRun, tmp_path: Path
) -> None:
    from matplotlib.figure import Figure

    long = make_run("a", [report(i * 1000, 5.0) for i in range(1, 101)])
    short = make_run("b", [report(i * 1000, 5.0) for i in range(1, reports + 1)], preset="impala")
    panel = Figure().subplots()
    plots._draw_groups(panel, groups_of([long, short]), "seconds")
    assert panel.get_xscale() == scale
    assert ("seconds (logarithmic)<" in words_of([long, short])) == (scale == "log")


@pytest.mark.parametrize(
    ("two", "drawn"),
    [
        ({}, ["target 475<"]),
        ({"target": '"none"'}, ["target 475 of appo<", "targets differ: 475 (appo), none (article)<"]),
        ({"target": "200.0"}, ["target 475 of appo<", "target 200 of article<", "differ: 475 (appo), 200 (article)<"]),
        ({"env": "Acrobot-v1"}, []),
    ],
)
def test_targets_are_drawn_and_where_they_differ_their_runs_are_named(
    two: dict[str, str], drawn: list[str], make_run: MakeRun
) -> None:
    words = words_of([make_run("a"), make_run("b", **({"preset": "article"} | two))])
    assert all(each in words for each in drawn)
    assert ("target" in words, "targets differ" in words) == (bool(drawn), len(drawn) > 1)


def test_a_run_that_was_resumed_with_another_target_is_named_by_its_seed(make_run: MakeRun) -> None:
    runs = [settings_of(make_run(f"r{seed}", target=f"{100 * (seed // 2) + 100}.0"), seed=seed) for seed in range(4)]
    resumed = settings_of(make_run("resumed", target='"none"'), seed=4)
    out = runs[0].parent / "picture.svg"
    plot_runs([*runs, resumed], out, names=["one", "one", "two", "two", "two"])
    assert "targets differ: 100 (one), 200 (two), none (two, seed 4)<" in out.read_text()


def test_the_band_is_the_percentile_bootstrap_of_the_mean() -> None:
    """Against resampling written out; for two runs the mean is a, (a + b) / 2 or b."""
    values = np.random.default_rng(1).normal(size=(8, 3)) + 10 * np.arange(3)
    draws = np.random.default_rng(2).integers(8, size=(20_000, 8))
    low, high = np.percentile(values[draws].mean(axis=1), [2.5, 97.5], axis=0)
    found_low, found_high = lines.bootstrap_band(values)
    assert found_low == pytest.approx(low, abs=0.05)
    assert found_high == pytest.approx(high, abs=0.05)
    low, high = lines.bootstrap_band(np.array([[1.0], [3.0]]))
    assert (low[0], high[0]) == (1.0, 3.0)


def test_smoothing_is_the_mean_over_the_episodes_nearby() -> None:
    x = np.array([0.0, 4.0, 100.0])
    smooth = lines.smoothed(x, np.array([1.0, 4.0, 9.0]), np.array([2.0, 1.0, 1.0]))
    assert smooth == pytest.approx([1.0, 2.0, 9.0])


def test_many_short_episodes_at_the_beginning_do_not_pull_the_smoothed_line_below_a_rise(make_run: MakeRun) -> None:
    rows, episodes = [], 0
    for steps in range(1000, 101_000, 1000):
        episodes += 1000 * 50 // steps + 1
        rows.append(report(steps, steps / 200, episodes))
    line = lines.line_of(make_run("a", rows))
    assert line.smooth[:95] == pytest.approx(line.curve.returns[:95])


def test_the_smoothed_line_begins_where_the_returns_begin() -> None:
    """A line that rises stays as it is, from its first point on."""
    x = np.linspace(0.0, 200_000.0, 401)
    y = 18.0 + x / 500
    smooth = lines.smoothed(x, y, np.ones_like(x))
    assert smooth[:380] == pytest.approx(y[:380])
    assert smooth[-1] == pytest.approx(y[-1], rel=0.01)


def test_what_a_resumed_run_did_again_is_drawn_once(make_run: MakeRun) -> None:
    first = [report(1000, 1.0), report(2000, 2.0), evaluation(2500, 99.0), report(3000, 3.0)]
    again = [report(1500, 10.0), evaluation(1200, 50.0), report(2500, 20.0)]
    curve = read_curve(make_run("a", first + again))
    assert curve.steps.tolist() == [1000, 1500, 2500]
    assert curve.returns.tolist() == [1.0, 10.0, 20.0]
    seen = curve.evaluations
    assert (seen.steps.tolist(), seen.seconds.tolist(), seen.returns.tolist()) == ([1200], [1200 / 50_000], [50.0])


def test_reports_without_a_finished_episode_are_left_out(make_run: MakeRun) -> None:
    rows = [report(1000, None), report(2000, 5.0), report(3000, float("nan"))]
    assert read_curve(make_run("a", rows)).steps.tolist() == [2000]


def test_a_line_that_a_crash_cut_short_is_passed_over(make_run: MakeRun) -> None:
    run = make_run("a", [report(1000, 1.0), report(2000, 2.0)])
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "report", "st')
    assert [row["steps"] for row in read_log(run)] == [1000, 2000]


def test_a_run_without_a_readable_config_is_drawn_all_the_same(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run("a")
    (run / "config.toml").write_text("preset = ")
    plot_runs([run], tmp_path / "returns.png")
    assert (tmp_path / "returns.png").stat().st_size > 0


def test_one_report_is_enough(make_run: MakeRun, tmp_path: Path) -> None:
    plot_runs([make_run("a", [report(10, 9.0)]), make_run("b", [report(20, 9.0)])], tmp_path / "returns.png")
    assert (tmp_path / "returns.png").stat().st_size > 0


@pytest.mark.parametrize(
    ("run", "out", "words"),
    [
        ("missing", "returns.png", "is not a run directory: it has no metrics.jsonl"),
        ("empty", "returns.png", "has nothing to plot yet"),
        ("whole", "returns.jpeg", "must end in .png, .svg or .pdf"),
        ("whole", "returns", "must end in .png, .svg or .pdf"),
        ("whole", "nowhere/returns.png", "there is no folder"),
        ("whole", "folder.png", "it is a folder"),
        (None, "returns.png", "no runs to plot"),
    ],
)
def test_what_cannot_be_done_is_reported_in_a_line(
    run: str | None, out: str, words: str, make_run: MakeRun, tmp_path: Path
) -> None:
    make_run("whole")
    make_run("empty", [])
    (tmp_path / "folder.png").mkdir()
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UsageError, match=words) as error:
        plot_runs([tmp_path / run] if run else [], tmp_path / out)
    assert "\n" not in str(error.value)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_failure_half_way_leaves_the_old_picture(tmp_path: Path) -> None:
    old = tmp_path / "returns.png"
    old.write_text("old")
    with pytest.raises(KeyboardInterrupt), output_file(old, (".png",)) as unfinished:  # noqa: PT012
        unfinished.write_text("half")
        raise KeyboardInterrupt
    assert [path.read_text() for path in tmp_path.iterdir()] == ["old"]


@pytest.mark.slow
def test_nothing_heavy_is_imported_before_it_is_needed() -> None:
    modules = "troupe.runs.report.display, troupe.runs.report.plots, troupe.runs.show.terminal, troupe.runs.show.video"
    code = f"import sys, {modules}, troupe.runs.show.window; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"matplotlib", "imageio_ffmpeg", "PIL", "pygame", "rich"} & set(done.stdout.split())
