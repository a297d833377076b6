"""TensorBoard's curves: under which names and at which steps rows of metrics are written."""

from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import metadata

from troupe.config import resolve, to_toml
from troupe.runs.store.curve_descriptions import description
from troupe.runs.store.tensorboard import EventFile, curves

SAME = {"kind": "report", "wall": 5.0}
REPORT: dict[str, Any] = {
    "kind": "report", "wall": 1.0, "seconds": 2.0, "steps": 10, "episodes": 3, "return_mean": 2.5, "return_min": 1.0,
    "return_max": 4.0, "recent_return": 2.0, "return_per_1000_steps": 9.0, "length_mean": 7.0, "updates": 4,
    "skipped_updates": 1, "learning_rate": 0.5, "queue_depth": 2, "queue_capacity": 3, "lag_mean": 1.5, "lag_max": 2,
    "numbers": {"actors": 2}, "stale": 0, "restarts": 0, "policy_loss": 0.25, "value_loss": 0.5, "entropy": 0.75,
    "approx_kl": 0.125, "clip_fraction": None, "explained_variance": -1.0, "gradient_norm": 0.375, "epsilon": 0.5,
    "bonus": 6.0, "penalty": 8.0, "flag": True, "stage_seconds": {"actor": {"env": 1.0}}, "steps_per_s": 5.0,
    "updates_per_s": 2.0, "shares": {"actor": {"env": 0.25, "turn": 0.5}}, "bottleneck": "actor: env",
    "own": {"mine": 3, "deep": {"er": 4.0}},
}  # fmt: skip
TAGS = {
    "time/training_seconds": 2.0, "episode/training_episodes": 3.0, "episode/training_return": 2.5,
    "episode/training_return_min": 1.0,
    "episode/training_return_max": 4.0, "episode/training_return_of_latest_100": 2.0,
    "episode/training_length": 7.0, "update/updates": 4.0, "update/skipped_updates": 1.0,
    "update/learning_rate": 0.5, "queue/queue_depth": 2.0, "queue/lag_mean": 1.5, "queue/lag_max": 2.0,
    "queue/numbers/actors": 2.0, "queue/stale": 0.0, "queue/restarts": 0.0, "loss/policy_loss": 0.25,
    "loss/value_loss": 0.5, "policy/entropy": 0.75, "policy/approx_kl": 0.125, "update/explained_variance": -1.0,
    "update/gradient_norm": 0.375, "policy/epsilon": 0.5, "loss/bonus": 6.0, "loss/penalty": 8.0,
    "time/steps_per_s": 5.0, "time/updates_per_s": 2.0, "time/fraction/actor/env": 0.25,
    "time/fraction/actor/waiting_for_a_turn": 0.5, "own/mine": 3.0, "own/deep/er": 4.0,
}  # fmt: skip


def test_a_report_has_a_curve_for_each_number_in_its_group():
    made = dict(curves(REPORT))
    assert made == TAGS
    assert {type(each) for each in made.values()} == {float}
    assert REPORT["own"] == {"mine": 3, "deep": {"er": 4.0}}  # the row stays as it is


def test_an_evaluation_has_its_mean_and_bounds_and_the_final_one_a_curve_of_its_own():
    row = {"kind": "evaluation", "purpose": "progress", "steps": 3, "wall": 1.0, "mean": 2.0, "min": 1.0, "max": 4.0}
    assert dict(curves(row)) == {
        "episode/evaluation_return": 2.0,
        "episode/evaluation_return_min": 1.0,
        "episode/evaluation_return_max": 4.0,
    }
    assert dict(curves(row | {"purpose": "final", "own": {"x": 1}})) == {
        "episode/final_evaluation_return": 2.0,
        "own/x": 1.0,
    }
    assert dict(curves({"kind": "collapse", "steps": 3, "mean": 2.0})) == {}


def points(run: Path) -> dict[str, list[tuple[int, float, float]]]:
    """Step, time and value by tag."""
    events = EventAccumulator(str(run))
    events.Reload()
    tags = events.Tags()["scalars"]
    return {tag: [(each.step, each.wall_time, each.value) for each in events.Scalars(tag)] for tag in tags}


