"""The rollout contract, proven with an environment that counts: everything in a rollout can be retraced."""

import itertools
from functools import partial
from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import pytest
import torch

from helpers.rollouts import check
from troupe.config.settings import Environment, Network
from troupe.environments import find
from troupe.environments.actions import Actions
from troupe.environments.stepping import pool
from troupe.environments.stepping.vector import EnvironmentFailed, Transition
from troupe.networks.actor_critic import build
from troupe.runs.evaluate.evaluation import Evaluator
from troupe.runtime.acting.actor import Actor, EpisodeCounter, PastReturn, StateTracker
from troupe.runtime.acting.inference import InferenceOutput
from troupe.runtime.data.rollout import ROWS, RolloutSpec, allocate, columns
from troupe.runtime.execution.gate import Closed, Retired
from troupe.runtime.execution.hang_detector import HangDetector
from troupe.runtime.learning.learner import Rewards, to_batch
from troupe.runtime.progress import Episode, Progress

NEEDS_ENVPOOL = pytest.mark.skipif(not pool.installed(), reason="needs envpool")
BACKENDS = ["native", "sync", pytest.param("envpool", marks=NEEDS_ENVPOOL)]


@pytest.mark.parametrize("cuts", [[24], [1] * 24, [7, 1, 5, 11], [3, 3, 3, 3, 3, 3, 3, 3]])
def test_rollouts_match_the_script_whatever_their_lengths(stage, counting, script, matches_script, cuts):
    staged = stage(counting)
    rollouts = [staged.collect(steps) for steps in cuts]
    assert sum(len(each.reward) for each in rollouts) == 24
    matches_script(rollouts, script)


def test_the_reward_of_a_row_is_that_of_its_own_action(stage, counting):
    rollout = stage(counting, epsilon=lambda played: 1.0).collect(60)
    expected = np.where(rollout.valid, 10 * rollout.obs[:-1, :, 1] + rollout.action, 0.0)
    assert (rollout.reward == expected).all()
    assert len(np.unique(rollout.action)) == 3


def test_a_reset_row_is_no_step_has_no_reward_and_is_in_no_episode(stage, counting, script):
    staged = stage(counting, environments=1)
    rows = sum(length + 1 for length, _ in script)
    rollout = staged.collect(rows)
    steps = sum(length for length, _ in script)
    assert rollout.steps == staged.progress.counts.played == steps
    assert not rollout.reward[~rollout.valid].any()
    assert [each.length for each in staged.progress.take_episodes()] == [length for length, _ in script]


@pytest.mark.parametrize("cuts", [[48], [1] * 48, [5, 43], [11, 13, 24]])
def test_episodes_have_their_exact_raw_return_and_length_across_seams(stage, counting, join, cuts):
    staged = stage(counting, epsilon=lambda played: 1.0)
    rollouts = [staged.collect(steps) for steps in cuts]
    rows = join(rollouts)
    expected = []
    totals, lengths = np.zeros(2), np.zeros(2, int)
    for t in range(sum(cuts)):
        for b in range(2):
            totals[b] += rows["reward"][t, b]
            lengths[b] += rows["valid"][t, b]
            if rows["terminated"][t, b] or rows["truncated"][t, b]:
                expected.append(Episode(totals[b], lengths[b]))
                totals[b], lengths[b] = 0, 0
    assert staged.progress.take_episodes() == expected
    assert staged.progress.counts.episodes == len(expected) > 10


