"""A recorded run is played again in one thread to the same weights, bit for bit; one that differs is detected."""

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
import torch
from torch import nn

import troupe
from helpers import PATIENCE_SECONDS, drift, slow
from helpers.drift import Drift
from troupe import UsageError, cli, safe_files
from troupe.environments import of_run
from troupe.environments.stepping import pool
from troupe.networks.flat import named
from troupe.runs import replay as replaying
from troupe.runs.replay import Replayed, replay
from troupe.runs.store import checkpoint
from troupe.runtime.initial_network import first_network
from troupe.runtime.journal import FILE, RecordedMaster

SMALL = {
    "record": True, "actor.count": 2, "actor.environments": 2, "actor.rollout_steps": 8, "network.hidden": (8,),
    "learner.rollouts": 2, "learner.epochs": 2, "learner.minibatches": 2, "queue.capacity": 4,
    "evaluation.every_seconds": 0.0, "evaluation.final_episodes": 1, "stop.target": "none", "stop.steps": 600,
}  # fmt: skip
THREADS = SMALL | {"actor.placement": "thread"}
ENVIRONMENTS = Path(drift.__file__).read_text()  # the same environment in a file, as users have it


class OtherReward(Drift):
    """No multiple of Drift's rewards: normalised, that would be the same ones."""

    def step(self, action):
        obs, reward, *rest = super().step(action)
        return obs, reward - 0.001, *rest


class ShorterEpisodes(Drift):
    length = 5


class Spikes(Drift):
    """Pays so much, in one step of every third episode, that the loss is not finite."""

    episode = 0

    def reset(self, **seed: Any) -> Any:
        self.episode += 1
        return super().reset(**seed)

    def step(self, action: int) -> Any:
        obs, reward, *ends = super().step(action)
        return obs, (-3e38 if self.episode % 3 == 0 and self.played == 2 else reward), *ends


class Nested(Drift):
    """Nested on both sides, numbers among the actions, and one way is always barred: the mask is in the info."""

    observation_space = gym.spaces.Dict({"place": Drift.observation_space, "played": gym.spaces.Discrete(10)})
    action_space = gym.spaces.Tuple([Drift.action_space, gym.spaces.Box(-2, 2, (2,))])

    def reset(self, **seed: Any) -> Any:
        return super().reset(**seed)[0], {"action_mask": self._allowed()}

    def step(self, action: Any) -> Any:
        assert self._allowed()[action[0] + 1], "barred"
        return *super().step(action[0] + action[1].sum())[:-1], {"action_mask": self._allowed()}

    def _allowed(self) -> list[bool]:
        return [self.played % 3 != way for way in range(3)]

    def _obs(self) -> Any:
        return {"place": super()._obs(), "played": self.played}


class Kills(Drift):
    """The first that comes to its 20th step kills its process, once: the file `marker` says that it was done."""

    def __init__(self, marker: Path):
        self.marker, self.steps = marker, 0

    def step(self, action: int) -> Any:
        self.steps += 1
        if self.steps == 20 and not self.marker.exists():
            self.marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().step(action)


