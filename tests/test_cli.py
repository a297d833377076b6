"""The command line: what it says, in how many lines, and the status it ends with."""

import errno
import importlib.metadata
import json
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from helpers import PATIENCE_SECONDS
from troupe import cli, config, console, preparation
from troupe.config.values import TABLES

TINY = "--actor.count 1 --actor.environments 2 --evaluation.final_episodes 3 --target none"
ENVIRONMENT = """
import gymnasium as gym
class Speaks(gym.Env):
    observation_space, action_space = gym.spaces.Discrete(2), gym.spaces.Text(3)

    def reset(self, *, seed=None, options=None):
        return 0, {}


class Breaks(gym.Wrapper):
    def __init__(self):
        super().__init__(gym.make("CartPole-v1"))
        self.count = 0
    def step(self, action):
        self.count += 1
        if self.count == 50:
            raise ValueError("broken wheel")
        return super().step(action)
def never():
    raise ValueError("no\\nroom")
"""


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("env.py").write_text(ENVIRONMENT)


@pytest.fixture
def troupe(run_command):
    return run_command


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("cli") / "run"
    assert cli.run(f"train CartPole-v1 --steps 2000 --run-dir {folder} --quiet {TINY}".split()) == 0
    return folder


# Wrong usage: one line, status 2, nothing made


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("foo", "no command 'foo' (troupe --help lists them)"),
        ("trian CartPole-v1", "no command 'trian'; did you mean train? (troupe --help lists them)"),
        ("train", "the following arguments are required: ENV (troupe train --help)"),
        ("train CartPole-v1 --seed", "--seed: expected one argument (troupe train --help)"),
        ("train CartPole-v1 --seed x", "--seed 'x': expected a whole number of at least 0 (troupe train --help)"),
        ("train CartPole-v1 --seed -1", "--seed '-1': expected a whole number of at least 0 (troupe train --help)"),
        ("train CartPole-v1 --seeds 0", "--seeds '0': expected a whole number of at least 1 (troupe train --help)"),
        ("train CartPole-v1 --stpes 3", "unknown argument '--stpes'; did you mean --steps? (troupe train --help)"),
        (
            "train CartPole-v1 --run_dir x",
            "unknown argument '--run_dir'; did you mean --run-dir? (troupe train --help)",
        ),
        (
            "train CartPole-v1 --learner.epoch=3",
            "unknown argument '--learner.epoch'; did you mean --learner.epochs? (troupe train --help learner)",
        ),
        (
            "train CartPole-v1 --lr 3",
            "unknown argument '--lr'; did you mean --learner.learning_rate? (troupe train --help)",
        ),
        ("train CartPole-v1 --gamma 1", "unknown argument '--gamma'; did you mean --loss.gamma? (troupe train --help)"),
        ("compare CartPole-v1 --presets appo --agents 3", "unknown argument '--agents'; did you mean --actors? ("),
        ("train CartPole-v1 --workers 3", "unknown argument '--workers'; did you mean --actors? (troupe train --help)"),
        ("train CartPole-v1 --total-timesteps 3", "unknown argument '--total-timesteps'; did you mean --steps? ("),
        ("train CartPole-v1 --hidden 3", "unknown argument '--hidden'; did you mean --network.hidden or --novelty.hid"),
        (
            "train CartPole-v1 --learner.lr 1e-3",
            "unknown argument '--learner.lr'; did you mean --learner.learning_rate? (troupe train --help learner)",
        ),
        (
            "train CartPole-v1 --actor.place thread",
            "unknown argument '--actor.place'; did you mean --actor.placement? (troupe train --help actor)",
        ),
        ("train CartPole-v1 --novelty.lr 3", "unknown argument '--novelty.lr'; did you mean --novelty.learning_rate?"),
        ("train CartPole-v1 --gama 0.9", "unknown argument '--gama'; did you mean --loss.gamma? (troupe train --help)"),
        ("train --help-al", "unknown argument '--help-al'; did you mean --help-all? (troupe train --help)"),
        ("train CartPole-v1 --zzz 3", "unknown argument '--zzz' (troupe train --help-all)"),
        ("evaluate . --lr 3", "unknown argument '--lr' (troupe evaluate --help)"),
        ("train --help lerner", "no group of settings 'lerner'; did you mean learner? (troupe train --help-all shows"),
        ("help nothing", "no command 'nothing' (troupe --help lists them)"),
        ("train CartPole-v1 --steps 100q", "--steps '100q': expected a whole number, such as 300000, 100k or 1.5M"),
        ("train CartPole-v1 --steps 1e-3", "--steps '1e-3': expected a whole number, such as"),
        ("resume . --steps 1.0005k", "--steps '1.0005k': expected a whole number of at least 1 (troupe resume --help)"),
        ("train CartPole-v1 --json --watch", "--json prints nothing else; use troupe watch RUN afterwards"),
        (
            "train CartPole-v1 --json --seeds 2",
            "--json covers a single run; with --seeds, read summary.json in each run's",
        ),
        ("train CartPole-v1 more", "unknown argument 'more' (troupe train --help)"),
        ("train CartPol-v1", "no environment 'CartPol-v1'; did you mean CartPole-v1? (troupe envs lists"),
        ("train CartPole-v1 --preset apo", "no preset 'apo'; did you mean appo? (troupe presets lists them)"),
        ("train CartPole-v1 --loss.rho_clip 0.5", "loss.rho_clip = 0.5, loss.c_clip = 1: V-trace needs a rho_clip"),
        (
            "train CartPole-v1 --topology asinc",
            "topology = 'asinc': expected one of serial | queue | hogwild | ga3c | async; did you mean async?",
        ),
        ("train CartPole-v1 --device gpu", "device = 'gpu': expected one of auto | cpu | cuda"),
        ("train CartPole-v1 --learner.epochs 0", "learner.epochs = '0': expected a whole number of at least 1"),
        ("train CartPole-v1 --steps 1.5", "--steps '1.5': expected a whole number, such as"),
        ("train CartPole-v1 --steps -1", "--steps '-1': expected a whole number of at least 0"),
        ("train CartPole-v1 --target nan", "--target 'nan': expected a number or one of auto | none"),
        ("train CartPole-v1 --actors 0", "--actors '0': expected a whole number of at least 1"),
        ("train CartPole-v1 --learner.learning_rate nan", "learner.learning_rate = 'nan': expected a number above 0"),
        ("train CartPole-v1 --time soon", "'soon' is not a time: write 30s, 5m or 1.5h"),
        ("train CartPole-v1 --target high", "--target 'high': expected a number or one of auto | none"),
        ("train env.py:Speaks", "action space Text("),
        ("train env.py:never", "environment env.py:never cannot be made: ValueError: no room"),
        ("train env.py:nevr", "env.py has no callable 'nevr'; did you mean never?"),
        ("train nowhere.py:make", "no file 'nowhere.py'"),
        ("train CartPole-v1 --run-dir env.py", "'env.py' is a file; --run-dir names a directory"),
        ("train CartPole-v1 --run-dir env.py/run", "run directory 'env.py/run' cannot be written: Not a directory"),
        ("compare CartPole-v1", "--presets or --vary is required: name what to compare (troupe compare --help)"),
        ("compare CartPole-v1 --presets appo,impla", "no preset 'impla'; did you mean impala? (troupe presets lists"),
        (
            "compare CartPole-v1 --presets appo,impala,appo",
            "--presets 'appo,impala,appo': appo occurs twice (troupe compare --help)",
        ),
        ("compare CartPole-v1 --presets appo,", "--presets 'appo,': expected names, separated by commas"),
        ("compare CartPole-v1 --presets appo --seeds 0", "--seeds '0': expected a whole number of at least 1"),
        ("compare CartPole-v1 --presets appo --time soon", "'soon' is not a time: write 30s, 5m or 1.5h"),
        ("compare CartPole-v1 --presets appo --learner.epochs 0", "preset appo: learner.epochs = '0': expected"),
        ("compare CartPol-v1 --presets appo", "no environment 'CartPol-v1'; did you mean CartPole-v1?"),
        ("compare CartPole-v1 --presets appo --run-dir env.py", "'env.py' is a file; --run-dir names a directory"),
        ("compare CartPole-v1 --presets appo --watch", "unknown argument '--watch'"),
        (
            "train CartPole-v1 --on-collapse rolback",
            "--on-collapse 'rolback': expected one of report | rollback; did you",
        ),
        ("compare CartPole-v1 --presets appo --on-collapse x", "--on-collapse 'x': expected one of report |"),
        ("train CartPole-v1 --on-collapse rollback --record", "record: a run that goes back to its best weights (coll"),
        ("evaluate nowhere", "no run directory 'nowhere'"),
        ("evaluate .", "'.' is not a run directory: it has no config.toml"),
        ("evaluate . --episodes 0", "--episodes '0': expected a whole number of at least 1"),
        ("watch nowhere", "no run directory 'nowhere'"),
        ("resume nowhere", "no run directory 'nowhere'"),
        ("plot nowhere -o x.png", "nowhere is not a run directory: it has no metrics.jsonl"),
        ("plot nowhere", "nowhere is not a run directory: it has no metrics.jsonl"),
        ("bench CartPole-v1 --time 0s", "--time 0: expected a time above 0"),
        ("train CartPole-v1 --time=", "'' is not a time: write 30s, 5m or 1.5h"),
        ("resume . --time=", "'' is not a time: write 30s, 5m or 1.5h"),
        ("train CartPole-v1 --actors abc", "--actors 'abc': expected a whole number, or auto"),
        ("train CartPole-v1 --actors 0", "--actors '0': expected a whole number of at least 1, or auto"),
        ("train CartPole-v1 --time -3s", "'-3s' is not a time: write 30s, 5m or 1.5h"),
        ("resume . --time -3s", "'-3s' is not a time: write 30s, 5m or 1.5h"),
        ("train CartPole-v1 --steps -1.5M", "--steps '-1.5M': expected a whole number, such as 300000, 100k or 1.5M"),
        ("train CartPole-v1 --loss.gamma -1e-3", "loss.gamma = '-1e-3': expected a number of at least 0"),
        ("bench CartPole-v1 --preset apo", "no preset 'apo'; did you mean appo?"),
        ("envs more", "unknown argument 'more' (troupe envs --help)"),
    ],
)
def test_wrong_usage_is_one_line_and_leaves_nothing(troupe, words, line):
    status, out, err = troupe(words)
    assert (status, out) == (2, "")
    assert err.startswith(f"troupe: {line}")
    assert err.count("\n") == 1
    assert [file.name for file in Path().iterdir() if file.name != "__pycache__"] == ["env.py"]


