"""`troupe bench`: a table and a JSON object for every preset, and advice that follows from what was measured."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from helpers import slow
from troupe import UsageError, bench, cli
from troupe.bench import Result
from troupe.config import resolve
from troupe.runs.report.reporter import bottleneck, shares_of
from troupe.runs.store.metrics import read_log
from troupe.runtime.measure import cores

ENVIRONMENT = """
import gymnasium as gym
import numpy as np

class Coin(gym.Env):
    observation_space = gym.spaces.Box(-1, 1, (2,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.left = 10
        return np.zeros(2, np.float32), {}

    def step(self, action):
        self.left -= 1
        return np.zeros(2, np.float32), float(action), self.left == 0, False, {}
"""
KEYS = {"stages", "limit_steps_per_s", "steps_per_s", "fraction", "bottleneck", "advice", "actors", "cores"}


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setattr(bench, "STAGE_SECONDS", 0.05)
    monkeypatch.setattr("troupe.runtime.measure._SECONDS", 0.05)
    (tmp_path / "coin.py").write_text(ENVIRONMENT)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("env", "preset"),
    [
        ("CartPole-v1", "appo"),
        slow("coin.py:Coin", "appo"),
        slow("CartPole-v1", "article"),
        slow("CartPole-v1", "a3c"),
        slow("coin.py:Coin", "impala"),
        ("coin.py:Coin", "ga3c"),
        slow("CartPole-v1", "impala"),
        slow("coin.py:Coin", "article"),
    ],
)
def test_every_preset_gives_one_json_object(short: Path, env: str, preset: str, capsys: Any) -> None:
    words = ["bench", env, "--preset", preset, "--time", "0.3s", "--json"]
    few = ["--actor.count", "2", "--adjust.most_actors", "2", "--adjust.every_seconds", "0"]
    assert cli.run(words + (few if preset in ("a3c", "ga3c") else [])) == 0
    shown = capsys.readouterr()
    assert shown.err == ""
    summary = json.loads(shown.out)
    assert summary.keys() >= KEYS
    assert list(summary["stages"]) == ["env", "act", "move", "learn"]
    assert all(cost > 0 for cost in summary["stages"].values())
    assert summary["limit_steps_per_s"] == pytest.approx(summary["cores"] / sum(summary["stages"].values()))
    assert summary["fraction"] == pytest.approx(summary["steps_per_s"] / summary["limit_steps_per_s"])
    assert summary["steps_per_s"] > 0
    assert (summary["environment"], summary["preset"]) == (env, preset)
    assert not (short / "runs").exists()


def test_the_table_says_the_same(short: Path, capsys: Any) -> None:
    assert cli.run(["bench", "--time", "0.3s"]) == 0
    table = capsys.readouterr().out
    assert table.startswith("CartPole-v1, preset impala: async, 2 x 128 environments in threads, rollouts of 32 steps")
    assert re.findall(r"^(env|act|move|learn) +[\d.]+ +\d+% +[\d,]+$", table, re.M) == ["env", "act", "move", "learn"]
    assert re.search(r"^limit +[\d,]+ steps/s on \d+ cores$", table, re.M)
    assert re.search(r"^training +[\d,]+ steps/s, [\d,]+ updates/s: \d+% of the limit", table, re.M)


def test_the_numbers_that_were_measured_are_those_it_trains_with(short: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained, train = [], bench.train

    def look(*words: Any, **settings: Any) -> Any:
        trained.append(train(*words, **settings))
        return trained[-1]

    monkeypatch.setattr(bench, "train", look)
    fitted = []
    monkeypatch.setattr("troupe.preparation.measure", lambda *_: fitted.append(1))
    result = bench.bench("coin.py:Coin", "appo", {"actor.auto": True, "actor.placement": "thread"}, 0.2)
    assert len(fitted) == 1
    # Nothing was measured: a few actors with one environment each.
    assert (result.config.actor.count, result.config.actor.environments) == (max(8, cores()), 1)


def test_there_must_be_time() -> None:
    with pytest.raises(UsageError, match="--time 0"):
        bench.bench("CartPole-v1", "appo", {}, 0.0)


def result(preset: str = "appo", settings: dict[str, Any] | None = None, **changed: Any) -> Result:
    """Balanced and fast: nothing to advise but the costliest stage."""
    usual: dict[str, Any] = {
        "config": resolve("Some-v0", preset, settings or {}), "placement": "process",
        "stages": {"env": 10e-6, "act": 5e-6, "move": 1e-7, "learn": 5e-6}, "env_waits": 0.0, "cores": 2,
        "steps_per_s": 90_000.0, "updates_per_s": 10.0, "bottleneck": "actor: env", "waits": {"actor": 0.1},
    }  # fmt: skip
    return Result(**usual | changed)


def test_limit_and_fraction_of_a_worked_example() -> None:
    measured = result(steps_per_s=20_000.0, stages={"env": 10e-6, "act": 5e-6, "move": 0.0, "learn": 5e-6})
    assert measured.limit == pytest.approx(100_000)
    assert measured.fraction == pytest.approx(0.2)


ENV = "the environment is the bottleneck: a faster one, or more cores"
ACT = "acting is the bottleneck: give each actor more environments (--actor.environments)"
WINDOW = "acting is the bottleneck: a window plays one environment, rollouts many (--actor.window_steps 0)"
PASSES = "learning is the bottleneck: 4 passes over each batch (--learner.epochs)"
LEARN = "learning is the bottleneck: larger batches or a smaller network (--network.hidden)"
MORE_ACTORS = "the environment waits 90% of a step: more actors overlap that (--actors 4 --actor.environments 8)"
LOCK = "threads share one interpreter lock: --actor.placement process, or larger batches per call"


@pytest.mark.parametrize(
    ("measured", "advice"),
    [
        (result(), [ENV]),
        (result(env_waits=0.9), [MORE_ACTORS]),
        (
            result(settings={"actor.count": 16, "actor.environments": 1}, env_waits=0.9),
            ["the environment waits 90% of a step: more actors overlap that (--actors 32 --actor.environments 1)"],
        ),
        (result(env_waits=0.9, bottleneck="actor: env_wait"), [MORE_ACTORS]),
        (
            result("article", bottleneck="actor: delay"),
            [
                "env.delay_seconds is the bottleneck: more actors overlap it (--actors 16 --actor.environments 1), or "
                "a shorter one"
            ],
        ),
        (
            result("ga3c", bottleneck="actor: turn", stages={"env": 1e-6, "act": 9e-6, "move": 1e-7, "learn": 1e-6}),
            [
                "one thread computes at a time, and acting takes most of it: --actor.placement process, or --threads "
                "free where batches are large"
            ],
        ),
        (
            result("ga3c", bottleneck="predictor: predict"),
            ["the predictors are the bottleneck: more of them (--inference.predictors) or a smaller network"],
        ),
        (
            result(bottleneck="nothing"),
            [
                "nothing is busy, every part waits for another: larger batches per call (--actor.environments, "
                "--actor.rollout_steps), or leave the processors to this program alone"
            ],
        ),
        (result(env_waits=0.9, bottleneck="actor: act"), [ACT]),  # they overlap already
        (result(env_waits=0.9, bottleneck="learner: learn"), [PASSES]),
        (result(bottleneck="actor: act"), [ACT]),
        (result("article", bottleneck="actor: act"), [WINDOW]),
        (result(bottleneck="learner: learn"), [PASSES]),
        (result("impala", bottleneck="learner: learn"), [LEARN]),
        (result(placement="thread", steps_per_s=30_000.0), [LOCK, ENV]),
        (
            result(placement="thread", steps_per_s=30_000.0, preempted=0.6),
            ["no core was free 60% of the time: end other programs or use fewer threads", ENV],
        ),
        (result(placement="thread"), [ENV]),  # near the limit as it is
        (result(placement="thread", steps_per_s=30_000.0, cores=1), [ENV]),
        (result(bottleneck="unknown"), [ENV]),  # the costliest stage
        (
            result("impala", bottleneck="learner", stages={"env": 1e-6, "act": 1e-6, "move": 1e-7, "learn": 1e-4}),
            [LEARN],
        ),
    ],
)
def test_advice(measured: Result, advice: list[str]) -> None:
    assert measured.advice() == advice
    assert measured.summary()["advice"] == advice
    assert all(f"to change: {line}" in measured.table() for line in advice)


def test_what_is_advised_can_be_done() -> None:
    for measured in (
        result(env_waits=0.9),
        *(result(bottleneck=name) for name in ("actor: delay", "actor: turn", "predictor: predict", "nothing")),
        result(bottleneck="actor: act"),
        result("article", bottleneck="actor: act"),
    ):
        for words in measured.advice():
            for name in re.findall(r"--([\w.]+)", words):
                assert name in ("actors", *(field for field in cli.config.fields()))


# Real runs, one stage of which is slowed down on purpose: whatever else the machine does, that stage limits.

SLOWED = """
import time
import gymnasium as gym
import numpy as np

class Quick(gym.Env):
    observation_space = gym.spaces.Box(-1, 1, (2,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.left = 10
        return np.zeros(2, np.float32), {}

    def step(self, action):
        self.work()
        self.left -= 1
        return np.zeros(2, np.float32), float(action), self.left == 0, False, {}

    def work(self):
        pass

class Burns(Quick):
    def work(self):
        end = time.thread_time() + 3e-3
        while time.thread_time() < end:
            pass

class Sleeps(Quick):
    def work(self):
        time.sleep(5e-3)
"""
FEW = (
    "--steps 256 --quiet --stop.target none --actor.environments 1 --actor.rollout_steps 16 --learner.rollouts 2 "
    "--learner.minibatches 1 --evaluation.every_seconds 0 --evaluation.final_episodes 1"
)
DEEP = ",".join(["16"] * 80)  # a pass is slow however few observations it has; the learner's passes have many


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        slow("slowed.py:Burns --actors 2", "actor: env"),
        slow("slowed.py:Burns --topology serial --actors 1", "actor: env"),
        slow("slowed.py:Burns --actors 1 --actor.placement thread", "actor: env"),
        slow("slowed.py:Sleeps --actors 2", "actor: env_wait"),
        slow("slowed.py:Sleeps --topology serial --actors 1", "actor: env_wait"),
        ("slowed.py:Quick --actors 2 --env.delay_seconds 0.005 --actor.placement thread", "actor: delay"),
        slow("slowed.py:Quick --actors 2 --learner.epochs 200", "learner: learn"),
        slow("slowed.py:Quick --topology serial --actors 1 --learner.epochs 200", "learner: learn"),
        slow(f"slowed.py:Quick --actors 2 --learner.epochs 1 --network.hidden {DEEP}", "actor: act"),
    ],
)
def test_the_stage_that_was_slowed_down_is_the_bottleneck(
    words: str, expected: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "slowed.py").write_text(SLOWED)
    monkeypatch.chdir(tmp_path)
    assert cli.run(["train", *words.split(), "--run-dir", "run", *FEW.split()]) == 0
    *_, last = (row for row in read_log(Path("run")) if row["kind"] == "report")
    spent = last["stage_seconds"]
    assert bottleneck({part: shares_of(seconds) for part, seconds in spent.items()}) == expected, spent
