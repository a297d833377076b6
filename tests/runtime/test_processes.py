"""Actors in processes: they play what they would play in threads, and need nothing that a script must provide."""

import errno
import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from multiprocessing.connection import Connection
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch import nn

import troupe
from helpers import PATIENCE_SECONDS
from troupe import UsageError
from troupe.config import TroupeError
from troupe.runtime.data.rollout import FIELDS
from troupe.runtime.data.shared_memory import Block
from troupe.runtime.execution import processes
from troupe.runtime.execution.gate import Closed, Gate
from troupe.runtime.execution.process_child import NOTHING, Report, decode_request, encode, run_actor
from troupe.runtime.execution.processes import ActorFailed, ActorLost, ActorProcess
from troupe.runtime.execution.supervisor import Supervisor
from troupe.runtime.progress import Counts, Delta, Lag

SMALL = {
    "topology": "async", "network.hidden": (8,), "actor.count": 2, "actor.environments": 3, "actor.rollout_steps": 7,
    "env.backend": "sync", "exploration.epsilon": (0.1, 0.4),
}  # fmt: skip
WINDOW = SMALL | {"actor.environments": 1, "actor.window_steps": 3, "loss.kind": "a3c"}


@pytest.fixture
def frozen(watched):
    """What actors play while nobody learns: at least `each` rollouts of every actor."""

    def play(parts, each):
        delivered = watched(parts)
        learners, parts.learners = parts.learners, []
        with Supervisor(parts.gate, parts.wake) as supervisor:
            parts.start(supervisor, lambda: None)
            while min(map(len, delivered.values())) < each:
                parts.queue.release(parts.queue.get(1))
        assert supervisor.failure is None
        parts.learners = learners
        parts.close()
        return delivered

    return play


@pytest.mark.parametrize("settings", [SMALL, WINDOW], ids=["rollouts", "window"])
@pytest.mark.parametrize("env", ["CartPole-v1", "counting", "echo"])
def test_a_process_plays_bit_for_bit_what_a_thread_plays(request, assembled, frozen, env, settings):
    """The same plan, the same seeds, the same weights: every field of every rollout of every actor."""
    env = env if "-" in env else request.getfixturevalue(env)
    each = 12
    there, here = (
        frozen(assembled(env, settings | {"actor.placement": placement}, seed=3), each)
        for placement in ("process", "thread")
    )
    assert there.keys() == here.keys() == {0, 1}
    for actor in there:
        for number, (one, other) in enumerate(zip(there[actor][:each], here[actor][:each], strict=True)):
            assert one.index == other.index == number
            for name in FIELDS:
                assert np.array_equal(getattr(one, name), getattr(other, name)), name
    if env == "CartPole-v1":
        assert not np.array_equal(here[0][0].obs, here[1][0].obs)


def test_epsilon_in_a_process_goes_by_the_steps_of_all_actors(assembled, counting, frozen):
    """It falls to 0 within the first rollouts of two actors together: from then on log mu is of the policy alone."""
    settings = SMALL | {
        "actor.placement": "process", "exploration.epsilon": 1.0, "exploration.epsilon_end": 0.0,
        "exploration.decay_steps": 40, "queue.capacity": 2,
    }  # fmt: skip
    parts = assembled(counting, settings)
    parts.progress.play(1000)  # as others have
    for rollouts in frozen(parts, 3).values():
        for rollout in rollouts:
            with torch.no_grad():
                policy = parts.learners[0]._network(torch.from_numpy(rollout.obs[:-1])).distribution
            expected = policy.log_prob(torch.from_numpy(rollout.action)).numpy()
            np.testing.assert_allclose(rollout.behaviour_log_prob, expected, rtol=1e-5)


