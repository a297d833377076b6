"""Several presets: the same seeds for each, one table, one picture, and what is left when something fails."""

import json
import signal
from pathlib import Path

import pytest

from troupe import Callback, TroupeError, UsageError, config
from troupe import comparison as module
from troupe.comparison import compare, policy_lag
from troupe.runs.report import group

SETTINGS = {
    "actor.count": 1, "actor.environments": 2, "actor.rollout_steps": 16, "evaluation.final_episodes": 2,
    "stop.steps": 200, "stop.target": "none", "actor.placement": "thread",
}  # fmt: skip


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def figures(tmp_path):
    return lambda: json.loads((tmp_path / "out" / "comparison.json").read_text())


@pytest.mark.slow
def test_a_table_a_picture_and_a_folder_for_each(tmp_path, capsys, figures):
    assert compare("CartPole-v1", ["impala", "appo"], range(4, 6), "out", settings=SETTINGS) == 0
    out, err = capsys.readouterr()
    assert err == ""
    table = [line.split("|")[1:4] for line in out.splitlines() if line.startswith("|")]
    assert [[cell.strip() for cell in line] for line in (table[0], *table[2:4])] == [
        ["preset", "tuned", "solved"], ["impala", "yes", "- of 2"], ["appo", "yes", "- of 2"],
    ]  # fmt: skip
    assert out.endswith("figures out/comparison.json\npicture out/comparison.png\n")
    assert (tmp_path / "out" / "comparison.png").read_bytes().startswith(b"\x89PNG")
    written = (tmp_path / "out" / "comparison.md").read_text()
    assert written.startswith("# CartPole-v1: impala, appo\n\n| preset ")
    assert written.split("\n", 2)[2].split("\n![")[0] in out
    folders = [run["folder"] for run in figures()["runs"]]
    assert folders == ["impala/seed4", "impala/seed5", "appo/seed4", "appo/seed5"]
    assert all((tmp_path / "out" / folder / "summary.json").exists() for folder in folders)


def test_each_runs_figures_are_those_of_its_summary(tmp_path, figures):
    compare("CartPole-v1", ["appo"], [7], "out", settings=SETTINGS | {"stop.target": 1.0})
    (run,) = figures()["runs"]
    summary = json.loads((tmp_path / "out" / "appo" / "seed7" / "summary.json").read_text())
    shared = run.keys() & summary.keys()
    assert {"preset", "seed", "outcome", "target", "evaluation", "steps", "training_seconds", "steps_per_s"} <= shared
    assert {name: run[name] for name in shared} == {name: summary[name] for name in shared}
    assert (run["lag_mean"], run["lag_max"]) == policy_lag(tmp_path / "out" / run["folder"])


def test_a_seed_is_trained_with_all_presets_before_the_next_seed(monkeypatch):
    trained = []

    def train(env, *, preset, seed, **rest):
        trained.append((seed, preset))
        raise TroupeError("no")

    monkeypatch.setattr(module, "train", train)
    Path("out").mkdir()
    compare("CartPole-v1", ["appo", "impala"], range(2), "out")
    assert trained == [(0, "appo"), (0, "impala"), (1, "appo"), (1, "impala")]


def test_one_that_fails_is_reported_and_the_others_continue(capsys, figures, env_where):
    env = env_where("raise ValueError('no wheels')", "impala/seed0")
    assert compare(env, ["impala", "appo"], range(2), "out", settings=SETTINGS) == 1
    out, err = capsys.readouterr()
    (line,) = err.splitlines()
    assert line.startswith("troupe: impala, seed 0: ")
    assert "ValueError: no wheels" in line
    assert "picture out/comparison.png" in out
    compared = figures()
    assert [run["folder"] for run in compared["runs"]] == ["impala/seed1", "appo/seed0", "appo/seed1"]
    (failure,) = compared["failed"]
    assert (failure["preset"], failure["seed"]) == ("impala", 0)
    assert (compared["presets"]["impala"]["seeds"], compared["presets"]["impala"]["failed"]) == (2, 1)


def test_a_preset_of_which_every_run_failed_has_a_line_without_figures(capsys, env_where):
    env = env_where("raise ValueError('no wheels')", "impala/seed0")
    assert compare(env, ["impala", "appo"], [0], "out", settings=SETTINGS) == 1
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| impala")]
    assert line.replace(" ", "") == "|impala|no|-of1|-|-|-|-|-|-|-|-|"


def test_a_signal_ends_the_runs_and_what_is_done_is_compared(tmp_path, capsys, figures, env_where):
    env = env_where(ONCE, "impala/seed0")
    assert compare(env, ["appo", "impala"], range(2), "out", settings=SETTINGS) == 128 + signal.SIGINT
    assert "picture out/comparison.png" in capsys.readouterr().out
    assert figures()["presets"].keys() == {"appo"}
    assert not (tmp_path / "out" / "appo" / "seed1").exists()


