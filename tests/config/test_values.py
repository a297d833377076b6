"""Settings by their dotted names: what counts as a name, what as a value, and what is kept of it."""

import datetime
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from troupe import config
from troupe.config import TrainConfig, UsageError, build, fields, flatten, whole_number
from troupe.config.values import TABLES


def test_nested_and_dotted_names_are_the_same_and_tables_stay_whole():
    nested = {"learner": {"epochs": 4, "optimizer_kwargs": {"beta1": 0.5}}, "seed": 1, "env.kwargs": {"a": {"b": 2}}}
    assert dict(flatten(nested)) == {
        "learner.epochs": 4, "learner.optimizer_kwargs.beta1": 0.5, "seed": 1, "env.kwargs.a": {"b": 2},
    }  # fmt: skip
    assert dict(flatten({"env": {"kwargs": {"a": {"b": 2}}}})) == {"env.kwargs.a": {"b": 2}}


@pytest.mark.parametrize("table", TABLES)
def test_an_entry_of_a_table_has_any_name_and_a_table_is_given_entry_by_entry(table):
    made = build({f"{table}.any.name": "1", f"{table}.other": "x"})
    assert config.value_of(made, table) == {"any.name": "1", "other": "x"}
    with pytest.raises(UsageError, match=rf"^{table} = 3: expected a table; write {table}\.NAME for each entry$"):
        build({table: 3})


def test_what_a_file_can_hold_is_kept_as_it_holds_it():
    day, hour = datetime.date(2024, 1, 2), datetime.time(3)
    given = {
        "text": "x", "on": True, "half": 0.5, "day": day, "hour": hour, "pair": (1, (2,)), 7: {8: np.float64(0.5)},
        "whole": np.int64(3), "one": np.array(4.0),
    }  # fmt: skip
    made = build({f"env.kwargs.{name}": value for name, value in given.items()}).env.kwargs
    assert made == {
        "text": "x", "on": True, "half": 0.5, "day": day, "hour": hour, "pair": [1, [2]], "7": {"8": 0.5},
        "whole": 3, "one": 4.0,
    }  # fmt: skip
    assert [type(made[name]) for name in ("whole", "one")] == [int, float]
    assert config.from_toml(config.to_toml(build({"env.kwargs.deep": {"a": {"b": (1, 2)}}}))).env.kwargs == {
        "deep": {"a": {"b": [1, 2]}}
    }


@pytest.mark.parametrize(
    ("value", "name"), [({"a": {"b": None}}, r"env\.kwargs\.x\.a\.b"), ([[None]], r"env\.kwargs\.x")]
)
def test_what_no_file_can_hold_is_named_by_its_place(value, name):
    with pytest.raises(UsageError, match=rf"^{name} = None: config\.toml cannot hold a value of type NoneType; "):
        build({"env.kwargs.x": value})


def test_a_value_that_does_not_fit_an_option_is_refused_by_the_options_name():
    config.check_option("--steps", "stop.steps", "5k")
    with pytest.raises(UsageError, match=r"^--steps 'x': expected a whole number, such as 300000, 100k or 1\.5M$"):
        config.check_option("--steps", "stop.steps", "x")
    with pytest.raises(UsageError, match=r", or all$"):
        config.check_option("--steps", "stop.steps", "x", "all")


def test_callables_are_taken_by_settings_that_are_open_to_them_and_by_no_others():
    """The open ones are those of which the user may bring one of their own."""
    open_ = [name for name, field in fields().items() if field.open]
    assert open_ == [
        "env.backend", "actor.placement", "network.custom", "network.encoder", "loss.kind", "learner.optimizer",
        "schedules.learning_rate", "schedules.entropy_coefficient", "schedules.clip",
    ]  # fmt: skip
    for name in open_:
        assert fields()[name].choices
        made = build({name: "file.py:make"})
        assert config.named_callables(made) == {name: "file.py:make"}
        for wrong in ("nonesuch", ":make", "file.py:", "file.py:a b"):
            with pytest.raises(UsageError, match=rf"^{name} = '{wrong}': expected one of "):
                build({name: wrong})
    assert config.named_callables(TrainConfig()) == {}
    with pytest.raises(UsageError, match=r"^topology = 'file\.py:make'"):
        build({"topology": "file.py:make"})


