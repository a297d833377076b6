"""Names that people bring: what is suggested for them; and settings that have no effect."""

import re
from pathlib import Path

import pytest

from troupe import UsageError, config
from troupe.no_effect import notices


@pytest.mark.parametrize(
    ("word", "options", "settings"),
    [
        ("lr", "--learner.learning_rate", "learner.learning_rate"),
        ("learning_rate", "--learner.learning_rate", "learner.learning_rate"),
        ("epsilon", "--exploration.epsilon", "exploration.epsilon"),
        ("gamma", "--loss.gamma", "loss.gamma"),
        ("hidden", "--network.hidden or --novelty.hidden", "network.hidden or novelty.hidden"),
        ("agents", "--actors", "actor.count"),
        ("workers", "--actors", "actor.count"),
        ("num_envs", "--actor.environments", "actor.environments"),
        ("total_timesteps", "--steps", "stop.steps"),
        ("batch-size", "--learner.rollouts", "learner.rollouts"),
        ("kind", "--loss.kind or --inference.kind", "loss.kind or inference.kind"),
        ("count", "--actors or --learner.count", "actor.count or learner.count"),
        ("loss", "--loss.kind", "loss.kind"),
        ("optimizer", "--learner.optimizer", "learner.optimizer"),
        ("norm", "--learner.gradient_norm", "learner.gradient_norm"),
    ],
)  # fmt: skip
def test_a_name_is_answered_with_the_settings_that_are_meant_most_often_first(run_command, word, options, settings):
    err = run_command(f"train CartPole-v1 --{word} 1")[2]
    assert f"unknown argument '--{word}'; did you mean {options}? (" in err
    with pytest.raises(UsageError, match=rf"no setting '{word}'; did you mean {re.escape(settings)}\?"):
        config.resolve("CartPole-v1", settings={word: 1})


@pytest.mark.parametrize(
    ("settings", "reasons"),
    [
        ({"novelty.learning_rate": 1e-4}, "novelty.learning_rate (novelty.coefficient is 0)"),
        ({"novelty.learning_rate": 1e-4, "novelty.coefficient": 0.5}, ""),
        ({"learner.decay": 0.9}, "learner.decay (learner.optimizer is adam)"),
        ({"learner.decay": 0.9, "learner.optimizer": "rmsprop"}, ""),
        ({"learner.epsilon": 1e-5}, ""),
        ({"loss.probability_floor": 1e-9}, "loss.probability_floor (loss.kind is appo)"),
        ({"loss.kind": "impala", "loss.clip": 0.1}, "loss.clip (loss.kind is impala)"),
        ({"loss.gamma": 0.9, "loss.reward_scale": 2.0, "loss.entropy_anneal_steps": 9}, ""),
        ({"network.core_units": 9}, "network.core_units (network.core is none)"),
        ({"network.custom": "nets.py:Body", "network.hidden": 9}, "network.hidden (the network is your own)"),
        ({"collapse.rollbacks": 2, "learner.stale": "correct"},
         "collapse.rollbacks (collapse.answer is report); learner.stale (learner.max_lag is 0)"),
        ({"topology": "serial", "actor.count": 1, "queue.capacity": 2}, "queue.capacity (the topology has no queue)"),
    ],
)  # fmt: skip
def test_a_setting_without_effect_is_named_with_the_reason(settings, reasons):
    found = notices(config.resolve("Some-v0", settings=settings), settings)
    assert found == ([f"without effect in this run: {reasons}"] if reasons else [])


def test_it_is_a_line_at_the_start_of_the_run(run_command, tmp_path):
    words = f"train CartPole-v1 --novelty.learning_rate 1e-4 --steps 64 --run-dir {tmp_path / 'run'} --target none"
    small = "--actor.count 1 --actor.environments 2 --actor.placement thread --evaluation.final_episodes 2"
    status, out, _ = run_command(f"{words} {small}")
    assert status == 0
    assert "  without effect in this run: novelty.learning_rate (novelty.coefficient is 0)\n" in out


def test_the_articles_constants_are_the_presets():
    page = (Path(__file__).parent.parent / "docs" / "article.md").read_text()
    listed = dict(re.findall(r"`--([a-z_.]+) ([^`]+)`", page[page.index("## Kept") : page.index("## Corrected")]))
    listed.pop("preset", None)
    long = {"actors": "actor.count", "time": "stop.seconds"}
    given = {
        long.get(name, name): value.removesuffix("s") if name == "time" else value for name, value in listed.items()
    }
    given["actor.count"] = "8"
    assert len(given) > 15
    assert config.resolve("CartPole-v0", "article", given) == config.resolve("CartPole-v0", "article")
