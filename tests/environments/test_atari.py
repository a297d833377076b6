"""Atari games: two backends that play the same game, and what the settings change in it."""

import json
import subprocess
import sys
import tomllib

import gymnasium as gym
import numpy as np
import pytest
from ale_py.vector_env import AtariVectorEnv

from helpers import PATIENCE_SECONDS, slow
from troupe.config import Environment, UsageError, from_toml, protocol_of, resolve, to_toml
from troupe.config.protocols import PROTOCOLS
from troupe.environments import VectorEnvironment, find
from troupe.environments.stepping import atari

PONG, BREAKOUT = "ALE/Pong-v5", "ALE/Breakout-v5"
SEEDS = np.random.SeedSequence(5)


def made(game: str = BREAKOUT, count: int = 2, **settings: object) -> VectorEnvironment:
    return find(game).make_vector(count, Environment(**settings))


def actions(environment: VectorEnvironment, steps: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).integers(environment.action_space.n, size=(steps, environment.count))


def played(environment: VectorEnvironment, steps: int, seeds: np.random.SeedSequence = SEEDS) -> list[np.ndarray]:
    """Everything that came of random actions: observations (with the first), rewards, ends, lives lost."""
    rows = [environment.reset(seeds).copy()]
    columns: list[list[np.ndarray]] = [[], [], [], []]
    for action in actions(environment, steps):
        obs, *rest = environment.step(action)
        rows.append(obs.copy())
        for column, value in zip(columns, rest, strict=True):
            column.append(np.array(value))
    environment.close()
    return [np.stack(each) for each in (rows, *columns)]


def assert_same(one: list[np.ndarray], other: list[np.ndarray]) -> None:
    for ours, theirs in zip(one, other, strict=True):
        np.testing.assert_array_equal(ours, theirs)


# Two backends


@pytest.mark.parametrize(
    ("game", "settings", "ends"),
    [
        slow(PONG, {}, False),
        slow(PONG, {"sticky": 0.25}, False),
        slow(BREAKOUT, {}, True),
        slow(BREAKOUT, {"noops": 0}, True),
        (BREAKOUT, {"sticky": 0.25, "noops": 7, "episodic_life": True}, True),
        slow(BREAKOUT, {"frame_skip": 3, "fire_reset": False}, True),
        slow(BREAKOUT, PROTOCOLS["v5"], False),
        slow("ALE/Backgammon-v5", {}, False),  # has no action that does nothing
    ],
)
def test_native_and_single_emulators_play_the_same_game(game, settings, ends):
    """To the last pixel, reward and end, over the beginnings of several games: ale-py's C++ is the oracle."""
    steps = 400 if ends else 150
    native = played(made(game, **settings), steps)
    assert_same(native, played(made(game, backend="sync", **settings), steps))
    assert native[2].any(axis=0).all() == ends


def test_the_observation_is_four_gray_frames_the_newest_last():
    environment = made(PONG)
    assert environment.observation_space == gym.spaces.Box(0, 255, (84, 84, 4), np.uint8)
    assert environment.action_space == gym.spaces.Discrete(6)
    obs = played(environment, 20)[0]
    assert not obs[0][..., :3].any()  # nothing was before the first
    assert obs[0][..., 3].any()
    np.testing.assert_array_equal(obs[1:][..., :3], obs[:-1][..., 1:])


@pytest.mark.slow
def test_threads_change_nothing_in_what_is_played():
    one, two = (played(made(count=5, threads=threads), 250) for threads in (1, 2))
    assert_same(one, two)
    assert one[2].any()


@pytest.mark.slow
def test_every_environment_has_a_seed_of_its_own():
    environment = made(PONG, 6, noops=200)
    first = [environment.reset(np.random.SeedSequence(seed)).copy() for seed in (1, 1, 2)]
    assert len(np.unique(first[0].reshape(6, -1), axis=0)) > 3
    np.testing.assert_array_equal(first[0], first[1])
    assert (first[0] != first[2]).any()


@pytest.mark.parametrize("seed", [slow(0), slow(2**31 - 1), slow(2**31), 2**32 - 1])
def test_any_seed_of_32_bits_will_do(seed):
    single = find(PONG).make()
    first = single.reset(seed=seed)[0]
    vector = AtariVectorEnv("pong", 1, noop_max=31, reward_clipping=False)
    theirs = vector.reset(seed=np.array([atari.emulator_seed(seed)]))[0][0]
    np.testing.assert_array_equal(np.moveaxis(theirs, 0, -1), first)