def test_a_step_has_its_last_value_and_what_is_usually_constant_appears_once_it_changes(tmp_path):
    file = EventFile(tmp_path)
    for steps, wall, mean, stale in ((1, 1.0, 2.0, 0), (1, 2.0, 3.0, 0), (4, 3.0, 5.0, 0), (6, 4.0, 5.0, 2)):
        file.add({"kind": "report", "wall": wall, "steps": steps, "return_mean": mean, "stale": stale, "epsilon": 0.5})
    file.add({"kind": "report", "wall": 5.0, "steps": 8, "stale": 2})
    assert len(points(tmp_path).get("episode/training_return", [])) <= 2  # the last is held back
    file.close()
    assert points(tmp_path) == {
        "episode/training_return": [(1, 2.0, 3.0), (4, 3.0, 5.0), (6, 4.0, 5.0)],
        "queue/stale": [(6, 4.0, 2.0), (8, 5.0, 2.0)],
    }  # fmt: skip
    assert file._file.closed


def test_a_resumed_run_hides_later_points_and_writes_none_of_steps_that_it_has(tmp_path):
    first = EventFile(tmp_path)
    for steps in (5, 10, 11, 15):
        first.add(SAME | {"steps": steps, "return_mean": float(steps)})
    first.close()
    again = EventFile(tmp_path)
    again.resume(10)
    for steps in (9, 10, 11, 12):
        again.add(SAME | {"steps": steps, "return_mean": -float(steps)})
    again.close()
    shown = [(step, value) for step, _, value in points(tmp_path)["episode/training_return"]]
    assert shown == [(5, 5.0), (10, 10.0), (11, -11.0), (12, -12.0)]


def test_a_curve_has_its_description_with_its_first_point(tmp_path):
    file = EventFile(tmp_path)
    file.add(SAME | {"steps": 1, "entropy": 0.5, "shares": {"actor": {"env_wait": 1.0}}, "numbers": {"actors": 2}})
    file.add(SAME | {"steps": 2, "entropy": 0.5, "numbers": {"actors": 3}})
    file.close()
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    for tag in events.Tags()["scalars"]:
        assert events.SummaryMetadata(tag).summary_description == description(tag) != ""
    assert description("queue/numbers/actors") == "How many actors there are."
    own = "Fraction of its time, from 0 to 1, that the actor spends on own stage."
    assert description("time/fraction/actor/own stage") == own
    assert description("time/fraction/actor/no_free_core") != description("time/fraction/actor/env_wait")
    assert description("loss/mine") == description("own/x") == ""


def test_settings_are_hyperparameters_of_their_kinds(tmp_path):
    config = resolve("CartPole-v1", settings={"network.shared": True, "stop.target": 3.5, "env.kwargs.x": [1, "a"]})
    (tmp_path / "config.toml").write_text(to_toml(config))
    EventFile(tmp_path).close()
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    content = events.PluginTagToContent("hparams")
    start = metadata.parse_session_start_info_plugin_data(content[metadata.SESSION_START_INFO_TAG])
    values = start.hparams
    assert (values["network.shared"].bool_value, values["stop.target"].number_value) == (True, 3.5)
    assert values["seed"].WhichOneof("kind") == "number_value"
    assert (values["env.kwargs.x"].string_value, values["preset"].string_value) == ("[1, 'a']", "appo")
    experiment = metadata.parse_experiment_plugin_data(content[metadata.EXPERIMENT_TAG])
    infos = experiment.hparam_infos
    assert sorted(each.name for each in infos) == sorted(values)
    shown = {each.name for each in infos if each.differs}  # before the others
    assert shown == {"env.id", "preset", "seed", "stop.steps", "stop.target"}
    (metric,) = experiment.metric_infos
    assert metric.name.tag == "episode/final_evaluation_return"


@pytest.mark.parametrize("content", [None, b"\xff", b"x ="])
def test_without_settings_that_can_be_read_there_are_curves_all_the_same(tmp_path, content):
    if content is not None:
        (tmp_path / "config.toml").write_bytes(content)
    file = EventFile(tmp_path)
    file.add(SAME | {"steps": 1, "return_mean": 2.0})
    file.close()
    assert points(tmp_path) == {"episode/training_return": [(1, 5.0, 2.0)]}


def test_every_setting_is_listed_once_in_the_order_of_the_file(tmp_path):
    (tmp_path / "config.toml").write_text('seed = 1\nb = 2\npreset = "x"\na = 3\n')
    EventFile(tmp_path).close()
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    content = events.PluginTagToContent("hparams")[metadata.EXPERIMENT_TAG]
    infos = metadata.parse_experiment_plugin_data(content).hparam_infos
    assert [each.name for each in infos] == ["seed", "b", "preset", "a"]
