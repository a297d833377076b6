"""What a name that does not exist probably means."""

import pytest

from troupe.config import fields, likely, suggest

KNOWN = ("loss.gamma", "loss.kind", "learner.learning_rate", "learner.count", "novelty.learning_rate", "novelty.gamma",
         "actor.count", "inference.kind", "network.hidden", "novelty.hidden", "queue.capacity", "run_dir")  # fmt: skip


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("loss.gama", ["loss.gamma"]),  # spelt nearly so
        ("gamma", ["loss.gamma"]),  # of several sections the one that is meant most often
        ("novelty.lr", ["novelty.learning_rate"]),  # of its own section
        ("loss.lr", ["learner.learning_rate"]),  # that section has none
        ("--learner.learning-rate", ["learner.learning_rate"]),
        ("LR", ["learner.learning_rate"]),
        ("count", ["actor.count", "learner.count"]),  # the one that is changed more often first
        ("kind", ["loss.kind", "inference.kind"]),
        ("capacty", ["queue.capacity"]),  # nearly the last part of one
        ("learning_rat", ["learner.learning_rate"]),  # of several sections the one that is meant most often
        ("hiden", ["network.hidden"]),
        ("n_worker", ["actor.count"]),  # nearly another word for one
        ("zzz", []),
    ],
)
def test_a_word_means_the_settings_of_that_name_or_the_nearest(word, meant):
    assert likely(word, KNOWN)[: len(meant) or None] == meant


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("random_seed", "seed"), ("optim", "learner.optimizer"), ("gpu", "device"), ("n_steps", "actor.rollout_steps"),
        ("num_envs", "actor.environments"), ("clip_range", "loss.clip"), ("gae_lambda", "loss.lam"),
        ("ent_coef", "loss.entropy_coefficient"), ("vf_coef", "loss.value_coefficient"), ("lstm", "network.core"),
        ("max_grad_norm", "learner.gradient_norm"), ("n_epochs", "learner.epochs"), ("lr", "learner.learning_rate"),
        ("num_minibatches", "learner.minibatches"), ("eval_freq", "evaluation.every_steps"), ("algo", "preset"),
        ("save_freq", "checkpoint.every_seconds"), ("net_arch", "network.hidden"), ("timeout", "stop.seconds"),
    ],
)  # fmt: skip
def test_names_of_other_programs_lead_to_ours(word, meant):
    assert likely(word, fields()) == [meant]


def test_three_at_most_are_named_and_by_the_shorter_name_that_they_have():
    many = [f"{section}.same" for section in "abcde"]
    assert likely("same", many) == ["a.same", "b.same", "c.same"]
    assert likely("same", many, {"b.same": "--b"}) == ["a.same", "--b", "c.same"]
    assert likely("a.sama", many, {"b.same": "--b"}) == ["a.same"]
    assert likely("workers", KNOWN, {"actor.count": "--actors"}) == ["--actors"]
    assert likely("wrkers", KNOWN, {"actor.count": "--actors"}) == ["--actors"]


def test_a_dash_is_as_good_as_an_underscore():
    both = ["schedules.entropy_coefficient", "loss.entropy_coefficient"]
    assert likely("--entropy-coefficient", both) == likely("entropy_coefficient", both) == both[::-1]


def test_what_is_known_already_is_not_replaced_by_what_another_word_means():
    assert likely("eps", ["eps", "exploration.epsilon"]) == ["eps"]
    assert likely("eps", ["exploration.epsilon"]) == ["exploration.epsilon"]
    assert likely("lr", ["seed"]) == []


def test_suggestions_are_a_question_or_nothing():
    assert suggest("hidden", KNOWN) == "; did you mean network.hidden or novelty.hidden?"
    assert suggest("zzz", KNOWN) == ""
    assert suggest("lerner.epochs", fields()) == "; did you mean learner.epochs?"