class Tied(nn.Module):
    """Names that are in another order than the parameters, and one parameter that has two."""

    def __init__(self, inputs: int, actions: int):
        super().__init__()
        self.value = nn.Linear(8, 1)
        self.first = nn.Linear(inputs, 8)
        self.actions = nn.Linear(8, actions)
        self.again = self.first

    def forward(self, obs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        hidden = torch.tanh(self.first(obs)) + torch.relu(self.again(obs))
        return self.actions(hidden), self.value(hidden)[:, 0]


def tied(observations: gym.Space[Any], actions: gym.Space[Any]) -> nn.Module:
    return Tied(observations.shape[0], int(actions.n))  # type: ignore[attr-defined, index]


def train(folder: Path, env: Any, settings: dict[str, Any] = THREADS, preset: str = "appo", **more: Any) -> troupe.Run:
    return troupe.train(env, preset=preset, seed=3, run_dir=folder, settings=settings, tuned=False, **more)


def notes(folder: Path) -> list[list[Any]]:
    return [json.loads(line) for line in (folder / FILE).read_text().splitlines()]


def write(folder: Path, lines: list[Any]) -> None:
    (folder / FILE).write_text("".join(json.dumps(line) + "\n" for line in lines))


def facts(folder: Path, kind: str) -> list[list[Any]]:
    return [note[1:] for note in notes(folder) if note[0] == kind]


def model_of(folder: Path, vector: torch.Tensor, env: Any = None, network: Any = None) -> dict[str, torch.Tensor]:
    config = checkpoint.read_config(folder)
    built, _, _ = first_network(network, of_run(folder, config.env, env), config)
    return named(built, vector)


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    assert one.keys() == other.keys()
    return all(torch.equal(one[name], other[name]) for name in one)


def is_repeated(folder: Path, env: Any = None, network: Any = None) -> Replayed:
    """Asserts that a replay ends, all versions alike, with the weights of the last checkpoint."""
    done = replay(folder, env=env, network=network)
    assert done.diverged is None
    assert done.version == len(facts(folder, "publish"))
    assert done.updates == len(facts(folder, "apply")) > 0
    saved = checkpoint.load(folder, pytest.fail)
    assert same(model_of(folder, done.vector, env, network), saved.model)
    assert done.version == saved.state.version
    assert done.updates == saved.state.counts.updates
    return done


@pytest.fixture(scope="module")
def run_of_threads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recorded run whose environment is in a file."""
    folder = tmp_path_factory.mktemp("threads")
    (folder / "envs.py").write_text(ENVIRONMENTS)
    decaying = {"exploration.epsilon": 0.9, "exploration.epsilon_end": 0.0, "exploration.decay_steps": 700}
    decaying |= {"learner.anneal_steps": 800}
    return train(folder / "run", f"{folder}/envs.py:Drift", THREADS | decaying).path


@pytest.fixture
def recorded(run_of_threads: Path, tmp_path: Path) -> Path:
    """A copy of it, to be tampered with."""
    return shutil.copytree(run_of_threads, tmp_path / "run")


@pytest.fixture
def often() -> Any:
    """Threads that compete take turns every 50 us."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(5e-5)
    yield
    sys.setswitchinterval(before)


@pytest.mark.skipif(not pool.installed(), reason="needs envpool")
def test_a_run_in_envpool_is_replayed_there(tmp_path: Path) -> None:
    run = train(tmp_path / "run", "CartPole-v1", THREADS | {"env.backend": "envpool", "env.threads": 2})
    is_repeated(run.path)


def test_threads_with_a_decaying_epsilon_and_step_size(run_of_threads: Path) -> None:
    is_repeated(run_of_threads)
    played = [pulls[0][1] for *_, pulls in facts(run_of_threads, "rollout")]
    assert len(set(played)) > 10  # each at its own epsilon
    rates = [rate for _, rate in facts(run_of_threads, "apply")]
    assert rates[-1] < 0.5 * rates[0]


def test_processes(tmp_path: Path) -> None:
    train(tmp_path / "run", Drift, SMALL | {"actor.placement": "process"})
    is_repeated(tmp_path / "run", Drift)


@pytest.mark.slow
def test_several_learners_that_interleave(tmp_path: Path, often: Any) -> None:
    several = {"topology": "queue", "threads": "free", "learner.count": 3, "learner.epochs": 3, "stop.steps": 1500}
    for attempt in range(10):  # until one learner has touched the weights between another's copy and update
        run = tmp_path / f"run{attempt}"
        train(run, Drift, THREADS | several)
        is_repeated(run, Drift)
        touching = [kind for kind, *_ in notes(run) if kind in ("copy", "apply")]
        if ("copy", "copy") in pairwise(touching):
            break


@pytest.mark.slow
def test_learners_with_bonuses_for_what_is_new(tmp_path: Path, often: Any) -> None:
    novelty = {"novelty.coefficient": 0.5, "novelty.hidden": (8,)}
    several = {"topology": "queue", "threads": "free", "learner.count": 2, "learner.epochs": 3}
    train(tmp_path / "run", Drift, THREADS | novelty | several)
    is_repeated(tmp_path / "run", Drift)


@pytest.mark.parametrize("placement", [slow("thread"), "process"])
def test_a_policy_with_memory(tmp_path: Path, placement: str) -> None:
    memory = {
        "network.core": "lstm",
        "network.core_units": 8,
        "network.core_inputs": True,
        "actor.placement": placement,
    }
    is_repeated(train(tmp_path / "run", Drift, SMALL | memory).path, Drift)


@pytest.mark.slow
@pytest.mark.parametrize("placement", ["thread", "process"])
def test_nested_environments_with_masks_whose_numbers_several_learners_normalise(
    tmp_path: Path, placement: str
) -> None:
    several = {
        "topology": "queue",
        "threads": "free",
        "learner.count": 2,
        "learner.rollouts": 1,
        "actor.placement": placement,
    }
    train(tmp_path / "run", Nested, SMALL | several)
    is_repeated(tmp_path / "run", Nested)
    assert len(facts(tmp_path / "run", "observe")) == len(facts(tmp_path / "run", "batch"))


@pytest.mark.slow
@pytest.mark.parametrize("normalised", [False, True])
def test_the_articles_system_without_its_delays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, normalised: bool
) -> None:
    article = {"record": True, "stop.steps": 800, "stop.seconds": 0.0, "evaluation.every_seconds": 0.0}
    article |= {"network.normalize": normalised, "loss.normalize_reward": normalised}
    train(tmp_path / "run", "CartPole-v0", article | {"evaluation.final_episodes": 1}, preset="article")
    config = checkpoint.read_config(tmp_path / "run")
    assert (config.actor.count, config.actor.window_steps, config.learner.count) == (8, 8, 2)
    assert config.env.delay_seconds > 0
    monkeypatch.setattr("troupe.environments.stepping.vector.time.sleep", pytest.fail)
    is_repeated(tmp_path / "run")


