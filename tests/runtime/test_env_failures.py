"""An environment that raises and is made anew (--on-env-error restart): the rollouts, the counts, the limit."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import troupe
from troupe.config import Environment, Network
from troupe.environments import EnvironmentFailed, find
from troupe.networks.actor_critic import ActorCritic, build
from troupe.networks.recurrent import RecurrentState
from troupe.runs.evaluate import evaluation
from troupe.runs.evaluate.evaluation import Evaluator
from troupe.runtime.acting.n_step_window import NStepActor, NStepWindow
from troupe.runtime.data.rollout import RolloutSpec, allocate
from troupe.runtime.progress import Episode

FLAKY = """
import gymnasium as gym
import numpy as np


class Flaky(gym.Env):
    '''Its fourth episode raises in the second step, once in each object: not while it is looked at and evaluated.'''

    observation_space = gym.spaces.Box(0.0, 9.0, (1,), np.float32)
    action_space = gym.spaces.Discrete(2)
    episode = 0

    def reset(self, *, seed=None, options=None):
        self.episode, self.step_of = self.episode + 1, 0
        return np.zeros(1, np.float32), {"action_mask": np.array([1, 0], np.int8)}

    def step(self, action):
        assert action == 0
        self.step_of += 1
        if (self.episode, self.step_of) == (4, 2):
            raise ValueError("no more discs")
        return np.full(1, self.step_of, np.float32), 1.0, self.step_of == 3, False, {
            "action_mask": np.array([1, 0], np.int8)
        }
