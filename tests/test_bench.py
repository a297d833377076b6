"""`troupe bench`: a table and a JSON object for every preset, and advice that follows from what was measured."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from troupe import UsageError, bench, cli
from troupe.bench import Result
from troupe.config import resolve

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
    [(env, preset) for preset in ("appo", "impala", "article") for env in ("CartPole-v1", "coin.py:Coin")]
    + [("CartPole-v1", "a3c"), ("coin.py:Coin", "ga3c")],
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
    result = bench.bench("coin.py:Coin", "appo", {"actor.auto": True, "actor.place": "thread"}, 0.2)
    assert len(fitted) == 1
    assert result.config.actor.count == 2


def test_there_must_be_time() -> None:
    with pytest.raises(UsageError, match="--time 0"):
        bench.bench("CartPole-v1", "appo", {}, 0.0)


def result(preset: str = "appo", settings: dict[str, Any] | None = None, **changed: Any) -> Result:
    """Balanced and fast: nothing to advise but the costliest stage."""
    usual: dict[str, Any] = {
        "config": resolve("Some-v0", preset, settings or {}), "place": "process",
        "stages": {"env": 10e-6, "act": 5e-6, "move": 1e-7, "learn": 5e-6}, "env_waits": 0.0, "cores": 2,
        "steps_per_s": 90_000.0, "updates_per_s": 10.0, "bottleneck": "actor: env", "waits": {"actor": 0.1},
    }  # fmt: skip
    return Result(**usual | changed)


def test_limit_and_fraction_worked_out_by_hand() -> None:
    measured = result(steps_per_s=20_000.0, stages={"env": 10e-6, "act": 5e-6, "move": 0.0, "learn": 5e-6})
    assert measured.limit == pytest.approx(100_000)
    assert measured.fraction == pytest.approx(0.2)


ENV = "the environment holds it up: a faster one, or more cores"
ACT = "acting holds it up: more environments for each actor share a pass (--actor.environments)"
WINDOW = "acting holds it up: a window plays one environment, rollouts many (--actor.window_steps 0)"
PASSES = "learning holds it up: 4 passes over each batch (--learner.epochs)"
LEARN = "learning holds it up: larger batches or a smaller network (--network.hidden)"
LOCK = "threads share one interpreter lock: --actor.place process, or larger batches per call"


@pytest.mark.parametrize(
    ("measured", "advice"),
    [
        (result(), [ENV]),
        (
            result(env_waits=0.9),
            ["the environment waits 90% of a step: more actors overlap that (--actors 4 --actor.environments 8)"],
        ),
        (
            result(settings={"actor.count": 16, "actor.environments": 1}, env_waits=0.9),
            ["the environment waits 90% of a step: more actors overlap that (--actors 32 --actor.environments 1)"],
        ),
        (result(env_waits=0.9, bottleneck="actor: act"), [ACT]),  # they overlap already
        (result(env_waits=0.9, bottleneck="learner: learn"), [PASSES]),
        (result(bottleneck="actor: act"), [ACT]),
        (result("article", bottleneck="actor: act"), [WINDOW]),
        (result(bottleneck="learner: learn"), [PASSES]),
        (result("impala", bottleneck="learner: learn"), [LEARN]),
        (result(place="thread", steps_per_s=30_000.0), [LOCK, ENV]),
        (result(place="thread"), [ENV]),  # near the limit as it is
        (result(place="thread", steps_per_s=30_000.0, cores=1), [ENV]),
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
        result(bottleneck="actor: act"),
        result("article", bottleneck="actor: act"),
    ):
        for words in measured.advice():
            for name in re.findall(r"--([\w.]+)", words):
                assert name in ("actors", *(field for field in cli.config.fields()))