@pytest.mark.slow
def test_rollouts_that_were_dropped_for_lag(tmp_path: Path) -> None:
    dropping = {"learner.max_lag": 1, "learner.stale": "drop", "learner.rollouts": 1, "learner.epochs": 8}
    run = train(tmp_path / "run", Drift, THREADS | dropping | {"queue.capacity": 12})
    assert checkpoint.load(run.path, pytest.fail).state.counts.stale > 0
    is_repeated(run.path, Drift)


def test_updates_that_were_refused(tmp_path: Path) -> None:
    run = train(tmp_path / "run", Spikes, SMALL | {"loss.normalize_reward": False})
    assert checkpoint.load(run.path, pytest.fail).state.counts.skipped_updates > 0
    is_repeated(run.path, Spikes)


def test_an_update_that_was_refused_only_in_the_run_is_a_divergence(tmp_path: Path) -> None:
    run = train(tmp_path / "run", Spikes, SMALL | {"loss.normalize_reward": False})
    assert replay(run.path, env=Drift).diverged is not None


def test_a_process_that_was_killed_and_its_successor(tmp_path: Path) -> None:
    env = partial(Kills, tmp_path / "was killed")
    train(tmp_path / "run", env, SMALL | {"actor.placement": "process", "actor.count": 1})
    assert {generation for _, generation, *_ in facts(tmp_path / "run", "rollout")} == {0, 1}
    is_repeated(tmp_path / "run", env)


def test_a_run_that_was_interrupted_in_the_middle_of_a_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    apply, updates = RecordedMaster.apply, []

    def counted(self: RecordedMaster, *what: Any) -> None:
        apply(self, *what)
        updates.append(1)
        if len(updates) == 5:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(RecordedMaster, "apply", counted)
    with pytest.raises(KeyboardInterrupt) as stop:
        train(tmp_path / "run", Drift, THREADS | {"learner.epochs": 10**6})  # its first batch never ends
    run = stop.value.run
    assert run.signal == signal.SIGINT
    assert is_repeated(run.path, Drift).version == 0
    lines = notes(run.path)
    assert lines[-1][0] == "end"
    write(run.path, [*lines[:-1], ["end", lines[-1][1] + 1]])
    assert replay(run.path, env=Drift).diverged == 1