def test_weights_published_in_the_middle_of_a_rollout_act_only_in_the_next(stage, counting):
    """Whatever is published while environments step, the recorded log mu is of the weights at the start."""
    biases, staged = [[0.0, 0.0, 0.0]], None

    def publish(episode: int, step: int) -> None:
        if staged is not None:  # not in the first step, which is tried before there is an actor
            biases.append([0.1 * len(biases), -0.3 * len(biases), 0.0])
            staged.publish(bias=biases[-1])

    staged = stage(lambda: counting(before_step=publish), hidden=())
    staged.network.body.policy.weight.data.zero_()
    staged.publish(bias=biases[0])
    biases.insert(0, biases[0])  # what the store began with is version 0
    for _ in range(3):
        version = staged.store.version
        rollout = staged.collect(6)
        assert (rollout.policy_version == version).all()
        assert staged.store.version > version
        expected = torch.tensor(biases[version]).log_softmax(-1).numpy()[rollout.action]
        np.testing.assert_allclose(rollout.behaviour_log_prob, expected, rtol=1e-5)


@pytest.mark.parametrize("epsilon", [0.0, 0.3, 1.0])
def test_the_recorded_log_mu_is_that_of_the_epsilon_mixture(stage, counting, epsilon):
    staged = stage(counting, epsilon=lambda played: epsilon)
    staged.publish(bias=[2.0, 0.0, -2.0])
    rollout = staged.collect(20)
    with torch.no_grad():
        logits, _ = staged.network.body(torch.from_numpy(rollout.obs[:-1]).flatten(0, 1))
    pi = logits.softmax(-1).view(20, 2, 3).numpy()
    chosen = np.take_along_axis(pi, rollout.action[..., None], -1)[..., 0]
    np.testing.assert_allclose(np.exp(rollout.behaviour_log_prob), (1 - epsilon) * chosen + epsilon / 3, rtol=1e-5)


def test_epsilon_is_a_function_of_the_steps_of_all_actors_when_the_rollout_begins(stage, counting):
    asked = []
    staged = stage(counting, epsilon=lambda played: asked.append(played) or 0.0)
    staged.progress.play(1000)  # another actor's
    first = staged.collect(4).steps
    staged.collect(4)
    assert asked == [1000, 1000 + first]


def test_an_action_space_may_start_anywhere(stage, counting):
    """Rollouts hold actions from 0; the environment gets those from its start, or it would object."""
    rollout = stage(partial(counting, start=-7), epsilon=lambda played: 1.0).collect(40)
    assert set(np.unique(rollout.action)) == {0, 1, 2}
    assert (rollout.reward == np.where(rollout.valid, 10 * rollout.obs[:-1, :, 1] + rollout.action, 0.0)).all()


def test_a_stopped_run_ends_a_rollout_at_the_next_step(stage, counting):
    staged = None
    staged = stage(lambda: counting(before_step=lambda *_: staged and staged.gate.stop()), environments=1)
    with pytest.raises(Closed):
        staged.collect(10)
    assert staged.environments[0].played == 1
    assert staged.progress.counts.played == 0


@pytest.mark.parametrize("backend", BACKENDS)
def test_every_backend_keeps_the_contract_on_cartpole(stage, join, backend):
    """CartPole pays 1 for every step, so returns equal lengths, and lengths fill the valid rows."""
    staged = stage("CartPole-v1", environments=4, backend=backend, epsilon=lambda played: 1.0)
    rollouts = [staged.collect(50) for _ in range(4)]
    rows = join(rollouts)
    assert (rows["reward"] == rows["valid"]).all()
    ended = rows["terminated"] | rows["truncated"]
    assert (rows["valid"][1:] == ~ended[:-1]).all()
    assert (np.abs(rows["obs"][rows["first"]]) <= 0.05).all()
    assert (np.abs(rows["obs"][1:][rows["terminated"]]) > [2.4, 1e9, 0.2095, 1e9]).any(-1).all()
    episodes = staged.progress.take_episodes()
    assert all(each.total == each.length for each in episodes)
    assert len(episodes) == ended.sum() > 10
    still_open = [rows["valid"][np.flatnonzero(rows["first"][:-1, b])[-1] :, b].sum() for b in range(4)]
    over = ended[-1] | ~rows["valid"][-1]  # its reset row is all there is since
    still_open = [0 if over[b] else length for b, length in enumerate(still_open)]
    assert sum(each.length for each in episodes) + sum(still_open) == rows["valid"].sum()