# What the settings change


@pytest.mark.slow
def test_a_lost_life_is_reported_where_ale_counts_lives_and_ends_nothing():
    *_, terminated, _, lost = played(made(episodic_life=True), 500)
    oracle = AtariVectorEnv("breakout", 2, noop_max=31, reward_clipping=False, life_loss_info=True)
    environment = made()
    seeds = SEEDS.generate_state(2) & 0x7FFFFFFF
    oracle.reset(seed=seeds.astype(np.int64))
    theirs = np.stack([oracle.step(action)[2] for action in actions(environment, 500)])
    np.testing.assert_array_equal(terminated | lost, theirs)
    assert not (terminated & lost).any()
    for column in range(2):
        ends = np.flatnonzero(terminated[:, column])
        assert len(ends) > 1
        assert np.diff(np.cumsum(lost[:, column])[ends]).tolist() == [4] * (len(ends) - 1)  # the fifth ends the game


def test_without_it_no_life_is_lost_and_the_game_is_the_same():
    with_lives, without = played(made(episodic_life=True), 120), played(made(), 120)
    assert_same(with_lives[:4], without[:4])
    assert with_lives[4].any()
    assert not without[4].any()


class Counted(gym.Env):
    """Begins with 3 lives, and then has as many as `lives` says; its last step is a time limit."""

    observation_space = gym.spaces.Box(0, 1, (1,), np.float32)
    action_space = gym.spaces.Discrete(2)
    lives = (3, 2, 4, 4, 3, 5)

    def reset(self, *, seed=None, options=None):
        self.left = list(self.lives)
        return np.zeros(1, np.float32), {"lives": 3}

    def step(self, action):
        return np.zeros(1, np.float32), 0.0, False, len(self.left) == 1, {"lives": self.left.pop(0)}


def test_lives_that_were_won_are_not_lost_to_the_next_game():
    """The reset row shows 3 lives after 5."""
    vector = gym.vector.SyncVectorEnv([Counted], autoreset_mode=gym.vector.AutoresetMode.NEXT_STEP)
    environment = VectorEnvironment(vector, "counted", episodic_life=True)
    environment.reset(SEEDS)
    lost = [environment.step(np.zeros(1, np.int64)).life_lost.item() for _ in range(14)]
    assert lost == [False, True, False, False, True, False, False] * 2


@pytest.mark.parametrize("backend", ["native", "sync"])
def test_the_limit_of_frames_cuts_off_and_does_not_terminate(monkeypatch, backend):
    monkeypatch.setattr(atari, "MAX_FRAMES", 40)
    _, _, terminated, truncated, _ = played(made(PONG, 1, backend=backend), 23)
    assert np.flatnonzero(truncated).tolist() == [9, 20]  # of 10 steps, a reset row, 10 steps
    assert not terminated.any()


def test_the_limit_is_that_of_the_field():
    assert atari.MAX_FRAMES == 108_000


def test_rewards_are_raw():
    assert 10 in played(made("ALE/MsPacman-v5", 1), 150)[1]


@pytest.mark.slow
def test_without_sticky_actions_a_seed_changes_nothing_but_the_start():
    ways = {}
    for sticky in (0.0, 0.25):
        one, other = (played(made(PONG, noops=0, sticky=sticky), 60, np.random.SeedSequence(k)) for k in (1, 2))
        ways[sticky] = (one[0] != other[0]).any()
    assert ways == {0.0: False, 0.25: True}


@pytest.mark.slow
def test_noops_make_different_starts():
    assert len(np.unique(made(PONG, 4).reset(SEEDS).reshape(4, -1), axis=0)) > 1
    assert len(np.unique(made(PONG, 4, noops=0).reset(SEEDS).reshape(4, -1), axis=0)) == 1


