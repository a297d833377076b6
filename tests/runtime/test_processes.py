"""Actors in processes: they play what they would play in threads, and need nothing that a script must provide."""

import multiprocessing
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch import nn

import troupe
from helpers import PATIENCE_SECONDS
from troupe import UsageError
from troupe.runtime.data.rollout import FIELDS
from troupe.runtime.execution.supervisor import Supervisor

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