@pytest.mark.parametrize("backend", BACKENDS)
def test_cartpoles_time_limit_truncates_and_does_not_terminate(stage, backend):
    """A policy that leans against the pole stands for the 500 steps that v1 allows."""
    staged = stage("CartPole-v1", environments=1, backend=backend, hidden=())
    staged.publish(weight=[[0.0] * 4, [1e3, 2e3, 3e4, 1e4]])
    rollout = staged.collect(502)
    assert np.flatnonzero(rollout.truncated).tolist() == [499]
    assert not rollout.terminated.any()
    assert staged.progress.take_episodes() == [Episode(500.0, 500)]


# Lost lives


def test_returns_count_whole_games_whatever_lives_are_lost(blank):
    """Six steps worth 1, 2, 4, 8, 16, 32: lives go with the first and the third, the game with the fifth."""
    counter = EpisodeCounter(1)
    rollout = blank(7, reward=np.array([1, 2, 4, 8, 16, 0, 32], np.float32)[:, None])
    rollout.life_lost[[0, 2]] = rollout.terminated[4] = rollout.first[6] = True
    rollout.valid[5] = False
    check(rollout)
    assert counter.count(rollout) == [Episode(31.0, 5)]
    following = blank(2, reward=64.0, life_lost=[[True], [False]])
    following.truncated[1] = True
    assert counter.count(following) == [Episode(32.0 + 128.0, 3)]
    learned = to_batch(rollout, Rewards(0.9), torch.device("cpu"))
    assert (learned.discount == 0)[:, 0].tolist() == [True, False, True, False, True, False, False]


# Parts that take turns


class ScriptedVector:
    """Two or more environments that say what is asked of them, and answer as a clock: obs = [part, t]."""

    def __init__(self, name, count, calls, lives=()):
        self.name, self.count, self.calls, self.lives, self.t = name, count, calls, lives, 0
        self.notices, self.failed = {}, np.zeros(count, np.bool_)

    def answer_to(self, pulse):
        self.pulse = pulse

    def reset(self, seeds):
        self.seeds = seeds
        return self._obs()

    def delay(self):
        pass

    def send(self, action):
        self.calls.append(f"send {self.name}")
        self.action = action.copy()

    def receive(self):
        self.calls.append(f"receive {self.name}")
        self.t += 1
        no = np.zeros(self.count, bool)
        reward = 100.0 * self.t + self.action
        return Transition(self._obs(), reward, no, no, no | (self.t in self.lives))

    def close(self):
        self.calls.append(f"close {self.name}")

    def _obs(self):
        return np.stack([np.full(self.count, ord(self.name)), np.full(self.count, self.t)], 1).astype(np.float32)


class CountingInference:
    """Acts by counting, and says for whom."""

    def __init__(self, calls):
        self.calls, self.acted = calls, 0

    def refresh(self):
        self.calls.append("refresh")
        return 7

    def act(self, obs, epsilon, state=None):
        assert len(np.unique(obs, axis=0)) == 1
        name, t = chr(int(obs[0, 0])), int(obs[0, 1])
        self.calls.append(f"act {name}{t}")
        self.acted += 1
        return InferenceOutput(np.full(len(obs), self.acted), np.full(len(obs), -self.acted / 8), 7)


def collected(counts, steps, **lives):
    calls = []
    parts = [
        ScriptedVector(name, count, calls, lives.get(name, ())) for name, count in zip("ABC", counts, strict=False)
    ]
    actor = Actor(parts, CountingInference(calls), lambda _: 0.0, Progress(), np.random.SeedSequence(1), np.zeros(1))
    rollout = allocate(RolloutSpec(gym.spaces.Box(-1e6, 1e6, (2,), np.float32), steps, sum(counts)))
    actor.collect(rollout)
    check(rollout)
    return SimpleNamespace(actor=actor, rollout=rollout, calls=calls, parts=parts)