@pytest.mark.slow
def test_a_run_that_was_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    (tmp_path / "envs.py").write_text(ENVIRONMENTS)
    settings = SMALL | {"stop.steps": 0, "checkpoint.every_seconds": 0.2}
    words = ["train", "envs.py:Drift", "--run-dir", "run", "--record", "--quiet"]
    for name, value in settings.items():
        if name != "record":
            words += [f"--{name}", ",".join(map(str, value)) if isinstance(value, tuple) else str(value)]
    process = subprocess.Popen([sys.executable, "-m", "troupe", *words], cwd=tmp_path)
    folder, deadline = tmp_path / "run", time.monotonic() + PATIENCE_SECONDS

    def wait_for(what: Callable[[], object]) -> None:
        while not what():
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)

    try:
        wait_for(lambda: checkpoint.newest_first(folder))
        first = shutil.copytree(checkpoint.newest_first(folder)[-1], tmp_path / "kept" / "checkpoints" / "1")
        written = (folder / FILE).stat().st_size
        wait_for(lambda: (folder / FILE).stat().st_size > written + 5000)
    finally:
        process.kill()
        process.wait()
    assert first.is_dir()
    shutil.copy(folder / "config.toml", tmp_path / "kept")
    saved = checkpoint.load(tmp_path / "kept", pytest.fail)
    whole = (folder / FILE).read_text().rpartition("\n")[0]
    (folder / FILE).write_text(whole[:-4])  # in the middle of a line
    master, vectors = replaying._ReplayedMaster, [[]]
    apply, observe = master.apply, master.observe

    def applied(self: Any, *what: Any) -> None:
        apply(self, *what)
        vectors.append([self.vector.clone()])

    def observed(self: Any, *what: Any) -> float:
        deviation = observe(self, *what)
        vectors[-1].append(self.vector.clone())
        return deviation

    monkeypatch.setattr(master, "apply", applied)
    monkeypatch.setattr(master, "observe", observed)
    monkeypatch.chdir(tmp_path)
    assert cli.run(["replay", "run"]) == 0
    assert "bit for bit" in capsys.readouterr().out
    # The normalizer's moments are weights too, and a checkpoint may come between a batch's and its first update.
    were = vectors[saved.state.counts.updates]
    assert any(same(model_of(folder, vector), saved.model) for vector in were)


def test_a_custom_environment_and_a_custom_network(tmp_path: Path) -> None:
    folder = train(tmp_path / "run", Drift, network=tied).path
    is_repeated(folder, Drift, tied)
    with pytest.raises(UsageError, match=r"callable Drift: pass it as env="):
        replay(folder, network=tied)
    with pytest.raises(UsageError, match=r"custom network: pass it as network="):
        replay(folder, env=Drift)


def test_a_resumed_run_is_replayed_up_to_its_stop_and_says_so(recorded: Path, capsys: Any) -> None:
    before, journal = checkpoint.load(recorded, pytest.fail), (recorded / FILE).read_bytes()
    capsys.readouterr()
    run = troupe.resume(recorded, steps=1000, display="quiet")
    shown = capsys.readouterr()
    assert run.steps >= 1000
    assert (shown.out + shown.err).count("not recorded from here on") == 1
    assert (recorded / FILE).read_bytes() == journal
    done = replay(recorded)
    assert done.diverged is None
    assert same(model_of(recorded, done.vector), before.model)


def test_a_run_that_was_killed_before_its_first_checkpoint_is_replayed(recorded: Path, capsys: Any) -> None:
    shutil.rmtree(recorded / "checkpoints")
    assert cli.run(["replay", str(recorded)]) == 0
    assert "bit for bit" in capsys.readouterr().out


def test_a_debugger_can_stop_before_a_version(recorded: Path) -> None:
    class Stop(Exception):
        pass

    seen = []

    def look(version: int) -> None:
        seen.append(version)
        if version == 3:
            raise Stop

    with pytest.raises(Stop):
        replay(recorded, on_version=look)
    assert seen == [1, 2, 3]


def following(lines: list[Any], at: int) -> int:
    """The version that is published next after line `at`."""
    return next(line[2] for line in lines[at:] if line[0] == "publish")


def another_order(lines: list[Any]) -> int:
    at = [number for number, line in enumerate(lines) if line[0] == "batch"][4]
    lines[at][2].reverse()
    return following(lines, at)


def another_rate(lines: list[Any]) -> int:
    at = [number for number, line in enumerate(lines) if line[0] == "apply"][12]
    lines[at][2] *= 1.5
    return following(lines, at)