def test_fire_is_pressed_at_the_start_and_throws_the_ball():
    """Without FIRE nobody ever scores or loses a life in Breakout."""
    for fires in (True, False):
        environment = made(fire_reset=fires, episodic_life=True)
        environment.reset(SEEDS)
        still = np.zeros(2, np.int64)
        assert any(environment.step(still).life_lost.any() for _ in range(60)) == fires


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("protocol", "v5"),
        ("sticky", 0.25),
        ("episodic_life", True),
        ("fire_reset", False),
        ("noops", 0),
        ("frame_skip", 2),
        ("threads", 2),
    ],
)
def test_settings_of_atari_are_refused_elsewhere(name, value):
    config = Environment(**{name: value})
    for make in (find("CartPole-v1").make_vector, find("CartPole-v1").make_restorable):
        with pytest.raises(UsageError, match=f"^env.{name} = {value}: only Atari games have it, not CartPole-v1$"):
            make(1, config)


# Protocols


def test_protocol_v5_is_what_gymnasium_registers():
    registered, ours = gym.spec(BREAKOUT).kwargs, PROTOCOLS["v5"]
    assert ours["sticky"] == registered["repeat_action_probability"]
    assert ours["frame_skip"] == registered["frameskip"]
    assert not any(ours[name] for name in ("noops", "fire_reset", "episodic_life"))


def test_a_protocol_sets_five_rules_and_a_setting_beside_it_wins():
    by_default = resolve(BREAKOUT).env
    assert {name: getattr(by_default, name) for name in PROTOCOLS["nature"]} == PROTOCOLS["nature"]
    v5 = resolve(BREAKOUT, settings={"env.protocol": "v5"}).env
    assert {name: getattr(v5, name) for name in PROTOCOLS["v5"]} == PROTOCOLS["v5"]
    mixed = resolve(BREAKOUT, settings={"env.noops": "7", "env.protocol": "v5"}).env
    assert (mixed.noops, mixed.sticky) == (7, 0.25)
    assert [protocol_of(each) for each in (by_default, v5, mixed)] == ["nature", "v5", "v5, but env.noops = 7"]
    assert protocol_of(resolve("CartPole-v1").env) == ""


def test_a_run_saved_before_there_were_protocols_keeps_its_rules():
    """Its config.toml has the rules and no protocol."""
    saved = to_toml(resolve(BREAKOUT, settings={"env.sticky": 0.25}))
    older = from_toml("\n".join(line for line in saved.splitlines() if not line.startswith("protocol")))
    assert (older.env.sticky, older.env.episodic_life, older.env.noops) == (0.25, True, 30)
    assert protocol_of(older.env) == "nature, but env.sticky = 0.25"


def test_results_name_the_protocol(tmp_path, run_command):
    run = tmp_path / "run"
    status, out, _ = run_command(
        f"train {PONG} --env.protocol v5 --topology serial --steps 32 --target none --actors 1 --actor.environments 2 "
        "--actor.rollout_steps 4 --actor.parts 1 --learner.minibatches 2 --learner.epochs 1 --env.threads 1 "
        "--evaluation.every_seconds 0 --evaluation.final_episodes 1 --evaluation.max_steps 5 "
        f"--network.precision float32 --run-dir {run}"
    )
    assert status == 0
    assert out.count("\n  Atari protocol: v5\n") == 2  # at the start and at the end
    assert json.loads((run / "summary.json").read_text())["protocol"] == "v5"
    assert tomllib.loads((run / "config.toml").read_text())["env"]["sticky"] == 0.25


def test_an_unknown_protocol_is_refused(run_command):
    status, _, error = run_command(f"train {PONG} --env.protocol v4")
    assert (status, error) == (2, "troupe: env.protocol = 'v4': expected one of nature | v5\n")


# One emulator


def test_one_environment_draws_in_colour_at_the_speed_of_its_steps():
    env = find(PONG).make("rgb_array", Environment(frame_skip=3))
    env.reset(seed=1)
    obs, *_ = env.step(2)
    assert obs.shape == (84, 84, 4)
    assert env.render().shape == (210, 160, 3)
    assert env.metadata["render_fps"] == 20
    env.close()


@pytest.mark.slow
def test_only_single_emulators_are_put_back_where_they_were():
    source = find(BREAKOUT)
    assert source.make_restorable(1, Environment()).state() is None
    config = Environment(backend="sync", episodic_life=True)
    environment, again = (source.make_restorable(2, config) for _ in range(2))
    assert source.is_restorable(config)
    assert not source.is_restorable(Environment())
    environment.reset(SEEDS)
    for action in actions(environment, 90):
        obs = environment.step(action).obs.copy()
    kept = [state | {"actions": np.asarray(state["actions"])} for state in environment.state()]
    again.reset(np.random.SeedSequence(9))
    assert again.restore(kept, obs) == []
    lost = 0
    for action in actions(environment, 90, seed=2):
        rows = [[np.array(each) for each in one.step(action)] for one in (environment, again)]
        assert_same(*rows)
        lost += rows[0][-1].sum()
    assert lost > 0


