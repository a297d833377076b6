"""The settings of a run: layers, ranges, names that do not exist, and files that come back as they were."""

import dataclasses
import re
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

import troupe
from troupe import config
from troupe.config import TrainConfig, UsageError, build, from_toml, layers, resolve, to_toml


def refusal(settings: dict[str, Any], env: str = "X-v0", **how: Any) -> str:
    with pytest.raises(UsageError) as caught:
        resolve(env, settings=settings, **how)
    (line,) = str(caught.value).splitlines()
    return line


A3C = {"topology": "hogwild", "learner.epochs": 1, "learner.minibatches": 1}


# Presets and layers


def test_the_default_preset_comes_first_and_each_has_a_summary_and_a_source():
    assert config.presets()[0] == "appo"
    assert {"appo", "a3c", "article", "ga3c", "impala"} <= set(config.presets())
    for name in config.presets():
        preset = config.load_preset(name)
        assert preset.name == name
        assert preset.summary
        assert preset.source


@pytest.mark.parametrize("name", config.presets())
def test_a_preset_resolves_with_and_without_its_tuned_settings(name):
    preset = config.load_preset(name)
    assert resolve("X-v0", name).preset == name
    for env in preset.tuned:
        assert resolve(env, name).tuned
        assert not resolve(env, name, tuned=False).tuned


@pytest.mark.parametrize("name", config.presets())
def test_a_preset_holds_no_setting_that_does_not_exist(name):
    preset = config.load_preset(name)
    for settings in [preset.settings, *(each.settings for each in preset.tuned.values())]:
        assert {key for key, _ in config.flatten(settings)} <= set(config.fields())


def test_later_layers_win_defaults_preset_tuned_and_what_was_given(monkeypatch):
    preset = config.Preset(
        "p", "", "", {"learner": {"epochs": 2, "count": 1}, "seed": 5},
        {"Y-v0": config.Tuned(settings={"learner": {"epochs": 3}, "queue.capacity": 9})},
    )  # fmt: skip
    monkeypatch.setattr(layers, "load_preset", {"p": preset}.__getitem__)
    assert TrainConfig().learner.epochs == 4
    assert resolve("X-v0", "p").learner.epochs == 2
    tuned = resolve("Y-v0", "p")
    assert (tuned.learner.epochs, tuned.queue.capacity, tuned.seed, tuned.tuned) == (3, 9, 5, True)
    assert resolve("Y-v0", "p", {"learner.epochs": 7}).learner.epochs == 7
    assert resolve("Y-v0", "p", tuned=False).learner.epochs == 2


def test_settings_for_a_pattern_are_for_all_that_have_none_of_their_own(monkeypatch):
    def tuned(epochs: int) -> config.Tuned:
        return config.Tuned(settings={"learner.epochs": epochs})

    named = {"ALE/*": tuned(5), "ALE/Pong-v5": tuned(7), "*/Breakout-v5": tuned(9), "X[1]": tuned(8)}
    for names in (list(named), list(reversed(named))):  # what stands first does not matter to an exact name
        preset = config.Preset("p", "", "", {"learner.epochs": 2}, {name: named[name] for name in names})
        monkeypatch.setattr(layers, "load_preset", {"p": preset}.__getitem__)
        for env, epochs in {"ALE/Pong-v5": 7, "ALE/Qbert-v5": 5, "ale/Pong-v5": 2, "Pong-v5": 2, "X-v0": 2}.items():
            found, made = preset.tuned_for(env), resolve(env, "p")
            assert (found.settings["learner.epochs"] if found else 2) == made.learner.epochs == epochs, env
            assert made.tuned == (found is not None)
            assert resolve(env, "p", tuned=False).learner.epochs == 2
        assert preset.tuned_for("X[1]").settings == tuned(8).settings  # an exact name is no pattern
    assert resolve("ALE/Qbert-v5", "p", {"learner.epochs": 3}).learner.epochs == 3
    first = config.Preset("p", "", "", {}, named).tuned_for("ALE/Breakout-v5")
    assert first.settings == tuned(5).settings  # of two patterns the first