def test_a_process_takes_what_was_published_with_its_next_rollout(assembled, counting, watched, matches_script, script):
    """Each version publishes another bias; the recorded log mu is that of the recorded version."""
    settings = SMALL | {
        "actor.placement": "process",
        "actor.count": 1,
        "network.hidden": (),
        "exploration.epsilon": 0.0,
    }
    parts = assembled(counting, settings)
    parts.learners = []
    network = parts.master.vector  # weight [3, 2], bias [3] of the policy, then those of the value
    network.zero_()
    biases = []

    def publish() -> None:
        biases.append(torch.tensor([0.1 * len(biases), -0.3 * len(biases), 0.0]))
        network[6:9] = biases[-1]
        assert parts.master.publish() == len(biases)

    publish()
    delivered = watched(parts)[0]
    with Supervisor(parts.gate, parts.wake) as supervisor:
        parts.start(supervisor, lambda: None)
        while len(delivered) < 30:
            parts.queue.release(parts.queue.get(1))
            publish()
    matches_script(delivered, script)
    versions = [int(rollout.policy_version[0, 0]) for rollout in delivered]
    assert versions == sorted(versions)
    assert versions[-1] >= 30 - 6  # no older than the rollouts that can be under way and waiting
    for version, rollout in zip(versions, delivered, strict=True):
        assert (rollout.policy_version == version).all()
        expected = biases[version - 1].log_softmax(-1).numpy()[rollout.action]
        np.testing.assert_allclose(rollout.behaviour_log_prob, expected, rtol=1e-5)


def test_episodes_and_steps_played_in_processes_are_all_counted(assembled, counting, frozen, script):
    parts = assembled(counting, SMALL | {"actor.placement": "process"})
    delivered = frozen(parts, 10)
    rollouts = [rollout for each in delivered.values() for rollout in each]
    ended = sum(int((rollout.terminated | rollout.truncated).sum()) for rollout in rollouts)
    counts = parts.progress.counts
    assert (counts.played, counts.episodes) == (sum(rollout.steps for rollout in rollouts), ended)
    lengths = sorted(length for length, _ in script)
    episodes = parts.progress.take_episodes()
    assert len(episodes) == ended > 30
    assert {episode.length for episode in episodes} == set(lengths)


@pytest.mark.parametrize("placement", ["thread", "process"])
def test_a_notice_of_environments_is_shown_once_wherever_and_however_many_they_are(assembled, pays, frozen, placement):
    class Careless(pays):
        observation_space = gym.spaces.Box(-1, 1, (1,), np.float32)

        def step(self, action):
            return (np.full(1, 1.5, np.float32), *super().step(action)[1:])

    parts = assembled(Careless, SMALL | {"actor.placement": placement})
    frozen(parts, 2)
    (notice,) = parts.progress.notices
    assert "holds 1.5, which is not between its bounds, -1.0 and 1.0" in notice


# What can be sent


class Holds(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer, self.lock = nn.Linear(2, 4), threading.Lock()

    def __deepcopy__(self, memo):
        return self

    def forward(self, obs):
        out = self.layer(obs)
        return out[:, :3], out[:, 3]


@pytest.fixture
def unsendable(tmp_path, counting):
    """`train` arguments in which something cannot leave this process."""
    with (tmp_path / "file").open("w") as file:
        lock = threading.Lock()
        yield {
            "lock": {"env": lambda: lock and counting()},
            "file": {"env": lambda: file and counting()},
            "network": {"env": counting, "network": Holds()},
        }


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("lock", "environment python:.* cannot be sent to actor processes: .*lock"),
        ("file", "environment python:.* cannot be sent to actor processes: PicklingError: Cannot pickle files"),
        ("network", "the network cannot be sent to actor processes: .*lock"),
    ],
)
def test_what_cannot_be_sent_to_a_process_is_refused_before_anything_starts(tmp_path, unsendable, what, words):
    children, threads = multiprocessing.active_children(), threading.enumerate()
    with pytest.raises(
        UsageError, match=f"^{words}.*; make inside the factory .*, or set actor.placement to thread$"
    ) as e:
        troupe.train(**unsendable[what], run_dir=tmp_path / "run", settings={"actor.placement": "process"})
    assert "\n" not in str(e.value)
    assert not (tmp_path / "run").exists()
    assert multiprocessing.active_children() == children
    assert threading.enumerate() == threads