"""
RUN = {
    "actor.environments": 2, "actor.rollout_steps": 8, "actor.auto": False, "learner.rollouts": 1,
    "learner.minibatches": 1, "network.hidden": (4,), "evaluation.every_seconds": 0.0, "evaluation.final_episodes": 1,
    "stop.target": "none",
}  # fmt: skip


class Faults:
    """What is done before each step of a `Counting`: the steps (episode, step) in `at` raise, each once."""

    def __init__(self, *at: tuple[int, int]):
        self.left: list[tuple[int, int]] = []
        self.at = at

    def __call__(self, episode: int, step: int) -> None:
        if (episode, step) in self.left:
            self.left.remove((episode, step))
            raise ValueError("no\ndoor")

    def arm(self) -> None:
        """From now on; not while the environment is looked at."""
        self.left = list(self.at)


def single(counting, faults, **how):
    return lambda: counting([(3, "terminated")], actions=1, before_step=faults, **how)


@pytest.mark.parametrize("cuts", [[8], [1] * 8, [2, 6], [3, 5]])
def test_the_step_that_raised_is_a_reset_row_and_the_one_before_is_truncated(stage, counting, cuts):
    """A step that raised shows nothing: the episode ends with the observation before it, and is not reported."""
    faults = Faults((0, 2))
    staged = stage(single(counting, faults), 1, restarts=1)
    faults.arm()
    rollouts = [staged.collect(steps) for steps in cuts]
    rows = {
        name: np.concatenate([getattr(each, name)[:, 0] for each in rollouts])
        for name in ("reward", "terminated", "truncated", "valid")
    }
    seams = np.cumsum(cuts)[:-1]
    obs, first = (
        np.concatenate([*[getattr(each, name)[:-1, 0] for each in rollouts], getattr(rollouts[-1], name)[-1:, 0]])
        for name in ("obs", "first")
    )
    assert obs.tolist() == [[0, 0], [0, 1], [0, 2], [0, 0], [0, 1], [0, 2], [0, 3], [1, 0], [1, 1]]
    assert first.astype(int).tolist() == [1, 0, 0, 1, 0, 0, 0, 1, 0]
    assert rows["reward"].tolist() == [0, 10, 0, 0, 10, 20, 0, 0]
    assert rows["valid"].astype(int).tolist() == [1, 1, 0, 1, 1, 1, 0, 1]
    assert rows["terminated"].astype(int).tolist() == [0, 0, 0, 0, 0, 1, 0, 0]
    # A rollout that ends before the failure ends with the last observation anyway: its value is bootstrapped there.
    assert rows["truncated"].astype(int).tolist() == [0, int(2 not in seams), 0, 0, 0, 0, 0, 0]
    assert staged.progress.take_episodes() == [Episode(30.0, 3)]
    assert (staged.progress.counts.played, staged.progress.counts.failures) == (6, 1)
    (notice,) = staged.progress.notices
    assert notice.endswith("(--on-env-error restart): " + staged.progress.first_failure)
    assert staged.progress.first_failure.endswith("[0]: step raised ValueError: no door (step 3)")


@pytest.mark.parametrize("parts", [3, (1, 2), (2, 1)])
def test_the_others_of_a_batch_go_on(stage, counting, parts):
    armed, made = Faults((0, 1)), []

    def make():
        made.append(counting([(3, "terminated")], actions=1, before_step=armed if len(made) == broken else Faults()))
        return made[-1]

    broken = 2  # the first is only looked at: the second of three
    staged = stage(make, parts, restarts=1)
    armed.arm()
    rollout = staged.collect(4)
    assert len(made) == 5
    assert rollout.valid.astype(int).tolist() == [[1, 1, 1], [1, 0, 1], [1, 1, 1], [0, 1, 0]]
    assert rollout.obs[:, 1].tolist() == [[0, 0], [0, 1], [0, 0], [0, 1], [0, 2]]
    assert rollout.obs[:, 2].tolist() == rollout.obs[:, 0].tolist() == [[0, 0], [0, 1], [0, 2], [0, 3], [1, 0]]
    assert rollout.truncated.astype(int).tolist() == [[0, 1, 0], [0, 0, 0], [0, 0, 0], [0, 0, 0]]


def test_a_failure_in_the_first_step_of_an_episode_cuts_nothing(stage, counting):
    faults = Faults((0, 0), (1, 0))
    staged = stage(single(counting, faults), 1, restarts=2)
    faults.arm()
    rollout = staged.collect(7)
    assert rollout.obs[:, 0].tolist() == [[0, 0], [0, 0], [0, 1], [0, 2], [0, 3], [1, 0], [0, 0], [0, 1]]
    assert rollout.valid[:, 0].astype(int).tolist() == [0, 1, 1, 1, 0, 0, 1]
    assert not rollout.truncated.any()
    assert staged.progress.take_episodes() == [Episode(30.0, 3)]


def test_a_reset_that_raises_is_answered_by_another_environment_and_the_episode_before_counts(stage, counting):
    class Jammed(counting):
        def reset(self, **how):
            if self.episode >= 0 and jammed:
                raise OSError(jammed.pop())
            return super().reset(**how)

    jammed = []
    staged = stage(lambda: Jammed([(2, "truncated")], actions=1), 1, restarts=1)
    jammed.append("stuck")
    rollout = staged.collect(4)
    assert rollout.obs[:, 0].tolist() == [[0, 0], [0, 1], [0, 2], [0, 0], [0, 1]]
    assert rollout.valid[:, 0].tolist() == [True, True, False, True]
    assert rollout.truncated[:, 0].tolist() == [False, True, False, False]
    assert staged.progress.take_episodes() == [Episode(10.0, 2)]
    assert staged.progress.counts.failures == 1


def test_a_window_bootstraps_from_the_last_observation_before_a_failure(stage, counting):
    faults = Faults((0, 2))
    staged = stage(single(counting, faults), 1, restarts=1)
    spec = RolloutSpec(staged.source.observation_space, 1, 1)
    actor = NStepActor(staged.actor, NStepWindow(3, 0.5), [allocate(spec) for _ in range(4)])
    faults.arm()
    samples = [allocate(spec) for _ in range(5)]
    for sample in samples:
        actor.collect(sample)
    seen = [
        (each.obs[0, 0].tolist(), each.obs[1, 0].tolist(), each.reward.item(), each.horizon.item(),
         each.terminated.item()) for each in samples
    ]  # fmt: skip
    assert seen == [
        ([0, 0], [0, 2], 5.0, 2, False),
        ([0, 1], [0, 2], 10.0, 1, False),
        ([0, 0], [0, 3], 10.0, 3, True),
        ([0, 1], [0, 3], 20.0, 2, True),
        ([0, 2], [0, 3], 20.0, 1, True),
    ]


def test_too_many_failures_end_the_run_with_the_error(stage, counting):
    faults = Faults((0, 2), (0, 1))
    staged = stage(single(counting, faults), 1, restarts=1)
    faults.arm()
    limit = (
        r"step raised ValueError: no door \(step 5\); no more environments are made anew: 1 is this run's actor.rest"
    )
    with pytest.raises(EnvironmentFailed, match=limit) as caught:
        staged.collect(9)
    assert isinstance(caught.value.__cause__, ValueError)


def test_an_environment_that_can_be_made_no_more_ends_the_run_too(stage, counting):
    def make():
        if faults.at and not faults.left and armed:
            raise OSError("no licence")
        return counting(before_step=faults)

    faults, armed = Faults((0, 1)), []
    staged = stage(make, 1, restarts=3)
    faults.arm()
    armed.append(True)
    with pytest.raises(EnvironmentFailed, match="making it anew raised OSError: no licence"):
        staged.collect(9)
    assert staged.progress.counts.failures == 4


def test_without_it_the_first_failure_is_an_error(stage, counting):
    faults = Faults((0, 1))
    staged = stage(single(counting, faults), 1)
    faults.arm()
    with pytest.raises(EnvironmentFailed, match=r"step raised ValueError: no door \(step 2\)$"):
        staged.collect(3)


def test_an_environment_that_a_checkpoint_restores_goes_on_with_the_next_episode_of_its_seed(echo):
    class Fails(echo):
        def step(self, action):
            if left and self.left == 6:
                raise ValueError(left.pop())
            return super().step(action)

    left = []
    source = find(lambda: Fails(1000))
    vector, action = source.make_restorable(1, Environment()), np.zeros(1, np.int64)
    vector.restart_failed(lambda error: "")
    vector.reset(np.random.SeedSequence(1))
    left.append("no door")
    failed = []
    for _ in range(4):
        seen = vector.step(action).obs.copy()
        failed.append(vector.failed.item())
    assert failed == [False, False, True, False]
    (state,) = vector.state()
    state["actions"] = np.array(state["actions"])
    assert (state["episode"], state["actions"].tolist(), state["total"]) == (1, [0], 0.0)
    whole = [vector.step(action).obs.item() for _ in range(20)]
    copy = source.make_restorable(1, Environment())
    copy.reset(np.random.SeedSequence(2))
    assert copy.restore([state], seen) == []
    assert [copy.step(action).obs.item() for _ in range(20)] == whole


@pytest.fixture
def flaky(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    Path("flaky.py").write_text(FLAKY)
    return "flaky.py:Flaky"


@pytest.mark.parametrize(
    "where",
    [
        {"topology": "serial"},
        {"topology": "async"},
        {"topology": "hogwild", "learner.epochs": 1},
        {"topology": "async", "inference.kind": "batched"},
    ],
    ids=["serial", "async", "hogwild", "batched"],
)
def test_a_run_with_masks_and_memory_goes_on(flaky, where):
    where = where | {"actor.count": 1, "actor.placement": "thread"}
    memory = {"network.core": "lstm", "network.core_units": 4, "env.on_error": "restart", "stop.steps": 60}
    run = troupe.train(flaky, settings=RUN | where | memory, run_dir="run", display="silent")
    assert run.outcome == "steps"
    assert json.loads((run.path / "summary.json").read_text())["failures"] >= 2


WORDS = " ".join(f"--{name} {value}" for name, value in RUN.items() if name != "network.hidden").replace(
    "False", "false"
)


@pytest.mark.parametrize("placement", ["thread", pytest.param("process", marks=pytest.mark.slow)])
def test_a_run_counts_what_failed_and_names_the_first(flaky, run_command, placement):
    words = f"train {flaky} --on-env-error restart --steps 100 --actors 1 --actor.placement {placement} --run-dir run"
    status, out, err = run_command(f"{words} {WORDS}")
    assert (status, err) == (0, "")
    rows = troupe.read_metrics("run")["failures"]
    count = json.loads(Path("run/summary.json").read_text())["failures"]
    assert count >= rows[-1] >= 2
    error = r"environment flaky.py:Flaky[0]: step raised ValueError: no more discs (step 14)"
    assert f"an episode is dropped, and its environment made anew (--on-env-error restart): {error}\n" in out
    assert f"{count} episodes dropped, as the environment failed: {error}\n" in out
    assert out.count("no more discs") == 2
    assert (Path("run") / "config.toml").read_text().count('on_error = "restart"') == 1


@pytest.mark.parametrize("placement", ["thread", pytest.param("process", marks=pytest.mark.slow)])
def test_the_limit_ends_a_run_in_order(flaky, run_command, placement):
    words = f"train {flaky} --on-env-error restart --steps 2000 --actors 1 --actor.placement {placement} --run-dir run"
    status, _, err = run_command(f"{words} {WORDS} --actor.restarts 3")
    assert status == 1
    assert "no more environments are made anew: 3 is this run's actor.restarts (traceback in" in err
    assert json.loads(Path("run/summary.json").read_text())["failures"] >= 2
    assert troupe.load("run")


# Evaluations


def network_of(source: Any, **how: Any) -> ActorCritic:
    return build(source.observation_space, source.action_space, Network(hidden=(4,), **how))


@pytest.mark.parametrize("at", [(1, 0), (1, 2), (0, 2)])
def test_an_evaluation_plays_another_episode_instead_of_one_that_raises(counting, at):
    faults, refused = Faults(at), []
    source = find(single(counting, faults))
    evaluator = Evaluator(source, Environment(), 1)
    faults.arm()
    scores = evaluator.run(
        network_of(source), 3, np.random.SeedSequence(0), refusal=lambda error: refused.append(error) or ""
    )
    assert scores is not None
    assert scores.lengths.tolist() == [3, 3, 3]
    assert scores.returns.tolist() == [30.0, 30.0, 30.0]
    (error,) = refused
    assert "[0]: step raised ValueError: no door" in error
    evaluator.close()


def test_memory_is_empty_in_the_episode_after_one_that_raised(counting, monkeypatch):
    faults = Faults((0, 2))
    source = find(single(counting, faults))
    network = network_of(source, core="lstm", core_units=4)
    begun: list[bool] = []
    monkeypatch.setattr(
        evaluation, "RecurrentState", lambda *parts: begun.append(bool(parts[1].item())) or RecurrentState(*parts)
    )
    evaluator = Evaluator(source, Environment(), 1)
    faults.arm()
    evaluator.run(network, 2, np.random.SeedSequence(0), refusal=lambda error: "")
    # Two steps, the one that raises, three steps to the end, the reset after it, three steps.
    assert begun == [False, False, True, False, False, False, True, False, False, False]
    evaluator.close()


def test_an_evaluation_without_a_refusal_ends_with_the_error(counting):
    faults = Faults((0, 1))
    source = find(single(counting, faults))
    evaluator = Evaluator(source, Environment(), 1)
    evaluator.run(network_of(source), 1, np.random.SeedSequence(0), refusal=lambda error: "")
    faults.at = ((1, 1),)
    faults.arm()
    with pytest.raises(EnvironmentFailed, match="step raised ValueError: no door"):
        evaluator.run(network_of(source), 9, np.random.SeedSequence(0))
    evaluator.close()


ENDING = "--steps 20 --actors 1 --actor.placement thread --run-dir run --evaluation.final_episodes 80"


def test_the_final_evaluation_of_a_run_goes_on_and_counts_what_failed(flaky, run_command):
    """16 environments play five episodes each, of which the fourth raises."""
    words = WORDS.replace("--evaluation.final_episodes 1", "")
    status, out, err = run_command(f"train {flaky} --on-env-error restart {ENDING} {words} --actor.restarts 99")
    assert (status, err) == (0, "")
    summary = json.loads(Path("run/summary.json").read_text())
    assert summary["evaluation"]["episodes"] == 80
    assert summary["failures"] >= 16
    assert out.count("no more discs") == 2


def test_the_limit_counts_for_evaluations_too_and_evaluate_drops_nothing(flaky, run_command):
    words = WORDS.replace("--evaluation.final_episodes 1", "")
    status, _, err = run_command(f"train {flaky} --on-env-error restart {ENDING} {words} --actor.restarts 9")
    assert status == 1
    assert "no more environments are made anew: 9 is this run's actor.restarts" in err
    status, _, err = run_command("evaluate run --episodes 80")
    assert status == 1
    assert "step raised ValueError: no more discs" in err