def test_every_game_of_atari_has_tuned_settings_and_pong_its_own():
    preset = config.load_preset("appo")
    assert preset.tuned_for("ALE/Breakout-v5") is preset.tuned["ALE/*"]
    assert preset.tuned_for("ALE/Pong-v5") is preset.tuned["ALE/Pong-v5"]
    assert preset.tuned_for("CartPole-v1") is preset.tuned["CartPole-v1"]
    assert preset.tuned_for("Taxi-v4") is None


def test_the_article_preset_is_the_article():
    article = resolve("CartPole-v0", "article")
    assert (article.topology, article.learner.count) == ("queue", 2)
    assert (article.actor.count, article.actor.environments) == (8, 1)
    assert (article.env.delay_seconds, article.loss.gamma, article.actor.window_steps) == (0.001, 0.99, 8)
    explored = article.exploration
    assert (explored.epsilon, explored.epsilon_end, explored.decay_steps) == ((0.4,), (0.15,), 75_000)
    assert (article.learner.rollouts, article.learner.take_all, article.learner.epochs) == (32, True, 1)
    assert (article.network.hidden, article.network.activation) == ((16,), "relu")
    loss = article.loss
    assert (loss.kind, loss.value_coefficient, loss.entropy_coefficient) == ("a3c", 0.5, 0.01)
    assert loss.probability_floor == 1e-10
    learner = article.learner
    assert (learner.optimizer, learner.learning_rate, learner.decay) == ("rmsprop", 0.005, 0.99)
    assert article.stop.seconds == 30.0


# Names and values


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("learner.epoch", "learner.epochs"),
        ("lerner.learning_rate", "learner.learning_rate"),
        ("Loss.Gamma", "loss.gamma"),
        ("topolgy", "topology"),
    ],
)
def test_a_setting_that_does_not_exist_is_answered_with_the_nearest(name, nearest):
    assert refusal({name: 1}).startswith(f"no setting '{name}'; did you mean {nearest}?")


def test_a_setting_near_nothing_is_answered_all_the_same():
    assert refusal({"zzz": 1}) == "no setting 'zzz' (troupe train --help-all lists them)"


def test_a_section_is_no_setting():
    assert refusal({"learner": 3}).startswith("no setting 'learner'")


@pytest.mark.parametrize(("name", "nearest"), [("apo", "appo"), ("Article", "article"), ("impale", "impala")])
def test_a_preset_that_does_not_exist_is_answered_with_the_nearest(name, nearest):
    message = refusal({}, preset=name)
    assert message == f"no preset '{name}'; did you mean {nearest}? (troupe presets lists them)"


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("loss.gamma", 1.5, "loss.gamma = 1.5: expected a number of at most 1"),
        ("loss.gamma", "nan", "loss.gamma = 'nan': expected a number of at least 0"),
        ("learner.learning_rate", 0, "learner.learning_rate = 0: expected a number above 0"),
        ("learner.epochs", "0", "learner.epochs = '0': expected a whole number of at least 1"),
        ("actor.count", 5000, "actor.count = 5000: expected a whole number of at most 1024"),
        ("actor.count", 2.5, "actor.count = 2.5: expected a whole number"),
        ("actor.count", "many", "actor.count = 'many': expected a whole number"),
        ("network.shared", "perhaps", "network.shared = 'perhaps': expected true or false"),
        ("network.hidden", "64,0", "network.hidden = '64,0': expected a whole number of at least 1"),
        ("exploration.epsilon", "", "exploration.epsilon = '': expected at least 1 value"),
        ("exploration.epsilon", "0.1,1.2", "exploration.epsilon = '0.1,1.2': expected a number of at most 1"),
        (
            "loss.kind",
            "impal",
            "loss.kind = 'impal': expected one of a3c | impala | appo, path/to/file.py:NAME or module:NAME; "
            "did you mean impala?",
        ),
        (
            "topology",
            "hogwild!",
            "topology = 'hogwild!': expected one of serial | queue | hogwild | ga3c | async; did you mean hogwild?",
        ),
        ("stop.target", "aut", "stop.target = 'aut': expected a number or one of auto | none; did you mean auto?"),
        ("learner.anneal_steps", "-5", "learner.anneal_steps = '-5': expected a whole number of at least 0 or auto"),
        ("stop.steps", None, "stop.steps = None: expected a whole number, such as 300000, 100k or 1.5M"),
    ],
)
def test_a_value_out_of_range_is_answered_with_the_range(name, value, message):
    assert refusal({name: value}) == message