def test_a_setting_has_its_default_and_its_choices():
    known = fields()
    assert list(known)[:3] == ["preset", "tuned", "topology"]
    assert known["learner.epochs"].default == 4
    assert known["env.kwargs"].default == {}
    assert known["learner.anneal_steps"].choices == ("auto",)
    assert known["stop.target"].choices == ("auto", "none")
    assert known["network.core"].choices == ("none", "lstm", "gru")
    assert known["learner.epochs"].choices == ()


def test_settings_that_differ_are_named_in_order():
    one = build({"learner.epochs": 3, "seed": 1, "env.kwargs.a": 1})
    assert config.differing(one, one) == []
    assert config.differing(one, build({"learner.epochs": 2, "seed": 1, "env.kwargs.a": 2})) == [
        "env.kwargs.a", "learner.epochs",
    ]  # fmt: skip
    assert config.differing(one, replace(one, seed=2)) == ["seed"]


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("300000", 300_000), ("1_000", 1000), ("1.5M", 1_500_000), ("2b", 2 * 10**9), ("1e06", 10**6), (" 5K ", 5000),
        ("0.0015k", None), ("1.5", None), ("-3", None), ("1e600", None), ("k", None), ("1kk", None), ("", None),
        ("1_", None), ("9007199254740993", 2**53 + 1),
    ],
)  # fmt: skip
def test_a_whole_number_is_exact_and_anything_else_is_none(text, number):
    assert whole_number(text) == number


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("network.hidden", "8,,4,", (8, 4)),
        ("network.hidden", " 8, 4", (8, 4)),
        ("network.hidden", "1k", "network.hidden = '1k': expected a whole number"),
        ("learner.epochs", "1k", 1000),
        ("learner.learning_rate", "1k", "learner.learning_rate = '1k': expected a number"),
        ("stop.target", "inf", "stop.target = 'inf': expected a number or one of auto | none"),
        ("stop.seconds", float("inf"), "stop.seconds = inf: expected a finite number"),
        ("env.id", 3, "env.id = 3: expected text"),
        ("env.wrappers", "a:b", ("a:b",)),
        ("network.shared", "true", True),
        ("learner.optimizer", 3, "learner.optimizer = 3: expected one of adam | rmsprop"),
        ("network.custom", 3, "network.custom = 3: expected "),
        ("learner.epochs", "x", "learner.epochs = 'x': expected a whole number"),
    ],
)
def test_a_value_is_converted_or_refused(name: str, value: Any, expected: Any):
    if isinstance(expected, str):
        with pytest.raises(UsageError) as caught:
            config.check_value(name, value)
        assert str(caught.value).startswith(expected)
    else:
        config.check_value(name, value)
        assert config.value_of(build({name: value}), name) == expected


def test_a_rollout_is_of_all_environments_of_an_actor_and_a_windows_sample_of_one_step():
    assert build({"actor.rollout_steps": 5, "actor.environments": 3}).actor.rollout_shape == (5, 3)
    window = {"actor.window_steps": 8, "actor.environments": 1, "loss.kind": "a3c"}
    assert build(window | {"actor.rollout_steps": 5}).actor.rollout_shape == (1, 1)


@pytest.mark.parametrize(
    ("topology", "path", "several", "adjustable", "recordable", "inference"),
    [
        ("serial", "serial", False, False, False, ("local",)),
        ("async", "async", False, False, True, ("local", "batched")),
        ("queue", "async", True, False, True, ("local", "batched")),
        ("ga3c", "async", True, True, False, ("batched",)),
        ("hogwild", "hogwild", False, False, False, ("local",)),
    ],
)
def test_a_topology_implies_what_the_page_on_architecture_says(
    topology, path, several, adjustable, recordable, inference
):
    traits = replace(TrainConfig(), topology=topology).traits
    assert (traits.path, traits.inference) == (path, inference)
    assert (traits.several_learners, traits.adjustable, traits.recordable) == (several, adjustable, recordable)
    assert (traits.serial, traits.learns_in_actors) == (topology == "serial", topology == "hogwild")