def test_one_part_acts_while_the_other_steps():
    assert collected((2, 2), 2).calls == [
        "refresh",
        "act A0", "send A", "act B0", "send B",
        "receive A", "act A1", "send A", "receive B", "act B1", "send B",
        "receive A", "receive B",
    ]  # fmt: skip


def test_one_part_alone_acts_and_steps_in_turn():
    assert collected((2,), 2).calls == ["refresh", "act A0", "send A", "receive A", "act A1", "send A", "receive A"]


@pytest.mark.parametrize("counts", [(2, 2), (4, 3), (1, 1, 1), (3, 1, 2)])
def test_every_column_of_every_part_is_its_own(counts):
    """Actions count through the parts; rewards are 100 for each step and the action; lives go in B's second."""
    made = collected(counts, 3, B=(2,))
    rollout, parts = made.rollout, len(counts)
    part_of = np.repeat(np.arange(parts), counts)
    t = np.arange(3)[:, None]
    action = parts * t + part_of + 1
    assert (rollout.action == action).all()
    assert (rollout.behaviour_log_prob == np.float32(-action / 8)).all()
    assert (rollout.reward == 100 * (t + 1) + action).all()
    assert (rollout.obs[..., 0] == ord("A") + part_of).all()
    assert (rollout.obs[..., 1] == np.arange(4)[:, None]).all()
    assert (rollout.life_lost == ((part_of == 1) & (t == 1))).all()
    assert (rollout.policy_version == 7).all()
    assert rollout.valid.all()
    assert not (rollout.terminated | rollout.truncated).any()
    assert rollout.first.tolist() == [[True] * sum(counts)] + [[False] * sum(counts)] * 3
    again = allocate(RolloutSpec(gym.spaces.Box(-1e6, 1e6, (2,), np.float32), 2, sum(counts)))
    made.actor.collect(again)
    assert (again.obs[..., 1] == np.arange(3, 6)[:, None]).all()  # every part goes on where it was
    assert (again.reward - again.action == 100 * (t[:2] + 4)).all()


def test_every_part_has_seeds_of_its_own_and_is_closed():
    made = collected((2, 3, 1), 1)
    assert len({tuple(part.seeds.generate_state(4)) for part in made.parts}) == 3
    made.actor.close()
    assert made.calls[-3:] == ["close A", "close B", "close C"]


SCRIPTS = [
    [(3, "terminated"), (2, "truncated")], [(1, "terminated"), (5, "both")], [(4, "truncated")], [(2, "both")],
    [(40, "terminated")], [(1, "truncated"), (1, "terminated")], [(6, "terminated")],
]  # fmt: skip


@pytest.mark.parametrize("parts", [(7,), (4, 3), (3, 2, 2), (1,) * 7], ids=str)
@pytest.mark.parametrize("cuts", [(24,), (1,) * 24, (7, 1, 5, 11)], ids=len)
def test_groups_match_their_scripts_whenever_their_episodes_end(stage, counting, matches_script, parts, cuts):
    """Seven environments, each with endings of its own: what is true of one column is so however they are dealt."""
    scripts = itertools.cycle(SCRIPTS)
    staged = stage(lambda: counting(script=next(scripts)), parts, epsilon=lambda _: 0.5)
    rollouts = [staged.collect(steps) for steps in cuts]
    told_ = {str(each.script) for each in staged.environments}
    assert told_ == {str(each) for each in SCRIPTS}
    for b, environment in enumerate(staged.environments):
        matches_script([columns(each, np.array([b])) for each in rollouts], environment.script)
    assert staged.progress.counts.played == sum(each.steps for each in rollouts)
    ended = sum((each.terminated | each.truncated).sum() for each in rollouts)
    assert len(staged.progress.take_episodes()) == ended > 20