@pytest.mark.parametrize(
    ("name", "text", "meant"),
    [
        ("learner.epochs", "7", 7),
        ("stop.steps", "1e6", 1_000_000),
        ("learner.learning_rate", "3e-4", 3e-4),
        ("network.shared", "false", False),
        ("network.hidden", "32,16", (32, 16)),
        ("network.hidden", "32", (32,)),
        ("network.hidden", 32, (32,)),
        ("network.hidden", [32, 16], (32, 16)),
        ("network.hidden", "", ()),
        ("exploration.epsilon", "0.1,0.4", (0.1, 0.4)),
        ("exploration.epsilon", 0.25, (0.25,)),
        ("stop.target", "12.5", 12.5),
        ("stop.target", "none", "none"),
    ],
)
def test_a_value_may_be_written_as_a_shell_gives_it(name, text, meant):
    section, _, leaf = name.partition(".")
    actual = getattr(getattr(resolve("X-v0", settings={name: text}), section), leaf)
    assert actual == meant
    assert type(actual) is type(meant)


def test_every_setting_has_a_description_and_a_default_in_its_own_range():
    assert len(config.fields()) > 40
    for field in config.fields().values():
        assert field.description
    assert build({name: field.default for name, field in config.fields().items()}) == TrainConfig()


# What no single field can say


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"actor.window_steps": 8}, "actor.window_steps = 8: .* only loss.kind a3c reads, not appo; set it to 0"),
        ({"learner.count": 2}, "learner.count = 2: topology async has one learner; use --topology queue"),
        (
            {"topology": "serial", "actor.count": 3, "actor.environments": 4},
            "actor.count = 3: topology serial has one actor; use --actor.count 1 --actor.environments 12",
        ),
        (
            {"actor.window_steps": 8, "loss.kind": "a3c", "actor.environments": 4},
            r"actor.environments = 4: an actor with a window \(actor.window_steps\) plays one; set it to 1, and",
        ),
        (
            {"topology": "hogwild", "learner.count": 2},
            "learner.count = 2: topology hogwild learns in every actor; use --topology queue",
        ),
        (
            {"topology": "serial", "actor.count": 1, "inference.kind": "batched"},
            "inference.kind = 'batched': in topology serial every actor has the network; use async, queue or ga3c",
        ),
        (
            A3C | {"inference.kind": "batched"},
            "inference.kind = 'batched': in topology hogwild every actor has the network; use async, queue or ga3c",
        ),
        ({"topology": "ga3c"}, "topology = 'ga3c': its actors have no network; set inference.kind to batched"),
        (
            {"adjust.every_seconds": 2.0},
            "adjust.every_seconds: topology async does not adjust its numbers; ga3c does",
        ),
        (
            A3C | {"actor.window_steps": 8, "actor.environments": 1, "loss.kind": "a3c"},
            "actor.window_steps: topology hogwild learns from whole rollouts; set it to 0",
        ),
        (
            A3C | {"novelty.coefficient": 1.0},
            "novelty.coefficient: in topology hogwild no learner sees what the others have seen; use async, queue or",
        ),
        (
            {"novelty.coefficient": 1.0, "actor.window_steps": 8, "loss.kind": "a3c", "actor.environments": 1},
            r"novelty.coefficient: the samples of a window \(actor.window_steps\) .*; take a preset that learns",
        ),
        (
            {"network.core": "gru", "actor.window_steps": 8, "loss.kind": "a3c", "actor.environments": 1},
            r"network.core = 'gru': a window's samples \(actor.window_steps\) are single steps, and a recurrent layer",
        ),
        (
            A3C | {"record": True},
            "record: a run of topology hogwild with local inference cannot be replayed",
        ),
        (
            {"record": True, "collapse.answer": "rollback"},
            r"record: a run that goes back to its best weights \(collapse.answer = 'rollback'\) cannot be replayed",
        ),
        (
            {"evaluation.every_seconds": 0.0, "collapse.answer": "rollback"},
            "collapse.answer = 'rollback': without evaluations during training there are no best weights; set eval",
        ),
        (A3C | {"learner.epochs": 4}, "learner.epochs = 4: topology hogwild makes one gradient of each rollout; set 1"),
        (
            A3C | {"learner.minibatches": 3},
            "learner.minibatches = 3: topology hogwild makes one gradient of each rollout; set 1",
        ),
        (
            {"loss.kind": "a3c", "learner.max_lag": 3},
            "learner.stale = 'correct': loss a3c corrects no lag; use drop, or loss.kind impala or appo",
        ),
    ],
)
def test_settings_that_do_not_go_together_are_refused_with_what_to_do(settings, message):
    assert re.match(message, refusal(settings))
    with pytest.raises(UsageError, match=message):  # and so is a file that says so
        from_toml(to_toml(config.build({"actor.auto": False} | settings)))


