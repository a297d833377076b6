"""Which settings exclude each other, and which nearly do."""

from typing import Any

import pytest

from troupe.config import UsageError, build, resolve

WINDOW = {"actor.window_steps": 8, "actor.environments": 1, "loss.kind": "a3c"}
HOGWILD = {"topology": "hogwild", "learner.epochs": 1, "learner.minibatches": 1}
GA3C = {"topology": "ga3c", "inference.kind": "batched"}
NEVER_EVALUATED = {"evaluation.every_steps": 0, "evaluation.every_seconds": 0.0}
ROLLBACK = {"collapse.answer": "rollback"}
CLUSTER = {"actor.cluster": "10.0.0.1:6379"}


@pytest.mark.parametrize(
    ("settings", "refused"),
    [
        (WINDOW, ""),
        (WINDOW | {"loss.kind": "impala"}, "actor.window_steps = 8: "),
        (WINDOW | {"loss.reward_clip": 1.0}, "loss.reward_clip: a window's samples hold sums of rewards"),
        ({"loss.reward_clip": 1.0}, ""),
        (WINDOW | {"actor.environments": 2}, "actor.environments = 2: "),
        (WINDOW | {"network.core": "lstm"}, "network.core = 'lstm': "),
        (WINDOW | {"novelty.coefficient": 0.5}, "novelty.coefficient: the samples of a window"),
        ({"network.core": "lstm", "novelty.coefficient": 0.5}, ""),
        # Learners and actors
        ({"topology": "queue", "learner.count": 2}, ""),
        (GA3C | {"learner.count": 2}, ""),
        ({"topology": "serial", "learner.count": 2, "actor.count": 1}, "learner.count = 2: topology serial has one"),
        ({"topology": "serial"}, ""),  # the default number of actors is measured
        ({"topology": "serial", "actor.count": 1}, ""),
        (
            {"topology": "serial", "actor.count": 2},
            "actor.count = 2: topology serial has one actor; use --actor.count 1",
        ),
        (HOGWILD | {"learner.count": 2}, "learner.count = 2: topology hogwild learns in every actor"),
        # Inference
        ({"inference.kind": "batched"}, ""),
        ({"topology": "queue", "inference.kind": "batched"}, ""),
        (GA3C, ""),
        (GA3C | {"inference.kind": "local"}, "topology = 'ga3c': its actors have no network"),
        (HOGWILD | {"inference.kind": "batched"}, "inference.kind = 'batched': in topology hogwild"),
        (GA3C | {"adjust.every_seconds": 1.0}, ""),
        ({"topology": "queue", "adjust.every_seconds": 1.0}, "adjust.every_seconds: topology queue does not"),
        # Hogwild
        (HOGWILD, ""),
        (HOGWILD | WINDOW, "actor.window_steps: topology hogwild learns from whole rollouts"),
        (HOGWILD | {"novelty.coefficient": 0.5}, "novelty.coefficient: in topology hogwild"),
        (HOGWILD | {"learner.epochs": 2}, "learner.epochs = 2: "),
        (HOGWILD | {"learner.minibatches": 2}, "learner.minibatches = 2: "),
        # Records
        ({"record": True}, ""),
        ({"record": True, "topology": "queue"}, ""),
        ({"record": True, "inference.kind": "batched"}, "record: a run of topology async with batched inference"),
        ({"record": True, "topology": "serial", "actor.count": 1}, "record: a run of topology serial with local"),
        ({"record": True} | HOGWILD, "record: a run of topology hogwild with local inference"),
        ({"record": True} | GA3C, "record: a run of topology ga3c with batched inference"),
        ({"record": True} | ROLLBACK, "record: a run that goes back to its best weights"),
        # Collapse, lag
        (NEVER_EVALUATED, ""),
        (ROLLBACK, ""),
        (ROLLBACK | NEVER_EVALUATED, "collapse.answer = 'rollback': without evaluations"),
        (ROLLBACK | NEVER_EVALUATED | {"evaluation.every_steps": 9}, ""),
        (ROLLBACK | NEVER_EVALUATED | {"evaluation.every_seconds": 9.0}, ""),
        ({"learner.max_lag": 3, "loss.kind": "impala"}, ""),
        ({"learner.max_lag": 3, "loss.kind": "a3c"}, "learner.stale = 'correct': loss a3c corrects no lag"),
        ({"learner.max_lag": 3, "loss.kind": "a3c", "learner.stale": "drop"}, ""),
        ({"loss.kind": "a3c"}, ""),
        # A cluster
        (CLUSTER, ""),
        (CLUSTER | {"actor.cluster": "auto"}, ""),
        (CLUSTER | {"actor.cluster": "head.local:1"}, ""),
        (CLUSTER | {"actor.cluster": "ray://head:1"}, "actor.cluster = 'ray://head:1': a client cannot train"),
        (CLUSTER | {"actor.cluster": "head"}, "actor.cluster = 'head': expected auto, none or an address HOST:PORT"),
        (CLUSTER | {"actor.cluster": "a b:1"}, "actor.cluster = 'a b:1': expected auto"),
        (CLUSTER | {"actor.cluster": "http://x:1"}, "actor.cluster = 'http://x:1': expected auto"),
        (CLUSTER | {"actor.cluster": "x:1 "}, "actor.cluster = 'x:1 ': expected auto"),
        (CLUSTER | {"topology": "queue"}, "actor.cluster = '10.0.0.1:6379': with topology queue actors cannot"),
        (CLUSTER | {"inference.kind": "batched"}, "actor.cluster = '10.0.0.1:6379': with inference.kind = 'batched'"),
        (CLUSTER | {"actor.placement": "process"}, ""),
        (CLUSTER | {"actor.placement": "thread"}, "actor.placement = 'thread': on a cluster actors are processes"),
        ({"actor.placement": "thread"}, ""),
        ({"actor.placement": "thread", "actor.cluster": "none"}, ""),
    ],
)
def test_settings_are_taken_together_or_refused_by_the_name_of_the_one_to_change(settings: Any, refused: str):
    if not refused:
        resolve("X-v0", settings=settings)
        return
    with pytest.raises(UsageError) as caught:
        resolve("X-v0", settings=settings)
    assert str(caught.value).startswith(refused)