def of_a_learned_rollout(lines: list[Any], change: Callable[[list[Any], int], bool]) -> int:
    """Changes the pull of the first rollout that was learned from and that `change` takes, given its actor's
    version before."""
    had: dict[int, int] = {}
    for line in lines:
        if line[0] == "rollout":
            learned = [n for n, each in enumerate(lines) if each[0] == "batch" and [line[1], line[3]] in each[2]]
            if learned and change(line[4][0], had.get(line[1], 0)):
                return following(lines, learned[0])
            had[line[1]] = line[4][0][0]
    raise AssertionError("no such rollout")


def another_version(lines: list[Any]) -> int:
    def change(pull: list[int], before: int) -> bool:
        newer = pull[0] > max(before, 2)
        pull[0] -= newer
        return newer

    return of_a_learned_rollout(lines, change)


def another_epsilon(lines: list[Any]) -> int:
    def change(pull: list[int], before: int) -> bool:
        later = pull[1] > 200
        pull[1] -= 150 * later
        return later

    return of_a_learned_rollout(lines, change)


@pytest.mark.parametrize("tamper", [another_order, *map(slow, (another_rate, another_version, another_epsilon))])
def test_tampering_is_seen_at_the_first_version_that_it_changes(recorded: Path, tamper: Any, capsys: Any) -> None:
    lines = notes(recorded)
    version = tamper(lines)
    write(recorded, lines)
    assert replay(recorded).diverged == version
    capsys.readouterr()
    assert cli.run(["replay", str(recorded)]) == 1
    error = capsys.readouterr().err
    assert error == f"troupe: the weights differ from those of the run from version {version:,} on\n"


def test_another_environment_is_seen(recorded: Path, capsys: Any) -> None:
    assert replay(recorded, env=OtherReward).diverged == 1
    file = recorded.parent / "envs.py"
    file.write_text(ENVIRONMENTS.replace("0.3 * action", "0.3001 * action"))
    config = recorded / "config.toml"
    before = checkpoint.read_config(recorded).env.id
    config.write_text(config.read_text().replace(before, f"{file}:Drift"))
    capsys.readouterr()
    assert cli.run(["replay", str(recorded), "--trust"]) == 1
    assert capsys.readouterr().err == "troupe: the weights differ from those of the run from version 1 on\n"


@pytest.mark.slow
def test_another_environment_is_seen_where_samples_span_another_number_of_steps(tmp_path: Path) -> None:
    window = {"actor.environments": 1, "actor.window_steps": 6, "loss.kind": "a3c", "learner.rollouts": 8}
    train(tmp_path / "run", Drift, THREADS | window)
    is_repeated(tmp_path / "run", Drift)
    assert replay(tmp_path / "run", env=ShorterEpisodes).diverged == 1


def without(kind: str, number: int = 3) -> Callable[[list[Any]], None]:
    def drop(lines: list[Any]) -> None:
        del lines[[at for at, line in enumerate(lines) if line[0] == kind][number]]

    return drop


def turned(old: str, new: str) -> Callable[[list[Any]], None]:
    def turn(lines: list[Any]) -> None:
        lines[:] = json.loads(json.dumps(lines).replace(old, new))

    return turn


def going_back(lines: list[Any]) -> None:
    """An actor that has had newer versions has the first one."""
    last = [line for line in lines if line[0] == "rollout" and line[1] == 0][-1]
    assert last[4][0][0] > 0
    last[4][0][0] = 0


MISFITS = {
    "no rollout": without("rollout"), "no first rollout": without("rollout", 0), "no batch": without("batch"),
    "no first batch": without("batch", 0), "no copy": without("copy"), "no apply": without("apply"),
    "no publication": without("publish"), "not a list": lambda lines: lines.insert(5, 7),
    "an empty list": lambda lines: lines.insert(5, []), "no such kind": lambda lines: lines.insert(5, ["nap", 1]),
    "too short": lambda lines: lines.insert(5, ["apply", "learner-0"]),
    "another learner": turned("learner-0", "learner-9"),
    "another actor": turned('["rollout", 1,', '["rollout", 7,'), "backwards": going_back,
    "twice": lambda lines: lines.insert(30, next(line for line in lines if line[0] == "batch")),
}  # fmt: skip


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (["rollout", 0, 0, 99, [[0, 0]]], "rollout 99 of actor 0 where 0 is expected"),
        (["rollout", 7, 0, 0, [[0, 0]]], "no actor 7"),
        (["rollout", 0, 0, 0, [[1, 0]]], "made with version 1, which it cannot have"),
        (["batch", "learner-0", [[0, 0]]], "rollout 0 of actor 0 is learned from before it is made"),
        (["publish", "learner-0", 99, 0], "version 99 is published where 1 is expected"),
        (["copy", "learner-0"], "learner-0 does 'copy' where 'nothing' is expected"),
    ],
)
def test_what_does_not_fit_is_named(recorded: Path, line: list[Any], says: str) -> None:
    write(recorded, [line, *notes(recorded)])
    with pytest.raises(UsageError, match=says):
        replay(recorded)