@pytest.mark.parametrize(
    "settings",
    [
        A3C,
        {"topology": "ga3c", "inference.kind": "batched", "adjust.every_seconds": 2.0, "learner.count": 3},
        {"inference.kind": "batched"},
        {"topology": "queue", "inference.kind": "batched", "actor.window_steps": 8, "actor.environments": 1}
        | {"loss.kind": "a3c"},
        {"loss.kind": "a3c", "learner.max_lag": 3, "learner.stale": "drop"},
        {"learner.max_lag": 3},
    ],
)
def test_what_goes_together_is_taken(settings):
    made = dict(config.flatten(dataclasses.asdict(resolve("X-v0", settings=settings))))
    assert {name: made[name] for name in settings} == settings


# Files


def test_a_file_gives_back_every_default():
    assert from_toml(to_toml(TrainConfig())) == TrainConfig()


@pytest.mark.parametrize("name", config.presets())
def test_a_file_gives_back_every_preset(name):
    for env in ["X-v0", *config.load_preset(name).tuned]:
        made = resolve(env, name, {"seed": 2**53 + 1})
        assert from_toml(to_toml(made)) == made


def test_a_file_gives_back_what_is_hard_to_write():
    made = resolve(
        'odd "name"\\ü:x',
        settings={"network.hidden": (), "exploration.epsilon": (0.1, 1 / 3), "stop.target": -1.5, "stop.seconds": 1e-9},
    )
    assert from_toml(to_toml(made)) == made


def test_a_file_from_before_there_was_normalisation_has_none():
    """As the weights beside it have: it would not fit them."""
    before = to_toml(TrainConfig()).replace("normalize = true\n", "").replace("normalize_reward = true\n", "")
    assert "normalize " not in before
    read = from_toml(before)
    assert (read.network.normalize, read.loss.normalize_reward) == (False, False)
    assert config.replace(read, {"network.normalize": True, "loss.normalize_reward": True}) == TrainConfig()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("learner = [", "not a TOML file"),
        ("[learner]\nepoch = 3", "no setting 'learner.epoch'"),
        ("seed = -1", "seed = -1"),
    ],
)
def test_a_damaged_file_is_refused_in_one_line(text, message):
    with pytest.raises(UsageError, match=message):
        from_toml(text)


def test_replace_changes_what_is_named_and_checks_it():
    made = resolve("X-v0", "article")
    changed = config.replace(made, {"stop.steps": 77})
    assert changed.stop.steps == 77
    assert dataclasses.replace(changed, stop=made.stop) == made
    with pytest.raises(UsageError, match=r"stop\.steps = -1"):
        config.replace(made, {"stop.steps": -1})