@pytest.mark.parametrize(
    ("kind", "rho", "c", "taken"),
    [("appo", 1.0, 1.0, True), ("appo", 0.9, 1.0, False), ("impala", 1.0, 1.1, False), ("a3c", 0.9, 1.0, True),
     ("impala", 2.0, 1.0, True)],
)  # fmt: skip
def test_v_trace_needs_a_rho_clip_of_at_least_the_c_clip(kind, rho, c, taken):
    settings = {"loss.kind": kind, "loss.rho_clip": rho, "loss.c_clip": c}
    if taken:
        resolve("X-v0", settings=settings)
    else:
        with pytest.raises(
            UsageError, match=rf"^loss\.rho_clip = {rho:g}, loss\.c_clip = {c:g}: .*set loss\.c_clip to "
        ):
            resolve("X-v0", settings=settings)
    build(settings)  # a file of an earlier version may have it


def test_a_layer_that_names_actors_or_an_epsilon_settles_what_belongs_to_it(monkeypatch):
    assert resolve("X-v0").actor.auto
    for name in ("actor.count", "actor.environments"):
        assert not resolve("X-v0", settings={name: 3}).actor.auto
        assert not resolve("X-v0", settings={name: 3, "actor.parts": 1}).actor.auto
    assert resolve("X-v0", settings={"actor.count": 3, "actor.auto": True}).actor.auto
    article = resolve("X-v0", "article").exploration
    assert article.epsilon_end != ()
    changed = resolve("X-v0", "article", {"exploration.epsilon": 0.5}).exploration
    assert (changed.epsilon, changed.epsilon_end) == ((0.5,), ())
    both = resolve("X-v0", "article", {"exploration.epsilon": 0.5, "exploration.epsilon_end": 0.25}).exploration
    assert both.epsilon_end == (0.25,)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, (0.0, False, True, 30, 4)),
        ({"env.protocol": "nature"}, (0.0, True, True, 30, 4)),
        ({"env.protocol": "v5"}, (0.25, False, False, 0, 4)),
        ({"env.protocol": "v5", "env.noops": 7, "env.frame_skip": 2}, (0.25, False, False, 7, 2)),
    ],
)
def test_a_protocol_sets_several_settings_and_those_beside_it_take_precedence(given, expected):
    env = resolve("X-v0", settings=given).env
    assert (env.sticky, env.episodic_life, env.fire_reset, env.noops, env.frame_skip) == expected


def test_a_protocol_is_named_with_what_differs_from_it_and_only_for_atari_games():
    from troupe.config import protocol_of

    def named(env: str, **settings: Any) -> str:
        return protocol_of(build({"env.id": env} | {f"env.{name}": value for name, value in settings.items()}).env)

    assert named("CartPole-v1") == ""
    assert named("ALE/Pong-v5", episodic_life=True) == "nature"
    assert named("module:ALE/Pong-v5") == "nature, but env.episodic_life = False"
    v5 = {"protocol": "v5", "sticky": 0.25, "fire_reset": False, "noops": 0}
    assert named("ALE/Pong-v5", **v5) == "v5"
    assert named("ALE/Pong-v5", **v5 | {"noops": 3, "sticky": 0.5}) == "v5, but env.sticky = 0.5, but env.noops = 3"
