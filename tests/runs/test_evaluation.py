"""Evaluation: whole episodes, shared out beforehand, judged by raw returns."""

import itertools
from dataclasses import replace
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

from troupe.config import Environment, Evaluation, Network, UsageError
from troupe.environments import find
from troupe.environments.actions import Actions
from troupe.environments.packing import Packing
from troupe.environments.stepping import pool
from troupe.networks.actor_critic import ActorCritic, build
from troupe.networks.recurrent import RecurrentState
from troupe.runs.evaluate.evaluation import Evaluator, evaluate, most_steps
from troupe.runs.evaluate.scores import Scores

SEEDS = np.random.SeedSequence(0)


class Fixed(torch.nn.Module):
    """The same logits for every observation."""

    def __init__(self, *logits: float):
        super().__init__()
        self.logits = torch.nn.Parameter(torch.tensor(logits, dtype=torch.float32))

    def forward(self, obs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.logits.expand(len(obs), -1), torch.zeros(len(obs))


def fixed(*logits: float) -> ActorCritic:
    actions = Actions(gym.spaces.Discrete(len(logits)))
    return ActorCritic(Fixed(*logits), Packing(gym.spaces.Box(-1, 1, (1,)), actions), actions)


def network_of(source: Any) -> ActorCritic:
    torch.manual_seed(0)
    return build(source.observation_space, source.action_space, Network(hidden=(8,)))


def run(env: Any, network: ActorCritic, episodes: int, seed: int = 0, **how: Any) -> Scores:
    evaluator = Evaluator(find(env), Environment(), episodes)
    scores = evaluator.run(network, episodes, np.random.SeedSequence(seed), **how)
    evaluator.close()
    assert scores is not None
    return scores


def test_returns_and_lengths_are_those_of_the_script_and_reset_rows_are_in_neither(counting, script):
    """Greedy action 2 of 3: an episode of n steps pays 10 * (0 + ... + n-1) + 2 n."""
    network = fixed(0.0, 1.0, 2.0)
    scores = run(counting, network, 16 * 5)
    lengths = [length for length, _ in script]
    assert sorted(scores.lengths) == sorted(lengths * 16)
    assert (scores.returns == 5 * scores.lengths * (scores.lengths - 1) + 2 * scores.lengths).all()


def test_every_environment_plays_a_share_fixed_beforehand_so_short_episodes_are_not_favoured():
    """Half the environments have episodes of one step, half of fifty. Whoever takes the first twenty that
    end has no long one among them; the fair mean is 25.5."""
    kinds = itertools.cycle([1, 50])

    class Mixed(gym.Env):
        observation_space = gym.spaces.Box(0, 1, (1,), np.float32)
        action_space = gym.spaces.Discrete(2)

        def __init__(self) -> None:
            self.length = next(kinds)

        def reset(self, *, seed: Any = None, options: Any = None) -> Any:
            self.left = self.length
            return np.zeros(1, np.float32), {}

        def step(self, action: Any) -> Any:
            self.left -= 1
            return np.zeros(1, np.float32), 1.0, self.left == 0, False, {}

    scores = run(Mixed, fixed(0.0, 0.0), 32)
    assert sorted(scores.lengths) == [1] * 16 + [50] * 16
    assert scores.mean == 25.5


def test_alternating_lengths_keep_their_order_in_each_environment(counting):
    """Episodes of 1 and 9 steps in turn: two of each environment, one short and one long, whatever ends first."""
    scores = run(partial(counting, script=[(1, "terminated"), (9, "truncated")]), fixed(0, 0, 0), 32)
    assert sorted(scores.lengths) == [1] * 16 + [9] * 16


@pytest.mark.parametrize("episodes", [1, 5, 16, 17, 33])
def test_the_number_of_episodes_is_exact_however_they_are_shared_out(counting, episodes):
    scores = run(counting, fixed(0, 0, 0), episodes)
    assert len(scores.returns) == len(scores.lengths) == scores.summary()["episodes"] == episodes


def test_an_evaluator_may_play_fewer_or_more_episodes_than_it_has_environments(counting):
    source = find(counting)
    evaluator = Evaluator(source, Environment(), 10)
    for episodes in (3, 10, 25):
        assert len(evaluator.run(network_of(source), episodes, SEEDS).returns) == episodes


def test_greedy_plays_the_mode_and_stochastic_the_distribution(pays):
    """Arm 1 pays 1 and has probability 0.6."""
    network = fixed(np.log(0.4), np.log(0.6))
    bandit = partial(pays, arms=(0.0, 1.0), length=100)
    assert (run(bandit, network, 20).returns == 100).all()
    returns = run(bandit, network, 20, greedy=False).returns
    assert 50 < returns.mean() < 70
    assert returns.std() > 1


@pytest.mark.parametrize("env", ["CartPole-v1", "echo"])
@pytest.mark.parametrize("greedy", [True, False])
def test_one_seed_gives_one_result_and_another_another(request, env, greedy):
    env = request.getfixturevalue(env) if env == "echo" else env
    network = network_of(find(env))
    first, again, other = (run(env, network, 20, seed, greedy=greedy) for seed in (1, 1, 2))
    assert first.returns.tolist() == again.returns.tolist()
    assert first.returns.tolist() != other.returns.tolist()


def test_a_second_evaluation_begins_anew_and_does_not_go_on_where_the_first_stopped():
    source = find("CartPole-v1")
    network = network_of(source)
    evaluator = Evaluator(source, Environment(), 7)
    (seeds, again) = (np.random.SeedSequence(3) for _ in range(2))
    first = evaluator.run(network, 7, seeds)
    assert evaluator.run(network, 7, again).returns.tolist() == first.returns.tolist()


def test_native_and_python_environments_give_statistics_of_one_kind():
    """CartPole pays 1 each step: in both, returns are lengths, and a policy that pushes one way soon falls."""
    source = find("CartPole-v1")
    for each in (source, replace(source, native_vector=None)):
        evaluator = Evaluator(each, Environment(), 40)
        scores = evaluator.run(fixed(0.0, 1.0), 40, SEEDS)
        assert (scores.returns == scores.lengths).all()
        assert set(scores.lengths) <= {8, 9, 10, 11}
        evaluator.close()


@pytest.mark.parametrize("backend", ["auto", "sync"])
def test_atari_is_evaluated_as_it_was_played_but_by_whole_games(backend):
    made = []

    def vector(count: int, config: Environment) -> gym.vector.VectorEnv:
        made.append((count, config))
        return gym.make_vec("CartPole-v1", num_envs=count)

    def single(config: Environment) -> gym.Env:
        made.append((1, config))
        return gym.make("CartPole-v1")

    source = replace(find("ALE/Pong-v5"), native_vector=vector, make=single)
    config = Environment(backend=backend, sticky=0.25, noops=3, fire_reset=False, frame_skip=2, episodic_life=True)
    evaluator = Evaluator(source, config, 40)
    counts, configs = zip(*made, strict=True)
    assert sum(counts) == evaluator._environment.count == (16 if backend == "sync" else 32)
    assert {replace(each, threads=0) for each in configs} == {replace(config, episodic_life=False)}
    assert all(1 <= each.threads <= 32 for each in configs)


def test_what_is_not_atari_is_evaluated_in_the_fastest_version_of_it():
    evaluator = Evaluator(find("CartPole-v1"), Environment(backend="sync", delay_seconds=9.0), 100)
    assert evaluator._environment.count == 100


@pytest.mark.skipif(not pool.installed(), reason="needs envpool")
@pytest.mark.parametrize("there", [True, False])
def test_what_was_trained_in_envpool_is_evaluated_there_and_without_it_too(there, monkeypatch):
    monkeypatch.setattr(pool, "installed", lambda: there)
    evaluator = Evaluator(find("CartPole-v1"), Environment(backend="envpool", threads=2), 40)
    assert isinstance(evaluator._environment, pool.PoolEnvironment) is there
    scores = evaluator.run(fixed(0.0, 1.0), 40, SEEDS)
    assert (scores.returns == scores.lengths).all()
    assert set(scores.lengths) <= {8, 9, 10, 11}
    evaluator.close()


def test_settings_that_an_environment_does_not_have_are_refused_before_anything_starts():
    with pytest.raises(UsageError, match=r"^env\.sticky = 0\.25: only Atari games have it, not CartPole-v1$"):
        Evaluator(find("CartPole-v1"), Environment(sticky=0.25), 4)


def test_an_evaluation_that_is_stopped_gives_nothing(counting):
    source = find(counting)
    asked = itertools.count()
    stopped = lambda: next(asked) == 3  # noqa: E731
    assert Evaluator(source, Environment(), 50).run(network_of(source), 50, SEEDS, stopped=stopped) is None
    assert next(asked) == 4  # at once


def test_evaluation_learns_nothing_and_leaves_no_gradient(counting):
    network = network_of(find(counting))
    before = [each.clone() for each in network.parameters()]
    run(counting, network, 10, greedy=False)
    assert all(torch.equal(a, b) and b.grad is None for a, b in zip(before, network.parameters(), strict=True))


def test_scores_in_numbers_that_can_be_checked_by_hand():
    scores = Scores(np.array([1.0, 3.0, 1.0, 3.0]), np.array([2, 4, 2, 4]))
    assert (scores.mean, scores.std, scores.lower) == (2.0, 1.0, 1.0)
    assert scores.summary() == {
        "episodes": 4, "mean_return": 2.0, "std_return": 1.0, "min_return": 1.0, "max_return": 3.0, "mean_length": 3.0,
        "cut_off": 0,
        "unfinished": 0,
    }  # fmt: skip


class Paying(gym.Env):
    """Every step pays another sum. Shows which environment it is, its steps so far, and whether an episode begins;
    `played` has action and reward of each step."""

    observation_space, action_space = gym.spaces.Box(-1e6, 1e6, (3,), np.float32), gym.spaces.Discrete(3)

    def __init__(self, number: int, length: int, played: dict[tuple[int, int], tuple[int, float]]):
        self.number, self.length, self.played, self.steps = number, length, played, 0

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.left = self.length
        return np.array([self.number, self.steps, 1], np.float32), {}

    def step(self, action: Any) -> Any:
        reward = 1.0 + self.number + 0.25 * self.steps
        self.played[self.number, self.steps] = int(action), reward
        self.steps, self.left = self.steps + 1, self.left - 1
        return np.array([self.number, self.steps, 0], np.float32), reward, self.left == 0, False, {}


@pytest.mark.parametrize("greedy", [True, False])
def test_a_recurrent_policy_is_handed_its_memory_row_by_row(greedy):
    """Its own last state, whether an episode begins, and the action and the reward of the step before: through ends and
    resets, and from nothing where a new round begins because an episode was cut off, and in the next evaluation."""
    numbers, played = itertools.count(), {}

    def make() -> gym.Env:
        number = next(numbers)
        return Paying(number, 3 + number % 3, played)

    source = find(make)
    torch.manual_seed(0)
    settings = Network(hidden=(8,), core="gru", core_units=4, core_inputs=True)
    network = build(source.observation_space, source.action_space, settings)
    network.body.policy.weight.data.normal_()
    rows: list[tuple[Any, RecurrentState, Any]] = []

    def keep(_: Any, given: Any, output: Any) -> None:
        obs, state = given
        rows.append((obs.clone(), RecurrentState(*(each.clone() for each in state)), output.next_state.clone()))

    network.register_forward_hook(keep)
    evaluator = Evaluator(source, Environment(), 3, max_steps=4)
    for _ in range(2):
        evaluator.run(network, 6, SEEDS, greedy=greedy)
    evaluator.close()
    begins = 0
    for t, (obs, state, _) in enumerate(rows):
        if (obs[:, 2] == 1).all():  # otherwise they are never reset at the same time
            begins += 1
            assert state.resets.all()
            assert not state.state.any()
            continue
        assert torch.equal(state.state, rows[t - 1][2])
        assert torch.equal(state.resets, obs[:, 2] == 1)
        for b in np.flatnonzero(obs[:, 2] == 0):
            seen = int(state.last_action[b]), float(state.last_reward[b])
            assert seen == played[int(obs[b, 0]), int(obs[b, 1]) - 1]
    assert begins == 4


# In which environments


class Asked:
    """An environment's source as far as an evaluator knows it: notes what it is asked to make."""

    def __init__(self, *, atari: bool = False, native: bool = True, threads: bool = False, limit: int | None = None):
        self.atari, self._native, self._threads, self.time_limit = atari, native, threads, limit
        self.backends, self.made = ["native", "envpool"], list[Any]()

    def is_native(self, config: Environment) -> bool:
        return self._native

    def has_threads(self, config: Environment) -> bool:
        return self._threads

    def make_vector(self, count: int, config: Environment) -> Any:
        self.made.append((count, config.backend, config.threads, config.episodic_life))


@pytest.mark.parametrize(
    ("about", "config", "episodes", "made"),
    [
        ({}, {}, (20, 100), (100, "auto", 0, False)),
        ({}, {"threads": 3}, (20, 300), (100, "auto", 0, False)),
        ({}, {"backend": "envpool"}, (7,), (7, "envpool", 0, False)),
        ({}, {"backend": "own"}, (7,), (7, "auto", 0, False)),  # that cannot be used any more
        ({"native": False}, {"backend": "envpool"}, (20, 100), (16, "auto", 0, False)),
        ({"native": False}, {}, (5, 9), (9, "auto", 0, False)),
        ({"threads": True}, {"threads": 1}, (20, 100), (100, "auto", 4, False)),
        ({"threads": True}, {}, (2, 3), (3, "auto", 3, False)),
        ({"atari": True}, {"episodic_life": True}, (20, 100), (20, "auto", 4, False)),
        ({"atari": True}, {}, (50, 100), (32, "auto", 4, False)),
        ({"atari": True, "native": False}, {"backend": "sync"}, (50, 100), (16, "sync", 4, False)),
        ({"atari": True}, {}, (3, 2), (2, "auto", 2, False)),
    ],
)
def test_a_batch_is_as_large_as_is_worth_it_and_has_a_thread_for_each_core(about, config, episodes, made, monkeypatch):
    monkeypatch.setattr("troupe.runs.evaluate.evaluation.cores", lambda: 4)
    source: Any = Asked(**about)
    Evaluator(source, Environment(**config), *episodes)
    assert source.made == [made]
    for native in (True, False):
        source = Asked(**about | {"native": native})
        evaluator = Evaluator(source, Environment(**config), *episodes, measured=True)
        assert (source.made[0][0] == 1) == (not native or made[0] == 1)  # one in Python is measured first
        assert (evaluator._most > 0) == (not native)


@pytest.mark.parametrize(
    ("settings", "limit", "expected"),
    [({}, None, 27_000), ({}, 500, 27_000), ({}, 90_000, 90_000), ({"max_steps": 7}, 90_000, 7)],
)
def test_an_episode_is_cut_off_after_many_steps_or_the_environments_own_limit(settings, limit, expected):
    source: Any = Asked(limit=limit)
    assert most_steps(Evaluation(**settings), source) == expected


@pytest.mark.parametrize(
    ("acting", "playing", "most", "count"),
    [(0.1, 1.0, 16, 1), (0.1, 0.5, 16, 2), (0.1, 0.1, 16, 10), (1.0, 0.1, 16, 16), (0.1, 0.3, 16, 4)],
)
def test_there_are_as_many_environments_as_make_passes_of_the_network_a_tenth_of_the_time(
    acting, playing, most, count, counting, monkeypatch
):
    """By a clock of our own, on which a pass takes `acting` and a step or a reset `playing`."""
    now = [0.0]
    monkeypatch.setattr("troupe.runs.evaluate.evaluation.time.perf_counter", lambda: now[0])
    monkeypatch.setattr("troupe.runs.evaluate.evaluation._MEASURED_SECONDS", 1e9)
    evaluator = Evaluator(find(counting), Environment(), most, measured=True)
    first, network = evaluator._environment, fixed(0, 0, 0)
    assert (first.count, evaluator._most) == (1, most)
    step, reset, forward = first.step, first.reset, network.forward

    def after(seconds: float, call: Any) -> Any:
        def timed(*given: Any) -> Any:
            now[0] += seconds
            return call(*given)

        return timed

    first.step, first.reset = after(playing, step), after(playing, reset)  # type: ignore[method-assign]
    network.forward = after(acting, forward)  # type: ignore[method-assign]
    pulse = np.zeros(1)
    scores = evaluator.run(network, 5, SEEDS, pulse=pulse)
    assert scores is not None
    assert (evaluator._environment.count, evaluator._most, pulse[0]) == (count, 0, 0.0)
    assert (evaluator._environment is first) == (count == 1)
    evaluator.close()


def test_the_progress_of_an_evaluation_is_told_before_each_reset_and_after_each_step(counting):
    told: list[int] = []
    evaluator = Evaluator(find(partial(counting, script=[(2, "terminated")])), Environment(), 1)
    evaluator.run(fixed(0, 0, 0), 2, SEEDS, progress=lambda tally: told.append(len(tally.returns)))
    evaluator.close()
    assert told == [0, 0, 1, 1, 1, 2]  # a reset, two steps, a step that is the reset after the end, two steps


def test_scores_in_words_are_their_figures_and_not_every_episode():
    assert repr(Scores(np.full(100, 3.5), np.full(100, 7), cut_off=2)) == (
        "Scores(episodes=100, mean_return=3.5, min_return=3.5, max_return=3.5, mean_length=7, cut_off=2, greedy=True)"
    )


def test_an_evaluation_passes_on_what_the_run_needs(monkeypatch):
    class Loaded(Exception):
        pass

    def load(run: Any, network: Any, **passed: Any) -> Any:
        raise Loaded(run, network, passed)

    monkeypatch.setattr("troupe.runs.evaluate.evaluation.load_with_code", load)
    network: Any = "network"
    with pytest.raises(Loaded) as caught:
        evaluate("run", network=network, encoder="own.py:Encoder", backend="own.py:make", trust=True)
    run, given, passed = caught.value.args
    assert (str(run), given) == ("run", "network")
    assert passed == {"trusted": True, "env": None, "encoder": "own.py:Encoder", "backend": "own.py:make"}