# Names


def test_every_game_can_be_found():
    atari.register()
    games = sorted(name for name in gym.registry if name.startswith("ALE/"))
    assert len(games) > 100
    for game in games[::12]:
        source = find(game)
        assert source.atari
        assert source.observation_space.shape == (84, 84, 4)
        assert source.is_native(Environment())
        assert source.unsendable == ""


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("ALE/Pang-v5", "no environment 'ALE/Pang-v5'; did you mean ALE/Pong-v5?"),
        ("ale/breakout-v5", "no environment 'ale/breakout-v5'; did you mean ALE/Breakout-v5?"),
        ("Pong-v5", "no environment 'Pong-v5'; did you mean ALE/Pong-v5?"),
        ("BreakoutNoFrameskip-v4", "'BreakoutNoFrameskip-v4' is an old name: write ALE/Breakout-v5 "),
        ("MsPacman-v0", "'MsPacman-v0' is an old name: write ALE/MsPacman-v5 "),
    ],
)
def test_other_names_are_answered_with_the_right_one(name, answer):
    with pytest.raises(UsageError) as caught:
        find(name)
    (line,) = str(caught.value).splitlines()
    assert line.startswith(answer)


def in_a_process_of_its_own(code: str) -> str:
    code = f"import sys\nfrom troupe.config import *\nfrom troupe.environments import find\n{code}"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=True
    )
    assert done.stderr == ""
    return done.stdout.strip()


@pytest.mark.slow
def test_nobody_has_to_import_ale_py_and_it_says_nothing_of_its_own():
    code = f"source = find('{PONG}')\nsource.make_vector(1, Environment()).close()\nprint(source.id)"
    assert in_a_process_of_its_own(code) == PONG


@pytest.mark.slow
@pytest.mark.parametrize("package", ["ale_py", "cv2"])
def test_a_missing_package_is_answered_with_the_command_that_installs_it(package):
    code = f"sys.modules['{package}'] = None\ntry:\n    find('{PONG}')\nexcept UsageError as error:\n    print(error)"
    assert in_a_process_of_its_own(code) == (
        f"environment {PONG} needs a package that is not installed: "
        "pip install 'ale-py>=0.12' 'opencv-python-headless>=4.8'"
    )


# Sending and receiving


def test_what_was_sent_before_a_reset_is_forgotten():
    environment, other = made(), made()
    environment.reset(np.random.SeedSequence(8))
    environment.send(np.ones(2, np.int64))
    assert_same(played(environment, 30), played(other, 30))


def test_a_step_begins_with_send(monkeypatch):
    environment, calls = made(), []
    environment.reset(SEEDS)
    monkeypatch.setattr(environment, "_vector", Watched(environment._vector, calls))
    environment.send(np.zeros(2, np.int64))
    assert calls == ["send"]
    environment.receive()
    assert calls == ["send", "recv"]


class Watched:
    def __init__(self, vector: AtariVectorEnv, order: list[str]):
        self._vector, self._order = vector, order

    def __getattr__(self, name: str) -> object:
        self._order.append(name)
        return getattr(self._vector, name)


@pytest.mark.slow
def test_two_that_take_turns_play_as_one_after_the_other():
    seeds = [np.random.SeedSequence(k) for k in (1, 2)]
    apart = [played(made(), 30, seed) for seed in seeds]
    pair = [made(), made()]
    for number, environment in enumerate(pair):
        np.testing.assert_array_equal(environment.reset(seeds[number]), apart[number][0][0])
    moves = actions(pair[0], 30)
    pair[0].send(moves[0])
    for t in range(30):
        pair[1].send(moves[t])
        for number, environment in enumerate(pair):
            row = environment.receive()
            if number == 0 and t < 29:
                environment.send(moves[t + 1])  # before what was received is looked at: it is not overwritten
            np.testing.assert_array_equal(row.obs, apart[number][0][t + 1])
            for column, value in zip(apart[number][1:], row[1:], strict=True):
                np.testing.assert_array_equal(value, column[t])