@pytest.mark.parametrize("command", ["plot", "evaluate", "resume"])
def test_a_folder_of_runs_names_those_inside(troupe, command):
    for name in ("group/seed0", "group/seed1"):
        Path(name).mkdir(parents=True)
        (Path(name) / "config.toml").touch()
    status, out, err = troupe(f"{command} group")
    assert (status, out) == (2, "")
    assert err.endswith("; it holds runs: group/seed0, group/seed1\n")


@pytest.mark.parametrize("command", ["train", "train --seeds 2", "compare --presets appo"])
def test_an_empty_run_dir_is_not_the_current_directory(capsys, command):
    name, *more = command.split()
    assert cli.run([name, "CartPole-v1", "--steps", "100", "--run-dir", "", *more]) == 2
    assert capsys.readouterr().err == "troupe: --run-dir is empty; name a directory\n"
    assert [file.name for file in Path().iterdir()] == ["env.py"]


def test_no_command_prints_help_and_is_wrong_usage(troupe):
    status, out, err = troupe("")
    assert (status, err) == (2, "")
    assert "COMMAND" in out


def test_debug_shows_the_traceback_and_keeps_the_status(troupe):
    for words, expected in ((f"train env.py:Breaks --steps 2000 {TINY} --debug", 1), ("--debug trian", 2)):
        status, _, err = troupe(words)
        assert status == expected
        assert "Traceback (most recent call last)" in err