def test_a_signal_between_two_runs_does_the_same(monkeypatch, capsys, figures):
    from troupe.trainer import train

    def until_impala(env, *, preset, **rest):
        if preset == "impala":
            raise KeyboardInterrupt(signal.SIGTERM)
        return train(env, preset=preset, **rest)

    monkeypatch.setattr(module, "train", until_impala)
    assert compare("CartPole-v1", ["appo", "impala"], range(2), "out", settings=SETTINGS) == 128 + signal.SIGTERM
    assert capsys.readouterr().err == "troupe: interrupted\n"
    assert figures()["presets"].keys() == {"appo"}


def test_a_run_without_an_episode_is_compared_but_not_drawn(tmp_path, capsys):
    settings = SETTINGS | {"topology": "serial", "actor.count": 1, "stop.steps": 1, "actor.rollout_steps": 1}
    assert compare("CartPole-v1", ["appo"], [3], "out", settings=settings) == 0
    out, err = capsys.readouterr()
    assert "| appo " in out
    assert err == "troupe: appo, seed 3: not in the picture: no episode ended\n"
    assert not (tmp_path / "out" / "comparison.png").exists()


@pytest.mark.parametrize(
    ("presets", "settings", "words"),
    [
        (["appo", "impla"], {}, "no preset 'impla'; did you mean impala?"),
        (["appo", "article"], {"loss.kind": "appo"}, "preset article: actor.window_steps = 8: "),
        (["appo"], {"learner.epoch": 1}, "preset appo: no setting 'learner.epoch'; did you mean learner.epochs?"),
    ],
)
def test_settings_that_one_preset_does_not_allow_are_refused_before_any_run_starts(tmp_path, presets, settings, words):
    with pytest.raises(UsageError) as error:
        compare("CartPole-v1", presets, range(2), "out", settings=settings)
    assert str(error.value).startswith(words)
    assert list(tmp_path.iterdir()) == []


ONCE = "pathlib.Path('sent').exists() or pathlib.Path('sent').touch() or os.kill(os.getpid(), signal.SIGINT)"


@pytest.mark.slow
def test_the_same_call_continues_what_a_signal_ended_and_keeps_what_is_done(capsys, figures, env_where):
    """The interrupted run, and those not begun, are named in the table, in the figures and in the picture's note."""
    env = env_where(ONCE, "impala/seed0")
    again = lambda: compare(env, ["appo", "impala"], range(2), "out", settings=SETTINGS)  # noqa: E731
    assert again() == 128 + signal.SIGINT
    out = capsys.readouterr().out
    missing = "impala, seed 0 (interrupted); appo, seed 1 (not started); impala, seed 1 (not started)"
    assert out.count("impala, seed 0 (interrupted)") == 1
    written = Path("out/comparison.md").read_text()
    assert f"Not in these figures: {missing}." in " ".join(written.split())
    assert out.endswith(f"not done: {missing}\nto continue: the same command with --run-dir out\n")
    assert [(each["folder"], each["state"]) for each in figures()["unfinished"]] == [
        ("impala/seed0", "interrupted"), ("appo/seed1", "not started"), ("impala/seed1", "not started"),
    ]  # fmt: skip
    assert group.unfinished_words(Path("out")) == missing
    done = (Path("out") / "appo" / "seed0" / "metrics.jsonl").read_bytes()
    assert again() == 0
    assert capsys.readouterr().out.startswith("1 of 4 runs are done already\n")
    assert (Path("out") / "appo" / "seed0" / "metrics.jsonl").read_bytes() == done
    assert [run["folder"] for run in figures()["runs"]] == ["appo/seed0", "appo/seed1", "impala/seed0", "impala/seed1"]
    assert figures()["unfinished"] == []
    assert (Path("out") / "impala" / "seed0" / "config.toml").exists()


def test_seeds_and_presets_may_be_added_and_other_settings_are_refused(run_command, figures):
    small = " ".join(f"--{name} {value}" for name, value in SETTINGS.items() if not name.startswith("stop."))
    words = f"compare CartPole-v1 --run-dir out --quiet --target none {small}"
    assert run_command(f"{words} --presets appo --seeds 1 --steps 200")[0] == 0
    assert run_command(f"{words} --presets appo,impala --seeds 1 --steps 200")[0] == 0
    assert [run["folder"] for run in figures()["runs"]] == ["appo/seed0", "impala/seed0"]
    before = Path("out/comparison.json").read_bytes()
    status, out, err = run_command(f"{words} --presets appo --seeds 1 --steps 200")
    assert (status, out) == (2, "")
    assert err.startswith("troupe: 'out' holds 1 run more than are asked for, such as impala/seed0: ask for them, too")
    assert Path("out/comparison.json").read_bytes() == before
    status, out, err = run_command(f"{words} --presets appo --seeds 1 --steps 300")
    assert (status, out) == (2, "")
    assert err == (
        "troupe: 'out' holds runs with stop.steps = 200, not stop.steps = 300: repeat the command that began them, or "
        "name another --run-dir\n"
    )