def test_with_several_parts_weights_still_change_only_between_rollouts(stage, counting):
    staged = None
    staged = stage(lambda: counting(before_step=lambda *_: staged and staged.publish()), (2, 1))
    for _ in range(3):
        version = staged.store.version
        assert (staged.collect(4).policy_version == version).all()
        assert staged.store.version > version


def test_one_part_is_the_plain_loop(stage):
    """act, step, write down, with the same seeds: CartPole from Python, its resets included."""
    made, plain = (stage("CartPole-v1", 3, backend="sync", seed=5, epsilon=lambda _: 0.5) for _ in range(2))
    (environment,), act = [part.environment for part in plain.actor._groups], plain.actor._inference
    environment.reset(np.random.SeedSequence(5))
    rollouts, ended = [made.collect(40) for _ in range(2)], np.zeros(3, bool)
    obs, first, began = environment.reset(np.random.SeedSequence(5)).copy(), np.ones(3, bool), 0
    act.refresh()
    for rollout in rollouts:
        for t in range(40):
            decision = act.act(obs, 0.5)
            transition = environment.step(decision.action)
            expected = {
                "obs": obs, "first": first, "action": decision.action, "behaviour_log_prob": decision.log_prob,
                "reward": transition.reward, "terminated": transition.terminated, "truncated": transition.truncated,
                "life_lost": False, "valid": ~ended, "horizon": 1, "policy_version": 0, "past_return": 0,
            }  # fmt: skip
            assert expected.keys() == set(ROWS)
            for name, value in expected.items():
                assert (getattr(rollout, name)[t] == value).all(), (t, name)
            obs, first, ended = transition.obs.copy(), ended, transition.terminated | transition.truncated
            began += first.sum()
        assert (rollout.obs[-1] == obs).all()
        assert (rollout.first[-1] == first).all()
    assert began > 3


@pytest.mark.parametrize("which", [0, 1, 2])
def test_a_part_that_raises_is_named_with_what_it_raised(stage, counting, which):
    made = itertools.count()

    def sometimes():
        def before_step(episode, step):
            if mine == first + which and step == 1:
                raise OSError("no more discs")

        mine = next(made)
        return counting(before_step=before_step, script=[(9, "terminated")])

    first = 0
    staged = stage(sometimes, (1, 1, 1))
    first = next(made) - 3
    with pytest.raises(EnvironmentFailed, match=r"^environment .*: step raised OSError: no more discs \(step 2\)$"):
        staged.collect(5)
    staged.actor.close()


def parts_of(built):
    return [(part.environment.count, part.columns) for part in built.runners[0].actor._groups]


@pytest.mark.parametrize(
    ("environments", "parts", "sizes"),
    [(7, 2, [4, 3]), (8, 2, [4, 4]), (8, 3, [3, 3, 2]), (3, 4, [1, 1, 1]), (5, 1, [5]), (1, 2, [1])],
)
def test_environments_are_dealt_out_evenly(assembled, counting, environments, parts, sizes):
    settings = {
        "actor.count": 1, "actor.environments": environments, "actor.parts": parts, "actor.placement": "thread",
        "network.hidden": (4,),
    }  # fmt: skip
    built = assembled(counting, settings)
    ends = list(itertools.accumulate(sizes))
    assert parts_of(built) == [(size, slice(end - size, end)) for size, end in zip(sizes, ends, strict=True)]
    built.close()


def test_a_run_in_one_thread_has_one_part(assembled, counting):
    """Which is what a checkpoint puts back."""
    settings = {"topology": "serial", "actor.count": 1, "actor.environments": 4, "actor.parts": 2}
    built = assembled(counting, settings)
    assert parts_of(built) == [(4, slice(0, 4))]
    built.close()