def test_help_and_lists_import_nothing_heavy():
    for words in (["--help"], ["train", "--help"], ["envs"], ["presets"], ["trian"]):
        code = (
            "import sys\nfrom troupe import cli\n"
            f"cli.run({words!r})\n"
            "heavy = {'torch', 'gymnasium', 'numpy', 'matplotlib', 'tensorboard', 'rich', 'PIL'} & set(sys.modules)\n"
            "sys.exit(f'imports {heavy}' if heavy else 0)"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


def option(name: str) -> str:
    """A setting as help shows it: tables by their entries."""
    return f"{name}.NAME" if name in TABLES else name


def test_every_command_has_help(troupe):
    for command in ("train", "compare", "evaluate", "watch", "resume", "plot", "bench", "envs", "presets"):
        status, out, err = troupe(f"{command} --help")
        assert (status, err) == (0, "")
        assert out.startswith(f"usage: troupe {command}")
    for command in ("train", "compare", "bench"):
        out = troupe(f"{command} --help-all")[1]
        shown = [name for name in config.fields() if "." in name and name not in ("env.id", "env.files")]
        assert [name for name in shown if f"--{option(name)} V" not in out] == []
        assert "env.files" not in out


@pytest.mark.parametrize("command", ["train", "compare", "bench"])
def test_help_fits_on_one_screen_and_says_where_the_rest_is(troupe, monkeypatch, command):
    monkeypatch.setenv("COLUMNS", "80")
    out = troupe(f"{command} --help")[1]
    assert out.count("\n") <= 40
    assert max(map(len, out.splitlines())) <= 80
    assert "--learner.learning_rate V" in out
    assert f"troupe {command} --help GROUP" in out
    groups = dict.fromkeys(name.rpartition(".")[0] or "general" for name in config.fields())
    assert re.sub(r"\s+", " ", out).endswith(f"of {', '.join(groups)}. ")


def test_help_of_a_group_shows_its_settings_alone(troupe):
    status, out, err = troupe("train --help learner")
    assert (status, err) == (0, "")
    learner = [option(name) for name in config.fields() if name.startswith("learner.")]
    assert re.findall(r"--(\S+) V", out) == learner
    assert troupe("help train learner") == (0, out, "")
    assert troupe("train CartPole-v1 --help learner") == (0, out, "")
    assert re.findall(r"--(\S+) V", troupe("train --help general")[1]) == ["topology", "threads", "device"]
    assert troupe("help train") == troupe("train --help")
    assert troupe("help") == troupe("--help")


def test_every_option_is_described_by_more_than_its_default(troupe):
    for command in ("train", "compare", "evaluate", "watch", "export", "resume", "plot", "replay", "bench", "check"):
        out = troupe(f"{command} --help")[1]
        assert not re.search(r"^  \S.*  +(\(|of the )", out, re.MULTILINE), out
    assert "the optimizer, or one of your own [adam, rmsprop] (adam)" in " ".join(
        troupe("train --help learner")[1].split()
    )


def test_help_of_settings_says_once_what_the_values_in_parentheses_are(troupe):
    for words in ("train --help learner", "train --help-all"):
        assert troupe(words)[1].count("Values in parentheses are the defaults, before the preset's") == 1


def test_version(troupe):
    assert troupe("--version") == (0, f"troupe {importlib.metadata.version('troupe-rl')}\n", "")


def test_a_percentage_is_one_wherever_it_is_shown(troupe):
    for words in ("--help", "plot --help", "train --help-all"):
        assert "%%" not in troupe(words)[1]
    assert "95 % band" in troupe("plot --help")[1]


# Commands that work


def test_train_says_what_runs_and_what_came_out(troupe, monkeypatch):
    monkeypatch.setattr(preparation, "_SECONDS", 60.0)  # on a busy machine, too, what is chosen is measured and said
    status, out, err = troupe(f"train CartPole-v1 --steps 2000 --seed 3 --run-dir run {TINY}")
    assert (status, err) == (0, "")
    lines = out.splitlines()
    assert lines[0] == "CartPole-v1: preset appo, tuned for CartPole-v1 (--untuned ignores these settings), seed 3"
    assert "backend " in lines[2]
    assert "until 2,000 steps" in lines[3]
    assert lines[-4].startswith("step limit reached: mean evaluation return ")
    assert lines[-1] == "  watch:  troupe watch run"


def test_train_json_is_one_object_and_nothing_else(troupe):
    status, out, err = troupe(f"train CartPole-v1 --steps 0.5k --run-dir run --json {TINY}")
    assert (status, err) == (0, "")
    result = json.loads(out)
    assert result.keys() == {"path", "outcome", "steps", "updates", "seconds", "evaluation"}
    assert (result["path"], result["outcome"]) == (str(Path("run").absolute()), "steps")
    assert result["steps"] >= 500
    assert result["evaluation"]["episodes"] == 3
    assert config.from_toml(Path("run/config.toml").read_text()).stop.steps == 500


@pytest.mark.slow
@pytest.mark.parametrize("placement", ["thread", "process"])
def test_under_json_standard_output_is_one_object_whatever_an_environment_prints(placement):
    Path("talk.py").write_text(
        "import os, gymnasium as gym\n"
        "class Talks(gym.Wrapper):\n"
        "    def __init__(self):\n        super().__init__(gym.make('CartPole-v1'))\n"
        "    def step(self, action):\n"
        "        print('step')\n        os.write(1, b'from a library')\n        return super().step(action)\n"
    )
    script = [sys.executable, "-m", "troupe"]
    train = f"train talk.py:Talks --steps 300 --run-dir run --json --actor.placement {placement} {TINY}"
    for words, key in ((train, "path"), ("evaluate run --episodes 2 --json", "mean_return")):
        done = subprocess.run(
            script + words.split(), capture_output=True, text=True, check=True, timeout=PATIENCE_SECONDS
        )
        assert key in json.loads(done.stdout)
        assert "step" in done.stderr


def test_what_to_do_on_a_collapse_is_part_of_the_run(troupe):
    for words, answer in (("", "report"), ("--on-collapse rollback", "rollback")):
        assert troupe(f"train CartPole-v1 --steps 500 --run-dir {answer} --quiet {TINY} {words}")[0] == 0
        assert config.from_toml((Path(answer) / "config.toml").read_text()).collapse.answer == answer


@pytest.mark.usefixtures("pictures")
def test_quiet_prints_only_what_happened_in_the_end(troupe):
    status, out, err = troupe(f"train CartPole-v1 --steps 2000 --run-dir run --quiet {TINY}")
    assert (status, err) == (0, "")
    assert [line.split()[0] for line in out.splitlines()] == [
        "step",
        out.splitlines()[1].split()[0],
        "picture",
        "watch:",
    ]


def test_a_run_that_fails_is_one_line_and_status_1(troupe):
    status, out, err = troupe(f"train env.py:Breaks --steps 2000 --run-dir run --quiet {TINY}")
    assert (status, out) == (1, "")
    assert re.fullmatch(
        r"troupe: actor-0 failed: environment env.py:Breaks\[\d\]: step raised ValueError: broken wheel \(step \d+\) "
        r"\(traceback in run/error.txt; weights saved in run/checkpoints/\d+\)\n",
        err,
    )


def test_evaluate_json_is_one_object_with_its_keys(troupe, run):
    status, out, err = troupe(f"evaluate {run} --json --episodes 5")
    assert (status, err) == (0, "")
    scores = json.loads(out)
    names = {"episodes", "mean_return", "std_return", "min_return", "max_return", "mean_length"}
    names |= {"cut_off", "unfinished"}
    assert scores.keys() == names
    assert scores["episodes"] == 5
    assert scores["mean_return"] == scores["mean_length"]  # CartPole pays 1 a step
    assert json.loads(troupe(f"evaluate {run} --json --episodes 5")[1]) == scores
    assert json.loads(troupe(f"evaluate {run} --json --episodes 5 --seed 1")[1]) != scores


def test_evaluate_json_stays_one_object_beside_a_damaged_checkpoint(troupe, run, tmp_path, caplog):
    import shutil

    copy = shutil.copytree(run, tmp_path / "copy")
    (newest,) = (copy / "checkpoints").iterdir()
    shutil.copytree(newest, copy / "checkpoints" / "9999999")
    (copy / "checkpoints" / "9999999" / "state.json").write_text("{")
    status, out, _ = troupe(f"evaluate {copy} --json --episodes 2")
    assert status == 0
    assert json.loads(out)["episodes"] == 2
    assert "9999999 is damaged" in caplog.text  # main() sends it to standard error
    (newest / "state.json").write_text("{")
    status, out, err = troupe(f"evaluate {copy} --json")
    assert (status, out) == (2, "")
    assert err == f"troupe: '{copy}' holds no whole checkpoint\n"


INTERRUPTED = """
import gymnasium as gym
import numpy as np
class ThreeSteps(gym.Env):
    "Each step pays 1. The second one made is interrupted after so many steps."
    observation_space, action_space = gym.spaces.Box(0, 1, (1,), np.float32), gym.spaces.Discrete(2)
    interrupted_after, made = None, 0
    def __init__(self):
        self.number, self.steps = ThreeSteps.made, 0
        ThreeSteps.made += 1
    def reset(self, *, seed=None, options=None):
        self.left = 3
        return np.zeros(1, np.float32), {}
    def step(self, action):
        if self.number == 1 and self.steps == ThreeSteps.interrupted_after:
            raise KeyboardInterrupt(2)  # as Ctrl-C does
        self.steps += 1
        self.left -= 1
        return np.zeros(1, np.float32), 1.0, self.left == 0, False, {}
"""


@pytest.fixture
def interrupted(troupe, monkeypatch):
    """An evaluation of 20 episodes in 16 environments, interrupted after so many steps of each."""
    Path("three.py").write_text(INTERRUPTED)
    assert (
        troupe(f"train three.py:ThreeSteps --steps 100 --run-dir run --quiet --actor.placement thread {TINY}")[0] == 0
    )
    module = [each for each in list(sys.modules.values()) if "ThreeSteps" in vars(each)][-1]  # of other tests, too

    def evaluate(steps: int, words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(module.ThreeSteps, "interrupted_after", steps)
        monkeypatch.setattr(module.ThreeSteps, "made", 0)
        return troupe(f"evaluate run --episodes 20 {words}")

    return evaluate


@pytest.mark.parametrize("words", ["", "--json"])
def test_an_interrupted_evaluation_tells_what_it_has(interrupted, words):
    assert interrupted(3, words) == (130, "", "troupe: interrupted after 16 of 20 episodes: mean return 3.00\n")
    assert interrupted(1, words) == (130, "", "troupe: interrupted after 0 of 20 episodes\n")


def test_on_a_terminal_an_evaluation_counts_its_episodes(troupe, run, monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setattr("troupe.runs.report.display.COUNT_SECONDS", 0.0)
    status, out, err = troupe(f"evaluate {run} --episodes 3")
    assert status == 0
    assert out.count("\n") == 1
    shown = err.split("\r")
    assert shown[1] == "0 of 3 episodes\x1b[K"
    assert re.fullmatch(r"3 of 3 episodes: mean return [\d.]+\x1b\[K", shown[-2])
    assert shown[-1] == "\x1b[K"


def test_evaluate_in_words(troupe, run):
    status, out, _ = troupe(f"evaluate {run} --episodes 2 --stochastic")
    assert status == 0
    assert out.startswith("stochastic policy, 2 episodes: mean return ")
    assert out.count("\n") == 1


def test_bench_json_is_one_object_with_its_keys(troupe, monkeypatch):
    from troupe import bench

    monkeypatch.setattr(bench, "STAGE_SECONDS", 0.05)
    status, out, err = troupe("bench CartPole-v1 --json --time 1s --actor.environments 2")
    assert (status, err) == (0, "")
    result = json.loads(out)
    assert {"stages", "limit_steps_per_s", "steps_per_s", "fraction"} <= result.keys()
    assert result["stages"].keys() == {"env", "act", "move", "learn"}
    assert result["limit_steps_per_s"] == pytest.approx(result["cores"] / sum(result["stages"].values()))
    assert result["fraction"] == pytest.approx(result["steps_per_s"] / result["limit_steps_per_s"])
    assert result["environments_per_actor"] == 2


def test_plot_draws_one_run_and_several(troupe, run):
    for runs in (f"{run}", f"{run} {run}"):
        assert troupe(f"plot {runs} -o picture.png") == (0, "wrote picture.png\n", "")
        assert Path("picture.png").read_bytes().startswith(b"\x89PNG")


def test_plot_without_a_file_writes_one_and_says_where(troupe, run):
    assert troupe(f"plot {run}") == (0, "wrote learning.png\n", "")
    assert Path("learning.png").read_bytes().startswith(b"\x89PNG")


def test_plot_passes_over_a_line_cut_short(troupe, run, tmp_path):
    import shutil

    copy = shutil.copytree(run, tmp_path / "copy")
    with (copy / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "report", "ste')
    assert troupe(f"plot {copy} -o picture.svg")[0] == 0


def test_resume_continues_and_reports_it(troupe, run, tmp_path):
    import shutil

    copy = shutil.copytree(run, tmp_path / "copy")
    status, _, err = troupe(f"resume {copy}")
    assert status == 2
    assert re.fullmatch(r"troupe: '.*' has already run .* raise the limit with --steps or --time\n", err)
    status, _, err = troupe(f"resume {copy} --steps 1k")
    assert status == 2
    assert re.fullmatch(
        r"troupe: --steps 1,000 is not more than the [12],\d\d\d it has run; name a larger total\n", err
    )
    status, _, err = troupe(f"resume {copy} --steps 3000 --on-collapse rolback")
    assert (status, err) == (
        2,
        "troupe: --on-collapse 'rolback': expected one of report | rollback; did you mean rollback?\n",
    )
    status, out, _ = troupe(f"resume {copy} --steps 3k")
    assert status == 0
    assert re.search(r"seed 0, resumed at step 2,\d\d\d\n", out)
    assert troupe(f"resume {copy} --target abc")[2].startswith("troupe: --target 'abc': expected a number or one of")
    assert troupe(f"resume {copy} --steps 9k --target 1.5")[0] == 0
    summary = json.loads((copy / "summary.json").read_text())
    assert (summary["outcome"], "target = 1.5" in (copy / "config.toml").read_text()) == ("solved", True)
    (copy / "config.toml").write_text("[learner]\nepoch = 3\n")
    status, _, err = troupe(f"resume {copy} --steps 9000")
    assert status == 2
    assert "config.toml is damaged: no setting 'learner.epoch'; did you mean learner.epochs?" in err


def test_what_was_measured_is_known_of_a_run_that_was_killed_and_when_that_is_resumed(troupe, run, tmp_path):
    """A killed run has no summary.json."""
    import shutil

    from troupe.runs.report.labels import read_settings

    copy = shutil.copytree(run, tmp_path / "copy")
    measured = json.loads((copy / "summary.json").read_text())["measured"]
    assert "env.backend" in measured
    (copy / "summary.json").unlink()
    assert {read_settings(copy)[name] for name in measured} == {"auto"}
    assert troupe(f"resume {copy} --steps 2500 --quiet")[0] == 0
    assert json.loads((copy / "summary.json").read_text())["measured"] == measured


def test_resume_json_is_one_object_with_the_keys_of_train(troupe, run, tmp_path):
    import shutil

    copy = shutil.copytree(run, tmp_path / "copy")
    status, out, err = troupe(f"resume {copy} --steps 3k --json")
    assert (status, err) == (0, "")
    result = json.loads(out)
    assert result.keys() == {"path", "outcome", "steps", "updates", "seconds", "evaluation"}
    assert (result["path"], result["outcome"], result["steps"] >= 3000) == (str(copy), "steps", True)


def test_a_resumed_run_shows_the_best_evaluation_of_the_run_from_its_first_row_on(troupe):
    often = f"{TINY} --target none --evaluation.every_steps 200 --evaluation.every_seconds 0"
    assert troupe(f"train CartPole-v1 --steps 500 --run-dir run --quiet --topology serial {often}")[0] == 0
    metrics = Path("run/metrics.jsonl")
    rows = [json.loads(line) for line in metrics.read_text().splitlines()]
    best = next(row for row in rows if row["kind"] == "evaluation") | {"mean": 498.7}  # better than what follows
    metrics.write_text("".join(f"{json.dumps(row)}\n" for row in [*rows, best]))
    status, out, _ = troupe("resume run --steps 700")
    assert status == 0
    shown = [line.split()[3] for line in out.splitlines() if re.match(r" *\dm\d\ds ", line)]
    assert shown
    assert set(shown) == {"498.7"}


def test_seeds_give_a_table_and_a_picture(troupe):
    status, out, err = troupe(f"train CartPole-v1 --seeds 2 --seed 5 --steps 500 --run-dir out --quiet {TINY}")
    assert (status, err) == (0, "")
    assert re.search(
        r"\n +5  steps .*\n +6  steps .*\n2 of 2 runs: mean evaluation return .*\npicture out/learning.png\n$", out
    )
    assert {path.name for path in Path("out").iterdir()} == {"seed5", "seed6", "learning.png", "series.json"}


def test_compare_gives_a_table_a_picture_and_figures(troupe):
    status, out, err = troupe(
        f"compare CartPole-v1 --presets appo,impala --seeds 2 --seed 5 --steps 300 --run-dir out --quiet {TINY}"
    )
    assert (status, err) == (0, "")
    heading = r"\n\| preset \| tuned \| solved \|.*\n\| :-+ \|.*\n"
    assert re.match(heading + r"\| appo   \|   yes \| - of 2 \|.*\n\| impala \|   yes \| - of 2 \|", out)
    assert {path.name for path in Path("out").iterdir()} == {
        "appo", "impala", "comparison.json", "comparison.md", "comparison.tex", "comparison.png", "series.json"
    }  # fmt: skip
    compared = json.loads(Path("out/comparison.json").read_text())
    assert [(run["preset"], run["seed"]) for run in compared["runs"]] == [
        ("appo", 5), ("appo", 6), ("impala", 5), ("impala", 6)
    ]  # fmt: skip
    assert compared["settings"]["stop.steps"] == "300"


def test_compare_names_its_own_folder_and_shows_each_run(troupe):
    status, out, _ = troupe(f"compare CartPole-v1 --presets appo --seeds 1 --untuned --steps 300 {TINY}")
    assert status == 0
    assert out.startswith("CartPole-v1: preset appo, seed 0\n")
    assert re.search(r"\npicture runs/CartPole-v1/\d{4}-\d\d-\d\d_\d{6}_compare/comparison.png\n$", out)


def test_watch_writes_a_video_where_there_is_no_display(troupe, monkeypatch):
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    status, out, err = troupe(f"train CartPole-v1 --steps 500 --run-dir run --quiet --watch {TINY}")
    assert (status, err) == (0, "")
    assert f"wrote {Path('run').absolute()}/videos/agent.mp4" in out
    assert b"ftyp" in Path("run/videos/agent.mp4").read_bytes()[:16]


@pytest.mark.parametrize("words", ["plot {run} -o a.png", "watch {run} --video a.mp4", "export {run} a.onnx"])
def test_a_file_system_that_refuses_the_file_is_named_with_its_reason(troupe, run, monkeypatch, words):
    def refuse(path):
        raise OSError(errno.EROFS, "Read-only file system", str(path))

    monkeypatch.setattr("troupe.safe_files.create", refuse)
    file = words.split()[-1]
    status, _, err = troupe(words.format(run=run))
    assert (status, err) == (2, f"troupe: cannot write {file}: read-only file system\n")


def test_a_picture_for_which_the_disk_has_no_room_is_reported_in_a_line(troupe, run, monkeypatch):
    def fill(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", fill)
    assert troupe(f"plot {run} -o a.png") == (1, "", "troupe: cannot write a.png: no space left on device\n")
    assert not list(Path().glob("*.png")) + list(Path().glob(".*.png"))


def test_resume_after_a_row_was_written_in_part_leaves_whole_lines_and_marks_the_gap(troupe, run, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    (reached,) = (int(path.name) for path in (copy / "checkpoints").iterdir())
    first, second, *_ = (copy / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    (copy / "metrics.jsonl").write_bytes(first + second[:20])
    assert troupe(f"resume {copy} --steps {reached + 500} --quiet")[0] == 0
    rows = [json.loads(line) for line in (copy / "metrics.jsonl").read_text().splitlines()]
    (gap,) = (row for row in rows if row["kind"] == "gap")
    assert (gap["from_steps"], gap["steps"]) == (json.loads(first)["steps"], reached)


def test_envs_and_presets_list_what_there_is(troupe):
    status, out, _ = troupe("envs")
    assert status == 0
    assert "CartPole-v1" in out
    assert re.search(r"^ALE/\* +appo +-( +-){4}$", out, re.MULTILINE)  # a pattern, and nothing verified of it
    status, out, _ = troupe("presets")
    assert status == 0
    assert re.search(r"^  tuned for: CartPole-v1, .*ALE/Pong-v5$", out, re.MULTILINE)
    assert re.search(r"^  settings, not tuned, for: CartPole-v1, ALE/\*, ALE/Pong-v5$", out, re.MULTILINE)
    assert all(re.search(f"^{name}$", out, re.MULTILINE) for name in config.presets())


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_an_output_that_cannot_be_written_is_reported(unbuffered):
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-c", "from troupe.cli import main; main()", "envs"],
            stdout=full, stderr=subprocess.PIPE, text=True, check=False,
            env=os.environ | {"PYTHONUNBUFFERED": unbuffered},
        )  # fmt: skip
    assert (done.returncode, done.stderr) == (1, "troupe: the output could not be written: no space left on device\n")


def test_a_second_signal_while_the_first_is_reported_is_no_traceback(monkeypatch):
    def reports(argv):
        raise KeyboardInterrupt(signal.SIGTERM)

    monkeypatch.setattr(cli, "run", reports)
    monkeypatch.setattr(console, "end_server", lambda: None)
    monkeypatch.setattr(os, "_exit", sys.exit)
    with pytest.raises(SystemExit) as ended:
        cli.main([])
    assert ended.value.code == 128 + signal.SIGTERM


def test_a_command_that_a_signal_has_ended_leaves_no_folder_of_multiprocessing(tmp_path, monkeypatch):
    """In which the server of actors' processes has its socket."""
    monkeypatch.delitem(sys.modules, "multiprocessing.forkserver", raising=False)  # these tests' own lives on
    folder = tmp_path / "pymp-1"
    folder.mkdir()
    monkeypatch.setitem(multiprocessing.current_process()._config, "tempdir", str(folder))
    monkeypatch.setattr(cli, "run", lambda argv: 130)
    monkeypatch.setattr(os, "_exit", sys.exit)
    with pytest.raises(SystemExit):
        cli.main([])
    assert not folder.exists()