@pytest.mark.parametrize(("what", "placement"), [("lock", "auto"), ("file", "thread"), ("network", "thread")])
def test_what_cannot_be_sent_plays_in_threads(tmp_path, unsendable, what, placement):
    settings = {"actor.count": 1, "actor.placement": placement, "evaluation.final_episodes": 1}
    run = troupe.train(**unsendable[what], steps=100, target="none", run_dir=tmp_path / "run", settings=settings)
    assert run.outcome == "steps"


@pytest.mark.slow
def test_a_script_needs_no_main_guard_and_is_read_once(tmp_path):
    """Its environment is a class of the script, which uses what else the script defines."""
    (tmp_path / "script.py").write_text(
        textwrap.dedent("""
            import gymnasium as gym
            import numpy as np
            import troupe

            print("read")
            LENGTH = 5

            def observed(left):
                return np.array([left], np.float32)

            class Walk(gym.Env):
                observation_space = gym.spaces.Box(0, LENGTH, (1,), np.float32)
                action_space = gym.spaces.Discrete(2)

                def reset(self, *, seed=None, options=None):
                    super().reset(seed=seed)
                    self.left = LENGTH
                    return observed(self.left), {}

                def step(self, action):
                    self.left -= 1
                    return observed(self.left), float(action), self.left == 0, False, {}

            settings = {"actor.count": 2, "actor.placement": "process", "evaluation.final_episodes": 2}
            run = troupe.train(Walk, steps=500, target="none", run_dir="run", settings=settings)
            print(run.outcome, run.scores.lengths.tolist())
        """)
    )
    done = subprocess.run(
        [sys.executable, "script.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "read\nsteps [5, 5]\n"
    assert Path(tmp_path / "run" / "summary.json").exists()


# The run's side, with a process that the test plays


class Played:
    """What `multiprocessing` would start. The test has its end of the pipe, and says how it ended."""

    def __init__(self, pid: int = 2**22 + 1):  # there is no such process
        self.alive, self.exitcode, self.pid = True, None, pid
        self.calls: list[str] = []
        self.fails: BaseException | None = None
        self.ready = True

    def Pipe(self, duplex: bool = True) -> Any:  # noqa: N802
        return multiprocessing.Pipe(duplex)

    def Process(self, target: Any, args: Any, name: str, daemon: bool) -> "Played":  # noqa: N802
        self.target, self.args, self.name, self.daemon = target, args, name, daemon
        return self

    def start(self) -> None:
        if self.fails:
            raise self.fails
        self.end = Connection(os.dup(self.args[0].fileno()))
        if self.ready:
            self.report(Report(-1, NOTHING))

    def report(self, report: Report) -> None:
        self.end.send_bytes(encode(report))

    def is_alive(self) -> bool:
        return self.alive

    def join(self, seconds: float) -> None:
        self.calls.append("join")

    def kill(self) -> None:
        self.calls.append("kill")


@pytest.fixture
def process(monkeypatch):
    """An actor's process, number 1, that has started, and what the test plays for it."""
    for name in ("_POLL_SECONDS", "_GRACE_SECONDS", "_CLOSE_SECONDS", "_STACK_SECONDS"):
        monkeypatch.setattr(processes, name, 0.005)
    played = Played()
    monkeypatch.setattr(processes, "process_context", lambda: played)
    monkeypatch.setattr(processes.os, "killpg", lambda pid, number: played.calls.append(f"group {pid}"))
    ask = os.kill  # with the signal 0 it only says whether there is such a process
    monkeypatch.setattr(processes.os, "kill", lambda pid, number: ask(pid, 0))
    source = SimpleNamespace(value=SimpleNamespace(id="Game-v1"))
    buffers = SimpleNamespace(block="the block", slots=6)
    made = ActorProcess(
        SimpleNamespace(number=1, source=source), buffers, Gate(), Block({"pulse": ((2,), np.float64)}, shared=False)
    )
    yield SimpleNamespace(actor=made, played=played, gate=made._gate, pulses=made._pulses)
    made.close()


def slot(number: int) -> Any:
    return SimpleNamespace(slot=number, pulls=[])


def test_a_process_is_started_with_all_that_it_needs_and_has_the_actors_name(process, monkeypatch):
    monkeypatch.setenv("TROUPE_TEST", "here")
    process.actor.generation = 4
    process.actor.start(0.0)
    played = process.played
    assert (played.target, played.name, played.daemon) == (run_actor, "actor-1", True)
    _, _, plan, block, slots, switches, pulses, generation, variables = played.args
    assert plan is process.actor._plan
    assert (block, slots, switches, pulses) == ("the block", 6, process.gate.switches, process.pulses)
    assert (generation, variables["TROUPE_TEST"]) == (4, "here")


def test_a_slot_is_asked_for_with_the_counts_and_comes_back_with_what_was_counted(process):
    process.actor.start(0.0)
    assert process.actor.wants_more
    process.actor.request(first := slot(5), Counts(steps=7, played=11, updates=13))
    assert process.actor.wants_more
    process.actor.request(second := slot(2), Counts())
    assert not process.actor.wants_more
    request = decode_request(process.played.end.recv_bytes())
    assert (request.slot, request.steps, request.played, request.updates) == (5, 7, 11, 13)
    delta = Delta(Counts(played=9), [], Lag(), {})
    process.played.report(Report(5, delta, [(3, 40)], {"env": 2.0}))
    process.played.report(Report(2, NOTHING, [(4, 50)], {"env": 1.0}))
    assert process.actor.receive(0.0) == (first, delta)
    assert first.pulls == [(3, 40)]
    assert process.actor.waiting == {2: second}
    assert process.actor.receive(0.0)[0] is second
    assert second.pulls == [(4, 50)]
    assert process.actor.watch.seconds == {"env": 3.0}


def test_what_an_actor_raised_is_raised_with_its_traceback(process):
    process.actor.start(0.0)
    process.played.report(Report(-1, NOTHING, error="ValueError: out of fuel", trace="line 7 of game.py"))
    with pytest.raises(ActorFailed, match=r"^ValueError: out of fuel\n") as error:
        process.actor.receive(0.0)
    assert error.value.__notes__ == ["in the actor's process:\nline 7 of game.py"]


@pytest.mark.parametrize(
    ("status", "how"), [(3, "ended with status 3"), (-9, "was killed by SIGKILL"), (None, "stopped answering")]
)
@pytest.mark.parametrize("when", ["receive", "request"])
def test_a_process_that_has_ended_is_lost_and_it_is_said_how(process, status, how, when):
    process.actor.start(0.0)
    process.played.exitcode = status
    process.played.end.close()
    while not process.played.args[0].closed:  # by the thread that has started it
        time.sleep(1e-4)
    call = process.actor.receive if when == "receive" else process.actor.request
    with pytest.raises(ActorLost, match=f"^its process {how}$"):
        call(*((0.0,) if when == "receive" else (slot(0), Counts())))
    assert process.played.calls[0] == "join"  # else it may have no status yet


def test_a_dead_process_is_lost_also_where_another_one_still_holds_its_pipe(process):
    """Its environment's, for example. What it had sent before is fetched."""
    process.actor.start(0.0)
    process.played.alive, process.played.exitcode = False, 1
    process.played.report(Report(-1, NOTHING))
    assert process.actor.receive(0.0) == (None, NOTHING)
    with pytest.raises(ActorLost, match="ended with status 1"):
        process.actor.receive(0.0)


def test_a_process_that_lives_is_not_lost_though_the_library_believes_it_dead(process):
    """It believes that of all of them when the server that started them is gone."""
    process.actor.start(0.0)
    process.played.alive, process.played.pid = False, os.getpid()
    answer = threading.Timer(0.05, lambda: process.played.report(Report(-1, NOTHING)))
    answer.start()
    assert process.actor.receive(0.0) == (None, NOTHING)
    answer.join()


@pytest.mark.parametrize("when", ["it waits", "its process has just ended"])
def test_the_end_of_the_run_is_no_loss(process, when):
    process.actor.start(0.0)
    process.gate.stop()
    if when != "it waits":
        process.played.end.close()
    with pytest.raises(Closed):
        process.actor.receive(0.0)


def test_an_environment_that_does_not_answer_costs_the_process_and_is_named(process):
    process.actor.start(0.0)
    process.pulses["pulse"][:] = 0.0, 5.0
    with pytest.raises(ActorLost, match=r"^environment Game-v1 has not answered for 0\.02 s"):
        process.actor.receive(0.02)
    assert "kill" in process.played.calls


def test_the_stack_of_an_environment_that_hangs_is_asked_for_and_reported(process, monkeypatch):
    sent = []

    def kill(pid, number):
        sent.append((pid, number))
        if number == signal.SIGUSR1:
            stack = b'Thread 0x7 (most recent call first):\n  File "game.py", line 3 in step\n'
            os.write(process.actor_stacks, stack)

    monkeypatch.setattr(processes.os, "kill", kill)
    monkeypatch.setattr(processes.os, "killpg", lambda pid, number: sent.append((pid, number)))
    monkeypatch.setattr(processes, "_STACK_SECONDS", 5.0)
    process.played.start = lambda start=process.played.start: (
        setattr(process, "actor_stacks", os.dup(process.played.args[1].fileno())), start(),
    )  # fmt: skip
    process.actor.start(0.0)
    process.played.pid = 77
    process.pulses["pulse"][1] = 5.0
    with pytest.raises(ActorLost) as lost:
        process.actor.receive(0.02)
    assert str(lost.value).splitlines()[1:] == ['    File "game.py", line 3 in step']
    assert sent == [(77, signal.SIGUSR1), (77, signal.SIGKILL)]
    os.close(process.actor_stacks)


def test_closing_ends_the_process_in_order_or_by_force_and_its_pulse(process):
    process.actor.start(0.0)
    process.pulses["pulse"][:] = 3.0, 5.0
    process.played.pid = 77
    process.actor.close()
    with pytest.raises((EOFError, OSError)):
        process.played.end.recv_bytes()
    assert process.played.calls == ["join", "kill", "group 77", "join"]
    assert process.pulses["pulse"].tolist() == [3.0, 0.0]
    process.actor.close()  # twice is no harm
    assert len(process.played.calls) == 4


@pytest.mark.parametrize(
    ("fails", "raises", "says"),
    [
        (
            OSError(errno.EMFILE, "Too many open files"),
            TroupeError,
            "raise the limit .ulimit -n., or lower actor.count",
        ),
        (
            OSError(errno.ENFILE, "Too many open files"),
            TroupeError,
            "raise the limit .ulimit -n., or lower actor.count",
        ),
        (OSError(errno.ENOMEM, "Out of memory"), OSError, "Out of memory"),
        (EOFError(), ActorLost, "^the server that starts its process is gone$"),
        (ConnectionResetError(), ActorLost, "^the server that starts its process is gone$"),
    ],
    ids=["files", "files of all", "memory", "server", "connection"],
)
def test_what_keeps_a_process_from_starting_is_said(process, fails, raises, says):
    process.played.fails = fails
    with pytest.raises(raises, match=says):
        process.actor.start(0.0)


def test_a_run_can_end_while_the_server_is_still_starting(process):
    started = threading.Event()
    process.played.start = lambda: started.wait(PATIENCE_SECONDS)
    process.gate.stop()
    with pytest.raises(Closed):
        process.actor.start(0.0)
    started.set()