def test_presets_that_the_settings_make_the_same_are_refused(run_command):
    Path("all.toml").write_text(config.to_toml(config.resolve("CartPole-v1", tuned=False)))
    status, _, err = run_command("compare --config all.toml --presets appo,impala --run-dir out")
    assert (status, err) == (2, "troupe: appo and impala have the same settings: it would be trained twice\n")
    assert not Path("out").exists()


def test_callbacks_are_called_in_runs_that_begin_and_in_those_that_are_resumed(figures, env_where):
    class Counts(Callback):
        def on_start(self, run):
            begun.append(run.path.parent.name)

    begun: list[str] = []
    env = env_where(ONCE, "impala/seed0")
    for _ in range(2):
        compare(env, ["appo", "impala"], [0], "out", settings=SETTINGS, callbacks=[Counts()])
    assert begun == ["appo", "impala", "impala"]


@pytest.mark.usefixtures("pictures")
@pytest.mark.slow
def test_a_resumed_run_stays_one_of_its_group_in_the_picture(run_command, monkeypatch):
    drawn = []
    monkeypatch.setattr(group, "plot_runs", lambda runs, out, **more: drawn.append((len(runs), more["names"])))
    assert compare("CartPole-v1", ["appo"], range(2), "out", settings=SETTINGS) == 0
    Path("out/comparison.png").touch()
    assert run_command("resume out/appo/seed1 --steps 300 --quiet")[0] == 0
    assert drawn == [(2, ["appo", "appo"])] * 2


def test_a_folder_that_holds_something_is_refused(tmp_path):
    (tmp_path / "out" / "appo").mkdir(parents=True)
    with pytest.raises(UsageError, match="'out' is not empty; name another run_dir="):
        compare("CartPole-v1", ["appo"], range(2), "out", settings=SETTINGS)