@pytest.mark.parametrize("threads", ["turns", "free"])
def test_a_run_with_groups_and_environment_threads_delivers_every_step(
    assembled, run, watched, counting, matches_script, script, threads
):
    settings = {
        "actor.count": 2, "actor.environments": 5, "actor.parts": 2, "actor.placement": "thread", "threads": threads,
        "actor.rollout_steps": 6, "learner.threads": 2, "network.hidden": (4,),
    }  # fmt: skip
    built = assembled(counting, settings)
    delivered = watched(built)
    run(built, 4)
    assert sum(map(len, delivered.values())) >= 4
    for rollouts in delivered.values():
        if rollouts:
            matches_script(rollouts, script)


# Slow environments and their actor's pulse


class SlowAnswers(gym.Env):
    """Each answer takes 5 s of a clock that `look` sees ten times a second."""

    observation_space, action_space = gym.spaces.Box(0, 1, (1,), np.float32), gym.spaces.Discrete(2)
    wait = staticmethod(lambda: None)

    def reset(self, *, seed=None, options=None):
        SlowAnswers.wait()
        return np.zeros(1, np.float32), {}

    def step(self, action):
        SlowAnswers.wait()
        return np.zeros(1, np.float32), 1.0, False, True, {}


@pytest.mark.parametrize("hang_seconds", [60.0, 4.0])
@pytest.mark.parametrize("plays", ["an actor", "an evaluation"])
def test_a_batch_hangs_only_where_one_of_its_environments_does(monkeypatch, plays, hang_seconds):
    """Sixteen answers take 80 s, and no one of them more than 5."""
    config, source = Environment(backend="sync"), find(SlowAnswers)
    network, clock, pulse, hung = (
        build(source.observation_space, source.action_space, Network()),
        [1.0],
        np.zeros(1),
        [],
    )
    for module in (
        "environments.stepping.vector",
        "runtime.acting.actor",
        "runtime.execution.hang_detector",
        "runs.evaluate.evaluation",
    ):
        monkeypatch.setattr(f"troupe.{module}.time", SimpleNamespace(monotonic=lambda: clock[0]))
    hang_detector = HangDetector(pulse, hang_seconds)

    def wait():
        for _ in range(50):
            clock[0] += 0.1
            hung.append(hang_detector.hangs())

    monkeypatch.setattr(SlowAnswers, "wait", staticmethod(wait))
    seeds = np.random.SeedSequence(1)
    if plays == "an actor":
        part = source.make_restorable(16, config)
        actor = Actor([part], CountingInference([]), lambda _: 0.0, Progress(), seeds, pulse)
        part.step(np.zeros(16, np.int64))  # nobody waits for this one
        assert pulse[0] == 0.0
        actor.begin_anew()
    else:
        Evaluator(source, config, 16).run(network, 16, seeds, pulse=pulse)
    assert len(hung) >= 32 * 50
    assert any(hung) == (hang_seconds < 5)
    assert pulse[0] == 0.0


# Where an actor's time goes, and what ends it


class Ticking(ScriptedVector):
    """Every call takes its own time of a clock: a delay 1 s, a send 10, a receive 100, of which 30 are computed."""

    def __init__(self, *given, clock, **more):
        super().__init__(*given, **more)
        self.clock = clock

    def delay(self):
        self.clock.now += 1

    def send(self, action):
        super().send(action)
        self.clock.now += 10

    def receive(self):
        self.clock.now += 100
        self.clock.computed += 30
        return super().receive()


class Thinking(CountingInference):
    def __init__(self, calls, clock):
        super().__init__(calls)
        self.clock = clock

    def act(self, *given):
        self.clock.now += 1000
        return super().act(*given)


@pytest.fixture
def clock(monkeypatch, never_preempted):
    clock = SimpleNamespace(now=1e6, computed=0.0)
    given = SimpleNamespace(
        perf_counter=lambda: clock.now, monotonic=lambda: clock.now, process_time=lambda: clock.computed
    )
    monkeypatch.setattr("troupe.runtime.progress.time", given)
    monkeypatch.setattr("troupe.runtime.acting.actor.time", given)
    return clock