def test_after_a_divergence_it_is_no_news_that_the_journal_does_not_fit(recorded: Path) -> None:
    lines = notes(recorded)
    without("copy", -1)(lines)
    write(recorded, lines)
    assert replay(recorded, env=OtherReward).diverged == 1


@pytest.mark.parametrize("misfit", MISFITS)
def test_a_journal_that_does_not_fit_is_one_plain_line(recorded: Path, misfit: str, capsys: Any) -> None:
    lines = notes(recorded)
    MISFITS[misfit](lines)
    write(recorded, lines)
    capsys.readouterr()
    assert cli.run(["replay", str(recorded)]) in (1, 2)
    shown = capsys.readouterr()
    assert shown.err.startswith("troupe: ")
    assert shown.err.count("\n") == 1
    assert "(--debug" not in shown.err  # those are errors of the program
    assert "bit for bit" not in shown.out


def test_bytes_that_are_no_text_are_one_plain_line(recorded: Path) -> None:
    whole = (recorded / FILE).read_bytes()
    (recorded / FILE).write_bytes(whole[:500] + b"\xff\x00" + whole[502:])
    with pytest.raises(UsageError, match=r"journal.jsonl, line \d+"):
        replay(recorded)


def test_an_environment_that_fails_only_in_the_replay_is_named(recorded: Path) -> None:
    class Fails(Drift):
        def step(self, action: int) -> Any:
            raise OSError("no such device")

    with pytest.raises(troupe.TroupeError, match="no such device"):
        replay(recorded, env=Fails)


def test_environments_are_closed_even_if_the_journal_does_not_fit(recorded: Path) -> None:
    closed = []

    class Closes(Drift):
        def close(self) -> None:
            closed.append(1)

    lines = notes(recorded)
    without("copy")(lines)
    write(recorded, lines)
    with pytest.raises(UsageError, match="does not fit"):
        replay(recorded, env=Closes)
    assert len(closed) > 2  # `find` has made one, too


def test_a_run_that_was_not_recorded(tmp_path: Path, capsys: Any) -> None:
    folder = train(tmp_path / "run", Drift, THREADS | {"record": False, "stop.steps": 50}).path
    assert not (folder / FILE).exists()
    capsys.readouterr()
    assert cli.run(["replay", str(folder)]) == 2
    assert "was not recorded" in capsys.readouterr().err
    with pytest.raises(UsageError):
        replay(tmp_path)


@pytest.mark.parametrize("why", ["a full disk", "a directory"])
def test_a_journal_that_cannot_be_written_does_not_end_the_run(
    tmp_path: Path, why: str, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    if why == "a full disk":
        append = safe_files.append
        full = lambda path: io.FileIO("/dev/full", "a") if path.name == FILE else append(path)  # noqa: E731
        monkeypatch.setattr(safe_files, "append", full)
    else:
        (folder / FILE).mkdir()
    run = train(folder, Drift, display="quiet")
    shown = capsys.readouterr()
    assert run.outcome == "steps"
    assert (shown.out + shown.err).count("the journal is no longer written") == 1


@pytest.mark.parametrize(
    ("preset", "settings"),
    [
        ("appo", {"topology": "serial", "actor.count": 1}),
        ("a3c", {}),
        ("ga3c", {}),
        ("appo", {"inference.kind": "batched"}),
    ],
)
def test_what_cannot_be_replayed_is_not_recorded(tmp_path: Path, preset: str, settings: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=r"^record: .* cannot be replayed"):
        train(tmp_path / "run", Drift, settings | {"record": True}, preset)
    assert not (tmp_path / "run").exists()
