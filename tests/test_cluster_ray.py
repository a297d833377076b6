"""Actors on hosts of a Ray cluster, which is simulated on this machine: two nodes besides one for the training."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import troupe
from helpers import PATIENCE_SECONDS
from troupe.cli import run

pytest.importorskip("ray")
pytestmark = [pytest.mark.cluster, pytest.mark.slow]
GONE_SECONDS = 10.0  # until nothing of a driver that was stopped is left
COMMAND = (
    "train CartPole-v1 --actors 4 --actor.environments 4 --target none --evaluation.final_episodes 5 --seed 1 "
    "--evaluation.every_steps 0 --run-dir run"
)


class Simulated:
    """A cluster of two hosts with two cores each; tests put back what they take away."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        os.environ.setdefault("RAY_worker_niceness", "0")  # hosts must not starve where this machine is busy
        self.cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
        self.address: str = self.cluster.address
        self.nodes = [self.add(), self.add()]

    def add(self) -> Any:
        return self.cluster.add_node(num_cpus=2, include_dashboard=False)


@pytest.fixture(scope="module")
def simulated() -> Iterator[Simulated]:
    made = Simulated()
    yield made
    made.cluster.shutdown()


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def until(condition: Callable[[], Any], seconds: float = PATIENCE_SECONDS) -> float:
    """Waits; gives the seconds that it took."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < seconds
        time.sleep(0.05)
    return time.monotonic() - began


def reports() -> list[dict[str, Any]]:
    file = Path("run/metrics.jsonl")
    lines = file.read_text().splitlines(keepends=True) if file.exists() else []
    rows = [json.loads(line) for line in lines if line.endswith("\n")]
    return [row for row in rows if row["kind"] == "report"]


def test_two_hosts_train_together(simulated, capsys):
    assert run([*COMMAND.split(), "--cluster", simulated.address, "--steps", "4000"]) == 0
    captured = capsys.readouterr()
    assert "4 x 4 environments in processes on 2 hosts (" in captured.out
    assert captured.out.count("versions between acting and arriving") == 2
    assert captured.err == ""
    last = reports()[-1]
    assert [host["actors"] for host in last["hosts"].values()] == [2, 2]
    assert all(host["steps"] > 0 for host in last["hosts"].values())


def test_an_environment_of_a_script_travels_and_what_it_raises_names_the_host(simulated):
    class Track:
        """Not importable on a host."""

    def make():
        import gymnasium as gym

        class Broken(gym.Wrapper):
            played = 0

            def step(self, action):
                assert Track
                self.played += 1
                if self.played > 300:
                    raise ValueError("the track is gone")
                return super().step(action)

        return Broken(gym.make("CartPole-v1"))

    with pytest.raises(troupe.TroupeError, match=r"host .*, environment .*make: actor-\d.*the track is gone"):
        troupe.train(make, cluster=simulated.address, settings={"actor.count": 2}, target="none", run_dir="run")
    assert "in step" in Path("run/error.txt").read_text()


def hosts(key: str) -> list[int]:
    """Of the last report, in ascending order."""
    return sorted(host[key] for host in reports()[-1]["hosts"].values()) if reports() else []


@contextmanager
def driver(address: str, *words: str, **variables: str) -> Iterator[subprocess.Popen[bytes]]:
    """A training in a process of its own, whose output is in the file `output`."""
    command = [sys.executable, "-m", "troupe", *COMMAND.split(), "--cluster", address, *words]
    with open("output", "wb") as output:
        started = subprocess.Popen(
            command, env=os.environ | variables, start_new_session=True, stdout=output, stderr=output
        )
    try:
        yield started
    finally:
        started.kill()
        started.wait()


def test_learners_share_the_hosts_and_one_that_is_killed_ends_the_run_with_all_that_play(simulated):
    mark = f"mark-{uuid.uuid4().hex}"
    with driver(simulated.address, "--learners", "2", TROUPE_MARK=mark) as training:
        until(lambda: reports() and reports()[-1]["updates"] > 2)
        assert hosts("actors") == [2, 2], "rank 0's"
        assert len(actors_of_the_cluster()) == 4, "one for each learner on each machine"  # none was removed before
        (other,) = [pid for pid in marked(mark) if b"troupe.ranks" in Path(f"/proc/{pid}/cmdline").read_bytes()]
        os.kill(other, signal.SIGKILL)
        assert training.wait(PATIENCE_SECONDS) == 1
        assert until(lambda: not actors_of_the_cluster()) < GONE_SECONDS
    output = Path("output").read_text()
    assert "on 2 hosts (" in output
    assert "the same in each of 2 ranks" in output
    assert f", process {other}) failed: its process ended by SIGKILL" in output
    assert list(Path("run/checkpoints").iterdir())


def test_a_host_that_is_removed_is_replaced_by_the_others_and_by_one_that_joins(simulated):
    with driver(simulated.address) as training:
        until(lambda: len(hosts("steps")) == 2 and hosts("steps")[0] > 0)
        simulated.cluster.remove_node(simulated.nodes.pop(), allow_graceful=False)
        until(lambda: hosts("actors") == [0, 4])
        steps = reports()[-1]["steps"]
        until(lambda: reports()[-1]["steps"] > steps + 500)
        simulated.nodes.append(simulated.add())
        until(lambda: hosts("actors") == [0, 2, 2])
        training.send_signal(signal.SIGINT)
        assert training.wait(PATIENCE_SECONDS) == 128 + signal.SIGINT
    output = Path("output").read_text()
    assert "is lost: " in output
    assert "other hosts take over its 2 actors" in output
    assert "has joined and takes over some of the actors of" in output
    assert "raylet" not in output
    assert reports()[-1]["restarts"] == 1


@pytest.mark.parametrize(("own", "number"), [(True, signal.SIGTERM), (True, signal.SIGKILL), (False, signal.SIGKILL)])
def test_a_driver_that_is_stopped_leaves_nothing_but_a_cluster_that_is_not_its_own(simulated, number, own):
    mark = f"mark-{uuid.uuid4().hex}"
    with driver("auto" if own else simulated.address, TROUPE_MARK=mark, RAY_ADDRESS="local") as training:
        until(lambda: len(reports()) > 1)
        before = actors_of_the_cluster()
        assert len(marked(mark)) > (5 if own else 0)
        training.send_signal(number)
        training.wait(PATIENCE_SECONDS)
        assert until(lambda: not marked(mark)) < GONE_SECONDS
        assert until(lambda: own or not actors_of_the_cluster()) < GONE_SECONDS
    assert own or before
    assert not any(node.dead_processes() for node in simulated.nodes)


def marked(mark: str) -> list[int]:
    """The processes that inherited the environment of a driver."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            zombie = (process / "stat").read_text().rpartition(")")[2].split()[0] == "Z"
            if mark.encode() in (process / "environ").read_bytes() and not zombie:
                found.append(int(process.name))
        except OSError:
            pass
    return found


def actors_of_the_cluster() -> list[int]:
    """Hosts and actors of the simulated cluster, by their command lines."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (process / "cmdline").read_bytes().startswith(b"ray::Host"):
                found.append(int(process.name))
        except OSError:
            pass
    return found


def test_an_address_that_nobody_answers_at_is_refused_in_a_line(capsys):
    assert run([*COMMAND.split(), "--cluster", "127.0.0.1:1"]) == 2
    assert capsys.readouterr().err == "troupe: cluster 127.0.0.1:1: nothing answers there: connection refused\n"
    assert not Path("run").exists()


def test_an_address_where_something_else_answers_is_refused_in_a_line(capsys):
    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=lambda: server.accept()[0].sendall(b"HTTP/1.0 400 Bad Request"), daemon=True).start()
        assert run([*COMMAND.split(), "--cluster", f"127.0.0.1:{server.getsockname()[1]}"]) == 2
    assert "what answers there is not Ray" in capsys.readouterr().err