@pytest.mark.parametrize("alone", [False, True])
def test_every_second_of_an_actor_is_counted_for_what_it_was_spent_on(clock, alone):
    """Alone in its process it can tell what its environment waited for from what it computed."""
    parts, inference = [Ticking("A", 2, [], clock=clock)], Thinking([], clock)
    actor = Actor(parts, inference, lambda _: 0.0, Progress(), np.random.SeedSequence(1), np.zeros(1), alone=alone)
    assert inference.watch is actor.watch
    actor.collect(allocate(RolloutSpec(gym.spaces.Box(-1e6, 1e6, (2,), np.float32), 3, 2)))
    environment = {"env": 90.0, "env_wait": 210.0} if alone else {"env": 300.0}
    assert actor.watch.stage == "other"
    assert {name: each for name, each in actor.watch.seconds.items() if each} == {
        "delay": 3.0, "act": 3030.0, **environment,
    }  # fmt: skip


def test_an_environment_that_computes_in_many_threads_waits_for_nothing(clock):
    class Parallel(Ticking):
        def receive(self):
            self.clock.computed += 500
            return super().receive()

    parts = [Parallel("A", 2, [], clock=clock)]
    actor = Actor(
        parts, Thinking([], clock), lambda _: 0.0, Progress(), np.random.SeedSequence(1), np.zeros(1), alone=True
    )
    actor.collect(allocate(RolloutSpec(gym.spaces.Box(-1e6, 1e6, (2,), np.float32), 1, 2)))
    assert actor.watch.seconds["env"] == 100.0
    assert not actor.watch.seconds.get("env_wait")


def test_while_an_environment_is_asked_the_pulse_is_the_time(clock):
    pulse, seen = np.zeros(1), []

    class Looks(ScriptedVector):
        def reset(self, seeds):
            seen.append(float(pulse[0]))
            return super().reset(seeds)

        def receive(self):
            clock.now += 1
            seen.append(float(self.pulse[0]))
            return super().receive()

    actor = Actor(
        [Looks("A", 1, [])], CountingInference([]), lambda _: 0.0, Progress(), np.random.SeedSequence(1), pulse
    )
    assert pulse[0] == 0.0
    actor.collect(allocate(RolloutSpec(gym.spaces.Box(-1e6, 1e6, (2,), np.float32), 2, 1)))
    assert seen == [1e6, 1e6, 1e6 + 1]
    assert pulse[0] == 0.0


def test_an_actor_that_was_replaced_ends_when_its_environment_answers():
    made = collected((2,), 2)
    made.actor.retire()
    again = allocate(RolloutSpec(gym.spaces.Box(-1e6, 1e6, (2,), np.float32), 2, 2))
    with pytest.raises(Retired):
        made.actor.collect(again)
    assert made.calls.count("receive A") == 3


def test_what_was_played_is_counted_with_its_rewards_and_its_epsilon(stage, counting):
    staged = stage(counting, epsilon=lambda played: 0.25)
    rollout = staged.collect(7)
    assert staged.progress.take_reward() == (rollout.reward.sum(), rollout.steps)
    assert staged.progress.metrics.take()["epsilon"] == [0.25 * rollout.steps, rollout.steps]
    assert rollout.pulls == [(0, 0)]
    staged.publish()
    assert staged.collect(7).pulls == [(1, rollout.steps)]


def test_notices_of_environments_reach_the_run():
    calls: list[str] = []
    vector, progress = ScriptedVector("A", 1, calls), Progress()
    vector.notices = {"mask": "masks are ignored"}
    actor = Actor([vector], CountingInference(calls), lambda _: 0.0, progress, np.random.SeedSequence(1), np.zeros(1))
    actor.collect(allocate(RolloutSpec(gym.spaces.Box(-1e6, 1e6, (2,), np.float32), 1, 1)))
    assert list(progress.notices) == ["masks are ignored"]


