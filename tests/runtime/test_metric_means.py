"""Metrics of a report are means over all rows of all learners, epochs and minibatches since the one before."""

import json
import statistics
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

import troupe
from troupe.runtime.metric_means import MetricMeans, means_of
from troupe.runtime.progress import Counts, Progress

KEYS = ("gradient_norm", "approx_kl", "explained_variance", "learning_rate", "policy_loss", "value_loss", "entropy")
SMALL = {
    "actor.environments": 2, "actor.rollout_steps": 8, "network.hidden": (8,), "learner.rollouts": 1,
    "evaluation.every_seconds": 0.0, "evaluation.final_episodes": 1, "stop.target": "none", "stop.steps": 400,
}  # fmt: skip


def reported(tmp_path: Path, settings: dict[str, Any], preset: str = "appo") -> list[dict[str, Any]]:
    given = SMALL | settings
    run = troupe.train("CartPole-v1", preset=preset, settings=given, run_dir=tmp_path / "run", tuned=False)
    rows = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    return [row for row in rows if row["kind"] == "report"]


def test_a_mean_is_weighted_by_rows_and_starts_over_when_it_is_taken():
    means = MetricMeans()
    means.add({"loss": torch.tensor(1.0)}, 30)
    means.add({"loss": torch.tensor(5.0), "other": 2.0}, 10)
    means.add({"loss": torch.tensor(float("nan"))}, 0)  # a minibatch without valid rows
    assert means_of(means.take()) == {"loss": 2.0, "other": 2.0}
    means.add({"loss": torch.tensor(7.0)}, 1)
    assert means_of(means.take()) == {"loss": 7.0}
    assert means_of(means.take()) == {}


def test_pending_metrics_are_summed_before_there_are_too_many():
    means = MetricMeans()
    for number in range(2000):
        means.add({"loss": torch.tensor(float(number))}, 1)
        assert len(means._pending) < 512
    assert means_of(means.take()) == {"loss": 999.5}


def test_the_explained_variance_is_that_of_all_rows_together_and_no_mean_of_fractions():
    """Targets 0, 0 and then 10, 10; the value is off by 1 and -1 each time: 1 - 1 / 25, though in no minibatch do the
    targets vary."""
    means = MetricMeans()
    for target in (0.0, 10.0):
        means.add({"value_moments": torch.tensor([target, 0.0, target**2, 1.0], dtype=torch.float64)}, 2)
    assert means_of(means.take())["explained_variance"] == pytest.approx(1 - 1 / 25)


def test_what_processes_have_counted_is_added_to_what_is_counted_here():
    parent, child = Progress(), Progress()
    parent.metrics.add({"loss": torch.tensor(1.0)}, 3)
    child.metrics.add({"loss": torch.tensor(5.0)}, 1)
    parent.add(child.take_delta(Counts()))
    assert means_of(parent.metrics.take()) == {"loss": 2.0}
    assert child.metrics.take() == {}


def test_every_minibatch_of_every_epoch_and_learner_counts(learner_setup, blank):
    """Two learners of 2 x 2 minibatches on one progress: the mean of the norms of all their gradients."""

    def loss(outputs, batch):
        value = batch.reward.mean() * outputs.value[:-1].mean()  # its gradient is the mean reward
        return value, {"reward": batch.reward.mean()}

    first = learner_setup(loss, epochs=2, minibatches=2, learning_rate=1e-3)
    second = learner_setup(loss, epochs=2, minibatches=2, master=first.master, progress=first.progress)
    first.learner.learn(blank(1, 2, reward=[[1.0, 3.0]]))
    second.learner.learn(blank(1, 2, reward=[[10.0, 30.0]]))
    norms = [gradient.norm().item() for gradient in first.optimizer.gradients]
    assert sorted(norms) == pytest.approx([1, 1, 3, 3, 10, 10, 30, 30])
    means = means_of(first.progress.metrics.take())
    assert means["gradient_norm"] == pytest.approx(statistics.fmean(norms))
    assert means["reward"] == pytest.approx(11.0)


def test_the_gradient_norm_is_the_one_before_clipping_and_a_refused_gradient_has_none(learner_setup, blank):
    def loss(outputs, batch):
        return batch.reward.mean() * outputs.value[:-1].mean(), {}

    made = learner_setup(loss, gradient_norm=0.5)
    made.learner.learn(blank(reward=4.0))
    made.learner.learn(blank(reward=float("nan")))
    assert made.optimizer.gradients[0].norm().item() == pytest.approx(0.5)
    assert means_of(made.progress.metrics.take()) == {"gradient_norm": pytest.approx(4.0)}


@pytest.mark.parametrize(
    ("settings", "preset"),
    [
        ({"topology": "serial", "actor.count": 1}, "appo"),
        ({"topology": "queue", "learner.count": 2, "actor.count": 2}, "impala"),
        ({"actor.count": 2, "actor.placement": "thread"}, "a3c"),
        ({"actor.count": 2, "actor.placement": "process"}, "a3c"),
        ({"actor.count": 2}, "ga3c"),
    ],
    ids=["serial", "two learners", "hogwild threads", "hogwild processes", "ga3c"],
)
def test_reports_have_the_usual_metrics(tmp_path, settings, preset):
    rows = reported(tmp_path, settings, preset)
    row = next(row for row in reversed(rows) if row["policy_loss"] is not None)
    assert all(isinstance(row[key], float) for key in KEYS)
    assert row["gradient_norm"] > 0
    assert row["approx_kl"] >= 0
    assert row["explained_variance"] <= 1
    assert (row["clip_fraction"] is not None) == (preset in ("appo", "impala"))
    assert "value_moments" not in row


def test_reports_have_epsilon_where_there_is_exploration_by_it(tmp_path):
    """Of two actors, one explores with 0.4 and one with 0.2."""
    given = {"topology": "async", "actor.count": 2, "actor.placement": "thread"}
    row = reported(tmp_path / "with", given | {"exploration.epsilon": (0.4, 0.2)})[-1]
    assert 0.2 <= round(row["epsilon"], 9) <= 0.4
    assert reported(tmp_path / "without", given)[-1]["epsilon"] == 0.0


def test_the_report_of_a_hogwild_run_is_of_all_its_workers(assembled, counting, run):
    """Worker 0's observations are of one environment alone; the share of rows is that of both."""
    rows = []
    settings = {"topology": "hogwild", "loss.kind": "a3c", "actor.count": 2, "actor.placement": "thread"}
    settings |= {"actor.environments": 1, "actor.rollout_steps": 4, "learner.epochs": 1, "learner.minibatches": 1}
    parts = assembled(partial(counting, script=[(100, "terminated")]), settings)
    add = parts.progress.metrics.add

    def count(metrics, weight):
        rows.append((set(metrics), weight))
        add(metrics, weight)

    parts.progress.metrics.add = count
    run(parts, 6)
    learned = sum(weight for names, weight in rows if "policy_loss" in names)
    assert parts.progress.metrics.take()["policy_loss"][-1] == learned >= parts.progress.counts.steps