def test_the_lag_of_a_run_is_the_mean_by_step(tmp_path):
    """(100 * 1 + 300 * 3 + 0) / 400 = 2.5; the last report, without a step, does not count."""
    rows = [
        {"kind": "report", "steps": 100, "lag_mean": 1.0, "lag_max": 2},
        {"kind": "evaluation", "steps": 200},
        {"kind": "report", "steps": 400, "lag_mean": 3.0, "lag_max": 7},
        {"kind": "report", "steps": 400, "lag_mean": 0.0, "lag_max": 0},
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    assert policy_lag(tmp_path) == (2.5, 7)


def test_the_figures_of_a_preset_worked_out():
    def run(outcome, mean, steps, seconds, lag):
        return {
            "outcome": outcome, "target": 9.0, "evaluation": {"mean_return": mean}, "steps": steps,
            "training_seconds": seconds, "steps_per_s": steps / seconds, "lag_mean": lag, "lag_max": 2 * lag,
        }  # fmt: skip

    runs = [run("solved", 10.0, 100, 1.0, 1.0), run("steps", 4.0, 300, 2.0, 3.0), run("solved", 13.0, 100, 4.0, 6.0)]
    assert module.variant_figures(runs) == {
        "target": 9.0,
        "solved": 2,
        "mean_return": 9.0,
        "lowest_return": 4.0,
        "median_steps": 100.0,
        "median_training_seconds": 2.0,
        "median_seconds_to_target": 2.5,
        "median_seconds_at_limit": 2.0,
        "median_steps_per_s": 100.0,
        "lag_mean": 3.2,  # (100 * 1 + 300 * 3 + 100 * 6) / 500
        "lag_max": 12.0,
    }


LIMITS = {"steps": 1_000_000, "seconds": 0.0}


@pytest.mark.parametrize(
    ("variants", "words"),
    [
        ({"appo": (475.0, LIMITS), "impala": (475.0, LIMITS)},
         "Target: 475, the same for all. Limit: 1,000,000 steps, the same for all."),
        ({"appo": (475.0, LIMITS), "article": (None, {"steps": 9, "seconds": 30.0})},
         "Targets differ: see the column. Limit: differs: 1,000,000 steps (appo), 9 steps or 30 s (art"),
        ({"article": (None, {"steps": 0, "seconds": 0.0})}, "Target: none. Limit: none."),
    ],
)  # fmt: skip
def test_the_note_names_target_and_limit_or_each(variants, words):
    rows = {label: {"limits": limits} for label, (_, limits) in variants.items()}
    runs = [{"preset": label, "target": target} for label, (target, _) in variants.items()]
    assert module.note(rows, runs).replace("\n", " ").startswith(words)


def test_where_targets_differ_each_row_has_its_own_and_that_of_a_run_resumed_with_another():
    targets = [
        ("appo, stop.target=150", 0, 150.0),
        ("appo, stop.target=475", 0, None),
        ("appo, stop.target=475", 1, 475.0),
    ]
    runs = [{"preset": label, "seed": seed, "target": target} for label, seed, target in targets]
    variants = {run["preset"]: {"tuned": True, "seeds": 2, "solved": 1} for run in runs} | {
        "article": {"tuned": True, "seeds": 2}
    }
    head, _, *rows = [line.split("|")[1:5] for line in module.table(variants, runs)]
    assert [cell.strip() for cell in head] == ["preset", "tuned", "target", "solved"]
    assert [[cell.strip() for cell in row[::2]] for row in rows] == [
        ["appo, stop.target=150", "150"], ["appo, stop.target=475", "475, seed 0: none"], ["article", "-"],
    ]  # fmt: skip
    assert "target" not in "".join(module.table(variants, runs[:1])[0].split("s to target"))


def test_of_many_runs_that_are_not_done_ten_are_named(tmp_path):
    group.begin(tmp_path, {}, [group.Member(f"{name}/seed0", name, 0) for name in "abcdefghijkl"])
    words = group.unfinished_words(tmp_path)
    assert words.startswith("a, seed 0 (not started); b, ")
    assert words.endswith("; j, seed 0 (not started); and 2 more")


def test_all_have_the_first_presets_target_and_limits_where_none_are_given(monkeypatch):
    trained = {}

    def train(env, *, preset, settings, **rest):
        trained[preset] = {name: value for name, value in settings.items() if name.startswith("stop.")}
        raise TroupeError("no")

    monkeypatch.setattr(module, "train", train)
    Path("out").mkdir()
    compare("CartPole-v1", ["appo", "article"], [0], "out", settings={"stop.seconds": 60})
    own = config.resolve("CartPole-v1", "appo").stop
    assert trained["appo"] == trained["article"] == {
        "stop.target": own.target, "stop.steps": own.steps, "stop.seconds": 60,
    }  # fmt: skip


def test_settings_vary_with_presets_or_instead_of_them(run_command, figures):
    small = " ".join(f"--{name} {value}" for name, value in SETTINGS.items() if not name.startswith("stop."))
    words = f"compare CartPole-v1 --seeds 1 --run-dir out --quiet --steps 200 --target none --untuned {small}"
    status, out, err = run_command(f"{words} --vary learner.learning_rate=1e-3,1e-4 --vary network.hidden=8,8")
    assert (status, err) == (0, "")
    labels = [f"appo, learner.learning_rate={rate}, network.hidden=8,8" for rate in ("1e-3", "1e-4")]
    compared = figures()
    assert list(compared["presets"]) == labels
    assert [each["tuned"] for each in compared["presets"].values()] == [False, False]
    assert compared["varied"] == {"learner.learning_rate": ["1e-3", "1e-4"], "network.hidden": ["8,8"]}
    for run, rate in zip(compared["runs"], (1e-3, 1e-4), strict=True):
        learned = config.from_toml((Path("out") / run["folder"] / "config.toml").read_text())
        assert (learned.learner.learning_rate, learned.network.hidden) == (rate, (8, 8))
    assert all(f"| {label} " in out for label in labels)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("", "--presets or --vary is required: name what to compare (troupe compare --help)"),
        ("--vary learner.learning_rate", "--vary 'learner.learning_rate': expected NAME=VALUE,VALUE,..."),
        ("--vary learner.learning_rate=1,", "--vary 'learner.learning_rate=1,': expected NAME=VALUE,VALUE,..."),
        ("--vary lr=1,2", "preset appo: no setting 'lr'; did you mean learner.learning_rate?"),
        ("--vary learner.epochs=1,x", "preset appo: learner.epochs = 'x': expected a whole number"),
        ("--vary learner.epochs=1,1", "appo, learner.epochs=1: it would be trained twice"),
    ],
)
def test_what_cannot_vary_is_one_line_and_status_2(run_command, words, line):
    status, out, err = run_command(f"compare CartPole-v1 {words} --run-dir out")
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert line in err
    assert not Path("out").exists()