# What is saved of it, and a new beginning


def test_only_one_group_with_a_network_of_its_own_can_be_saved(stage, counting):
    assert stage(counting, (1, 1)).actor.state() is None
    assert collected((2,), 1).actor._groups[0].environment.count == 2
    scripted = collected((2,), 1)
    scripted.parts[0].state = lambda: {"a": 1}
    assert scripted.actor.state() is None  # its inference is none that can be saved


def test_lent_environments_begin_anew_and_nothing_of_the_old_episodes_is_left(stage, counting):
    staged = stage(lambda: counting([(6, "terminated")]), environments=2)
    staged.actor._past = PastReturn(2, 0.5)
    first = staged.collect(4)
    assert staged.actor.lend() is staged.actor._groups[0].environment
    staged.actor.begin_anew()
    seeds = [environment.seeds[-1] for environment in staged.environments]
    assert None not in {*seeds}
    assert {*seeds}.isdisjoint(seed for environment in staged.environments for seed in environment.seeds[:-1])
    rollout = staged.collect(7)
    assert rollout.first[0].all()
    assert rollout.valid[:6].all()
    assert (rollout.obs[0, :, 0] == first.obs[-1, :, 0] + 1).all()
    (one, other) = staged.progress.take_episodes()
    assert one.length == other.length == 6
    assert {one.total, other.total} == set(rollout.reward.sum(0).tolist())
    assert (rollout.past_return[0] == rollout.reward[0]).all()


def test_past_returns_are_discounted_sums_that_end_with_their_episodes(blank):
    """Rewards 1, 2, 4, and a reset row, and 8, across two rollouts, with gamma 0.5."""
    past, first, second = PastReturn(1, 0.5), blank(2, reward=[[1.0], [2.0]]), blank(3, reward=[[4.0], [0.0], [8.0]])
    second.terminated[0], second.valid[1] = True, False
    past.write(first)
    past.write(second)
    assert first.past_return[:, 0].tolist() == [1.0, 2.5]
    assert second.past_return[:, 0].tolist() == [5.25, 0.0, 8.0]
    cut = blank(2, reward=[[3.0], [0.0]], truncated=[[True], [False]])
    past.write(cut)
    assert cut.past_return[:, 0].tolist() == [7.0, 0.0]


def test_the_memory_of_an_actor_is_restored_with_its_last_action_and_reward(blank):
    def tracker():
        return StateTracker(2, 3, Actions(gym.spaces.Discrete(4)))

    rollout = allocate(RolloutSpec(gym.spaces.Box(-1, 1, (1,), np.float32), 2, 2, state_size=3))
    rollout.action[-1], rollout.reward[-1] = [3, 1], [0.5, -2.0]
    one, other = tracker(), tracker()
    one.update(np.arange(6, dtype=np.float32).reshape(2, 3), slice(None))
    one.end(rollout)
    kept = one.state()
    one.update(np.zeros((1, 3), np.float32), slice(0, 1))
    other.restore(kept)
    following = allocate(RolloutSpec(gym.spaces.Box(-1, 1, (1,), np.float32), 2, 2, state_size=3))
    other.begin(following)
    assert following.initial_state.tolist() == [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]]
    assert following.initial_action.tolist() == [3, 1]
    assert following.initial_reward.tolist() == [0.5, -2.0]
    read = other.before(following, 0, slice(1, 2))
    assert [each.tolist() for each in read] == [[[3.0, 4.0, 5.0]], [False], [1], [-2.0]]
    following.action[0], following.reward[0], following.first[1] = [2, 0], [7.0, 9.0], [True, False]
    read = other.before(following, 1, slice(0, 1))
    assert [each.tolist() for each in read] == [[[0.0, 1.0, 2.0]], [True], [2], [7.0]]
    assert read.last_reward.dtype == torch.float32