# Times


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90), ("30s", 30), ("1.5m", 90), ("2h", 7200), ("1d", 86400), (" 3 m ", 180), ("0.25", 0.25)],
)
def test_a_time_in_words(text, seconds):
    assert config.seconds(text) == seconds


@pytest.mark.parametrize("text", ["", "soon", "-3s", "1h30m", "3 weeks", "1e3", "nan"])
def test_what_is_no_time_is_answered_with_examples(text):
    with pytest.raises(UsageError, match=r"is not a time: write 30s, 5m or 1\.5h"):
        config.seconds(text)


def test_reading_the_configuration_imports_nothing_heavy():
    """A wrong word is answered at once."""
    code = "import sys, troupe.config; print({'torch', 'gymnasium', 'numpy', 'matplotlib'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_numpys_numbers_are_numbers():
    config = resolve("X-v0", settings={"stop.target": np.float64(2.5), "learner.epochs": np.int64(3)})
    assert (config.stop.target, config.learner.epochs) == (2.5, 3)


@pytest.mark.parametrize(
    ("text", "number"),
    [("100k", 100_000), ("1.5M", 1_500_000), ("1e6", 1_000_000), ("2.5e3", 2_500), ("1_000", 1_000), ("0.5k", 500)],
)
def test_a_whole_number_may_be_abbreviated_wherever_one_is_set(text, number):
    settings = {"stop.steps": text, "learner.anneal_steps": text, "evaluation.every_steps": text}
    made = config.resolve("CartPole-v1", settings=settings)
    assert (made.stop.steps, made.learner.anneal_steps, made.evaluation.every_steps) == (number,) * 3


def test_a_setting_by_another_name_is_answered_with_ours():
    assert refusal({"lr": 1}).startswith("no setting 'lr'; did you mean learner.learning_rate? (")
    assert refusal({"learner.lr": 1}).endswith(" (troupe train --help learner lists them)")
    assert refusal({"n_workers": 1}).startswith("no setting 'n_workers'; did you mean actor.count? (")


def test_every_other_word_stands_for_a_setting_that_exists():
    from troupe.config.suggestions import _OTHER_WORDS

    assert set(_OTHER_WORDS) - set(config.fields()) == {"run_dir", "watch"}
    words = [word for synonyms in _OTHER_WORDS.values() for word in synonyms.split()]
    assert len(words) == len(set(words))


# V-trace


def test_v_trace_with_a_rho_clip_below_c_clip_is_refused_for_a_new_run_only():
    settings = {"loss.rho_clip": 0.5, "loss.c_clip": 0.9}
    assert refusal(settings) == (
        "loss.rho_clip = 0.5, loss.c_clip = 0.9: V-trace needs a rho_clip that is at least c_clip; set loss.c_clip to "
        "0.5 or less"
    )
    assert refusal({"loss.kind": "impala", "loss.c_clip": 1.5}).startswith("loss.rho_clip = 1, loss.c_clip = 1.5: V-tr")
    resolve("X-v0", "a3c", settings)  # this loss has no V-trace
    resolve("X-v0", settings={"loss.rho_clip": 0.5, "loss.c_clip": 0.5})
    assert from_toml(to_toml(config.build(settings))).loss.c_clip == 0.9  # a run that an earlier version began


@pytest.mark.parametrize(
    ("named", "expected"),
    [
        ({"gamma": 0.9}, "train() has no argument 'gamma'; did you mean settings={'loss.gamma': ...}?"),
        ({"lr": 1}, "train() has no argument 'lr'; did you mean settings={'learner.learning_rate': ...}?"),
        ({"total_timesteps": 9}, "train() has no argument 'total_timesteps'; did you mean steps=?"),
        ({"qqqqqq": 9}, "train() has no argument 'qqqqqq'"),
    ],
)
def test_a_setting_that_is_passed_as_an_argument_is_a_type_error_that_says_how_it_is_passed(named, expected):
    with pytest.raises(TypeError) as caught:
        troupe.train("CartPole-v1", **named)
    assert str(caught.value) == expected
