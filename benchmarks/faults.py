"""Faults at random moments of tiny runs: what is lost, what hangs, what is left behind. Linux, as root.

    python benchmarks/faults.py --count 1000            # run it again to go on; some minutes a hundred
    python benchmarks/faults.py --only SIGHUP           # one kind
    python benchmarks/faults.py report                  # adds to benchmarks/results/faults.json, and prints it

A trial draws, from its seed and number, a kind of fault, a topology, whether the network has a memory and the run a
record, and the moment: the import of PyTorch, the start, the measurement of actors, training, an evaluation, a
checkpoint, the end. It runs `troupe train`, forked from a process that has imported PyTorch already, and injects the
fault. Then the run must end as it should within 5 s, or go on, which is seen by its steps, and end by SIGTERM within
5 s. Of a trial,

lost    is one whose newest checkpoint from before the fault, or a later one, cannot be loaded
hung    one that took more than 5 s to end, or to play another step
left    one after which a process, a segment of shared memory or a temporary file is there (5 s later)
wrong   one with another exit status than it should be, with a traceback, or without the line that says what happened
fine    any other
missed  one whose run had ended before the fault, or had nothing that it could hit; it does not count as tried
"""

import argparse
import atexit
import ctypes
import fcntl
import json
import multiprocessing
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import termios
import threading
import time
import traceback
import types
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from common import RESULTS, write

ENVIRONMENT = f"{Path(__file__).with_name('fault_environments.py')}:Faulty"
PROMISED_SECONDS = 5.0
LIMIT_SECONDS = float(os.environ.get("LIMIT_SECONDS", PROMISED_SECONDS))  # more on a machine that is busy
PATIENCE_SECONDS = 60.0  # until the moment of the fault is reached
JOBS = 3  # trials side by side: most of their time they wait
_SMALL = "--network.hidden 8 --actor.rollout_steps 8 --actor.hang_seconds 2 --env.backend sync"
_ENDLESS = "--target none --evaluation.every_seconds 0 --evaluation.every_steps 400 --evaluation.episodes 3"
_ASYNC = "--preset appo --actor.environments 2 --learner.minibatches 1 --actor.placement"
TOPOLOGIES = {
    "async, threads": f"{_ASYNC} thread",
    "async, processes": f"{_ASYNC} process",
    "article": "--preset article",
    "ga3c": "--preset ga3c --learner.rollouts 2",
    "ga3c, threads": "--preset ga3c --learner.rollouts 2 --actor.placement thread",
    "hogwild": "--preset a3c",
    "hogwild, threads": "--preset a3c --actor.placement thread",
    "serial": "--topology serial --actor.environments 2",
}
PROCESSES = ("async, processes", "ga3c", "hogwild")
THREADS = tuple(name for name in TOPOLOGIES if name not in PROCESSES)
WHILE_IT_RUNS = ("training", "evaluation", "checkpoint")
MOMENTS = ("import", "start", "measurement", *WHILE_IT_RUNS, "end")
GOES_ON = 128 + signal.SIGTERM  # a run that goes on is ended so
ENDED = {f"SIG{name}": 128 + getattr(signal, f"SIG{name}") for name in ("INT", "TERM", "HUP")}


@dataclass(frozen=True)
class Kind:
    inject: Callable[["Command"], bool]  # whether it hit anything
    moments: tuple[str, ...] = WHILE_IT_RUNS
    topologies: tuple[str, ...] = tuple(TOPOLOGIES)
    status: tuple[int, ...] = (GOES_ON,)
    ends: bool = False  # by itself
    weight: int = 1


def send(number: int, group: float = 0.5) -> Callable[["Command"], bool]:
    return lambda command: command.send(number, group=command.trial.choice < group)


def send_two(command: "Command") -> bool:
    choice = command.trial.choice
    first, second = random.Random(choice).choices([signal.SIGINT, signal.SIGTERM, signal.SIGHUP], k=2)
    hit = command.send(first)
    time.sleep(0.5 * choice**2)
    command.send(second)
    return hit


def stop_and_continue(command: "Command") -> bool:
    command.send(signal.SIGTSTP, group=True)
    time.sleep(1 + 3 * command.trial.choice)
    return command.send(signal.SIGCONT, group=True)


def kill_server(command: "Command") -> bool:
    return _kill(command.server(), signal.SIGKILL)


def send_actor(*numbers: int, continues: bool = False) -> Callable[["Command"], bool]:
    def apply(command: "Command") -> bool:
        rng = random.Random(command.trial.choice)
        actor = rng.choice([*command.actors()] or [0])
        hit = _kill(actor, rng.choice(numbers))
        if continues:
            time.sleep(4 * command.trial.choice)
            _kill(actor, signal.SIGCONT)
        return hit

    return apply


def environments_own(command: "Command") -> bool:
    """What the environment has done by now."""
    return (command.folder / "happened").exists()


def end_with_children(command: "Command") -> bool:
    return command.send(signal.SIGKILL if command.trial.status() == (-9,) else signal.SIGTERM)


def fill_disk(command: "Command", *, for_a_while: bool = False) -> bool:
    with (command.place / "filler").open("wb", buffering=0) as file:
        with suppress(OSError):
            while True:
                file.write(bytes(4096))
        os.truncate(file.fileno(), max(0, file.tell() - int(command.trial.choice * 60_000)))  # not quite full
    if for_a_while:
        time.sleep(0.1 + command.trial.choice)
        (command.place / "filler").unlink()
    return True


def limit_files(command: "Command") -> bool:
    return _limit(command.pid, resource.RLIMIT_FSIZE, int(command.trial.choice * 2**16))


def limit_memory(command: "Command") -> bool:
    with suppress(OSError):
        pages = int(Path(f"/proc/{command.pid}/statm").read_text().split()[0])
        most = pages * resource.getpagesize() + int(command.trial.choice * 2**26)
        return _limit(command.pid, resource.RLIMIT_AS, most)
    return False


def forbid_writing(command: "Command") -> bool:
    for path in command.folders():
        path.chmod(0o555)
    return True


def remove_directory(command: "Command") -> bool:
    shutil.rmtree(command.place / "run", ignore_errors=True)
    return True


def move_directory(command: "Command") -> bool:
    (command.place / "run").rename(command.place / "run-elsewhere")
    return True


def set_clock_back(command: "Command") -> bool:
    (command.folder / "back").touch()
    return True


def close_output(command: "Command") -> bool:
    """The other end of its pipe or terminal, if it has one."""
    command.stop_reading()
    return True


def from_the_start(command: "Command") -> bool:
    return True


_PLACES = ("reset", "step", "evaluation")
_DISK = ("start", *WHILE_IT_RUNS)
_OWN = partial(Kind, environments_own, _PLACES)
_DEADLY = signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV, signal.SIGABRT
KINDS = {
    **{
        name: Kind(send(getattr(signal, name)), MOMENTS, status=(status,), ends=True, weight=4)
        for name, status in ENDED.items()
    },
    "two signals": Kind(send_two, MOMENTS, status=tuple(ENDED.values()), ends=True, weight=4),
    "terminal closed": Kind(close_output, status=(ENDED["SIGHUP"],), ends=True, weight=2),
    "terminal closed, nohup": Kind(close_output),
    "terminal closed, setsid": Kind(close_output),
    "SIGPIPE": Kind(send(signal.SIGPIPE)),
    "SIGTSTP, SIGCONT": Kind(stop_and_continue),
    "SIGKILL of the run": Kind(send(signal.SIGKILL, 0.3), MOMENTS, status=(-9,), ends=True, weight=4),
    "signal that kills an actor": Kind(send_actor(*_DEADLY), topologies=PROCESSES, weight=4),
    "SIGSTOP of an actor": Kind(send_actor(signal.SIGSTOP), topologies=PROCESSES),
    "SIGSTOP, SIGCONT of an actor": Kind(send_actor(signal.SIGSTOP, continues=True), topologies=PROCESSES),
    "SIGKILL of the fork server": Kind(kill_server, _DISK, PROCESSES),
    "environment raises": _OWN(status=(1,), ends=True, weight=2),
    "environment calls sys.exit": _OWN(status=(1,), ends=True),
    "environment ends its process": _OWN(),
    "environment aborts": _OWN(),
    "environment crashes in C": _OWN(),
    "environment is killed for its memory": _OWN(),
    "environment hangs": _OWN(weight=2),
    "environment prints": _OWN(),
    "environment takes all memory": Kind(environments_own, ("reset", "step"), status=(1,), ends=True),
    "environment has children": Kind(end_with_children),
    "full disk": Kind(fill_disk, _DISK, status=(1, GOES_ON), weight=4),
    "full disk, then not": Kind(partial(fill_disk, for_a_while=True), _DISK, weight=2),
    "limit of file sizes": Kind(limit_files, _DISK, status=(1, GOES_ON), weight=2),
    "read-only directory": Kind(forbid_writing, _DISK, status=(1, 2), weight=2),
    "directory removed": Kind(remove_directory, weight=2),
    "directory moved": Kind(move_directory),
    "64 file descriptors": Kind(from_the_start, ("start",), status=(1, GOES_ON)),
    "limit of memory": Kind(limit_memory, status=(1, GOES_ON)),
    "closed output": Kind(close_output, _DISK, weight=2),
    "clock set back": Kind(set_clock_back),
}
_TMPFS = ("full disk", "full disk, then not")
_BLIND = ("full disk", "limit of file sizes", "read-only directory", "limit of memory", "64 file descriptors")
# How an environment ends its process, and the status of the run where that is the one that trains.
_PROCESS_ENDS = {
    "environment ends its process": 3,
    "environment aborts": -signal.SIGABRT,
    "environment crashes in C": -signal.SIGSEGV,
    "environment is killed for its memory": -signal.SIGKILL,
}


@dataclass(frozen=True)
class Trial:
    number: int
    kind: str
    topology: str
    memory: bool
    record: bool
    moment: str
    delay: float  # from 0 to 1, of what the moment spans
    choice: float  # from 0 to 1, of what the kind leaves open

    @classmethod
    def draw(cls, seed: int, number: int, only: str | None) -> "Trial":
        rng = random.Random(f"{seed} {number}")
        name = only or rng.choices(list(KINDS), [kind.weight for kind in KINDS.values()])[0]
        kind, memory = KINDS[name], rng.random() < 0.3
        moment = rng.choice(kind.moments)
        places = [each for each in kind.topologies if moment != "measurement" or each.startswith("async")]
        topology = rng.choice(places)
        memory = memory and topology != "article"  # whose samples are single steps
        record = topology.startswith("async") and rng.random() < 0.3  # others cannot be replayed
        return cls(number, name, topology, memory, record, moment, rng.random(), rng.random())

    @property
    def in_main_process(self) -> bool:
        """Whether the environment's fault is one of the process that trains."""
        return self.topology in THREADS or self.moment == "evaluation"

    def words(self, directory: str) -> list[str]:
        count = {"64 file descriptors": 20}.get(self.kind, 3)
        words = f"train {ENVIRONMENT} --run-dir {directory} {_SMALL} {_ENDLESS} {TOPOLOGIES[self.topology]}"
        words += f" --checkpoint.every_seconds {0.02 if self.moment == 'checkpoint' else 0.1}"
        words += f" --evaluation.final_episodes 5 --steps {400 if self.moment == 'end' else 0}"
        words += " --network.core lstm --network.core_units 8" if self.memory else ""
        words += " --record --on-collapse report" if self.record else ""
        if self.moment != "measurement":
            words += f" --actor.auto false --actor.count {1 if self.topology == 'serial' else count}"
        return words.split()

    def status(self) -> tuple[int, ...]:
        """What the run may end with."""
        kind = KINDS[self.kind]
        if self.kind in _PROCESS_ENDS and self.in_main_process:
            return (_PROCESS_ENDS[self.kind],)
        if self.kind == "environment hangs" and self.topology == "serial" and self.moment != "evaluation":
            return (1,)
        if self.kind == "environment has children" and self.topology in PROCESSES and self.choice < 0.5:
            return (-signal.SIGKILL,)
        if self.moment == "end":
            return (*kind.status, 0)
        if self.moment in ("import", "start"):  # perhaps before its handlers are there
            return (*kind.status, *(128 - status for status in kind.status if status > 128))
        return kind.status


class Command:
    """The command of a trial, in a group of processes and a folder of its own."""

    def __init__(self, trial: Trial, folder: Path):
        self.trial, self.folder, self.out, self.err = trial, folder, folder / "out.txt", folder / "err.txt"
        self.place = folder / "disk" if trial.kind in _TMPFS else folder
        self.place.mkdir(exist_ok=True)
        (folder / "tmp").mkdir()
        for file in (self.out, self.err):
            file.touch()
        self.hit, self.seconds = True, 0.0  # until it had ended, or played on
        self._read, self._write = os.openpty() if trial.kind.startswith("terminal") else os.pipe()
        self.ended: int | None = None
        self.pid = os.fork()
        if self.pid == 0:
            try:
                _become(trial, folder, self.place, self._write)
            finally:
                os._exit(99)
        os.close(self._write)
        os.set_blocking(self._read, False)

    def stop_reading(self) -> None:
        if self._read >= 0:
            os.close(self._read)
        self._read = -1

    def folders(self) -> list[Path]:
        """That it writes to."""
        return [self.place, *self.place.glob("run*"), *self.place.glob("run*/checkpoints")]

    def poll(self) -> int | None:
        if self.ended is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.ended = os.waitstatus_to_exitcode(status) if pid else None
        return self.ended

    def runs(self) -> list[Path]:
        return [file.parent for file in self.place.glob("run*/config.toml")]

    def last(self, name: str) -> int:
        """What the run has last reported."""
        most = 0
        for run in self.runs():
            with suppress(OSError):
                rows = re.findall(rf'"{name}": (\d+)', (run / "metrics.jsonl").read_text())
                most = max([most, *map(int, rows[-1:])])
        return most

    def saved(self) -> int:
        """Steps of the newest checkpoint."""
        found = [path.name for run in self.runs() for path in run.glob("checkpoints/[0-9]*")]
        return max((int(name.removesuffix(".replaced")) for name in found), default=0)

    def processes(self) -> dict[int, int]:
        """All that live and belong to it: pid and parent's pid."""
        mark, found = f"FAULT_FOLDER={self.folder}".encode(), {}
        for entry in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                state, parent, group = (entry / "stat").read_text().rpartition(")")[2].split()[:3]
                ours = int(group) == self.pid or mark in (entry / "environ").read_bytes().split(b"\0")
                if ours and state != "Z":
                    found[int(entry.name)] = int(parent)
        return found

    def server(self) -> int | None:
        return next((pid for pid, parent in self.processes().items() if parent == self.pid and _is_server(pid)), None)

    def actors(self) -> list[int]:
        server = self.server()
        return [pid for pid, parent in self.processes().items() if server and parent == server]

    def until(self, reached: Callable[[], object], seconds: float, *, timed: bool = False) -> bool:
        """Whether it came that far, before it ended and in time."""
        began = time.monotonic()
        end = began + seconds
        while not (done := reached()) and self.poll() is None and time.monotonic() < end:
            with suppress(OSError):  # a terminal that nobody reads from would stop it
                os.read(self._read, 2**16)
            time.sleep(0.01)
        self.seconds = max(self.seconds, time.monotonic() - began) if timed else self.seconds
        return bool(done)

    def send(self, number: int, *, group: bool = False) -> bool:
        """Whether it was there to get the signal."""
        if self.poll() is None:
            (os.killpg if group else os.kill)(self.pid, number)
        return self.ended is None

    def remove(self) -> None:
        self.stop_reading()
        while left := self.processes():
            for pid in left:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self.poll()
            time.sleep(0.01)


def _is_server(pid: int) -> bool:
    with suppress(OSError):
        return b"multiprocessing.forkserver" in Path(f"/proc/{pid}/cmdline").read_bytes()
    return False


def _become(trial: Trial, folder: Path, place: Path, output: int) -> None:
    """Makes this forked process the command; does not return. `output`: the end of a pipe or terminal."""
    if trial.kind.startswith("terminal"):
        os.setsid()
        if not trial.kind.endswith("setsid"):
            fcntl.ioctl(output, termios.TIOCSCTTY, 0)
    else:
        os.setpgid(0, 0)
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # until it is the command
    signal.signal(signal.SIGHUP, signal.SIG_IGN if trial.kind.endswith("nohup") else signal.SIG_DFL)
    os.chdir(place)
    where = trial.moment if trial.moment in _PLACES else ""
    what = "children" if trial.kind.endswith("children") else trial.kind.removeprefix("environment ")
    os.environ |= {"FAULT": what, "FAULT_FOLDER": str(folder), "FAULT_PLACE": where, "TMPDIR": str(folder / "tmp")}
    os.environ |= {"FAULT_CALL": str(int(trial.delay * 60)), "XDG_STATE_HOME": str(folder / "state")}
    tempfile.tempdir = None
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for number, file in ((1, folder / "out.txt"), (2, folder / "err.txt")):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    way = ("closed", "pipe", "/dev/full")[int(trial.choice * 3)] if trial.kind == "closed output" else ""
    if way == "pipe" or trial.kind.startswith("terminal"):
        os.dup2(output, 1)
    elif way:
        os.dup2(os.open("/dev/full", os.O_WRONLY), 1)
    sys.stdout, sys.stderr = (open(number, "w", buffering=1, closefd=False) for number in (1, 2))  # noqa: SIM115
    if way == "closed":
        os.closerange(1, 3)
        sys.stdout = sys.stderr = None  # type: ignore[assignment]  # as Python does
    os.closerange(3, 256)
    if trial.kind == "64 file descriptors":
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
    if trial.kind == "read-only directory":
        _obey_modes()
    if trial.kind == "clock set back":
        now = time.time
        time.time = lambda: now() - 3600 * (folder / "back").exists()
    words = trial.words(str(place / "run"))
    if trial.moment == "import":
        os.execv(sys.executable, [sys.executable, "-m", "troupe", *words])
    from troupe.cli import main

    status: Any = 0
    try:
        sys.modules["__main__"] = types.ModuleType("__main__")
        signal.signal(signal.SIGINT, signal.default_int_handler)
        main(words)
    except SystemExit as done:
        status = done.code or 0
    except BaseException:
        traceback.print_exc()
        status = 1
    with suppress(KeyboardInterrupt):
        threading._shutdown()  # type: ignore[attr-defined]  # as the interpreter does at its end
        atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):
            stream.flush()
    os._exit(status)


def _obey_modes() -> None:
    """From now on root may write only where the modes of files and folders let it."""
    libc, dac_override = ctypes.CDLL(None, use_errno=True), 1
    libc.prctl(24, dac_override, 0, 0, 0)  # PR_CAPBSET_DROP: for children
    header, data = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    libc.capget(header, data)
    for half in range(3):
        data[half] &= ~(1 << dac_override)
    libc.capset(header, data)


def reach(command: Command) -> bool:
    """Waits for the trial's moment; whether it came."""
    trial, spans = command.trial, {"import": 1.5, "start": 0.8, "measurement": 1.5, "training": 0.5, "end": 1.2}
    moments: dict[str, Callable[[], object]] = {
        "training": lambda: command.last("updates"),
        "end": lambda: command.last("updates"),
        "evaluation": (command.folder / "judged").exists,
        "checkpoint": command.saved,
    }
    reached = moments.get(trial.moment, lambda: True)
    if trial.kind.startswith("environment ") and not trial.kind.endswith("children"):
        reached = (command.folder / "happened").exists
    if not command.until(reached, PATIENCE_SECONDS) and command.poll() is None:
        return False
    return not command.until(lambda: False, trial.delay * spans.get(trial.moment, 0.1))


def _kill(pid: int | None, number: int) -> bool:
    with suppress(ProcessLookupError):
        if pid:
            os.kill(pid, number)
            return True
    return False


def _limit(pid: int, what: int, most: int) -> bool:
    with suppress(ProcessLookupError):
        resource.prlimit(pid, what, (most, most))
        return True
    return False


def follow(command: Command) -> Iterator[str]:
    """What is not as it should be from the fault on, as `word: details`."""
    trial, kind, expected = command.trial, KINDS[command.trial.kind], command.trial.status()
    came, status = reach(command), command.poll()
    if not came and (status is None or (trial.moment not in ("end", *_PLACES) and status not in expected)):
        yield f"wrong: the moment did not come, status {status}"
        return
    saved, steps = command.saved(), command.last("steps")
    command.hit = (command.poll() is None and kind.inject(command)) or (came and kind.inject is environments_own)
    if trial.kind == "directory removed":
        saved = steps = 0
    goes_on = not kind.ends and GOES_ON in expected and trial.kind not in _BLIND
    if goes_on and not (trial.kind == "environment hangs" and trial.moment == "evaluation"):
        seconds = LIMIT_SECONDS if steps else PATIENCE_SECONDS  # it may still be starting
        if trial.kind != "environment has children" and not command.until(
            lambda: command.last("steps") > steps, seconds, timed=bool(steps)
        ):
            yield f"hung: no step more than {steps}, status {command.poll()}"
    elif not kind.ends:
        command.until(lambda: False, 1.0)
    if GOES_ON in expected or trial.kind in _BLIND:
        command.send(signal.SIGTERM)
    if not command.until(lambda: command.poll() is not None, LIMIT_SECONDS, timed=True):
        yield f"hung: not ended {LIMIT_SECONDS} s later"
        return
    yield from _of_the_end(command, expected)
    before_the_end = time.monotonic() + LIMIT_SECONDS
    while (left := _left(command)) and time.monotonic() < before_the_end:
        time.sleep(0.02)
    if left:
        yield f"left: {left}"
    if trial.kind == "read-only directory":
        for path in command.folders():
            path.chmod(0o755)
    if saved and (lost := _lost(command, saved)):
        yield f"lost: {lost}"


def _of_the_end(command: Command, expected: tuple[int, ...]) -> Iterator[str]:
    status, err = command.poll(), command.err.read_text(errors="replace")
    text = command.out.read_text(errors="replace") + err
    if status not in expected:
        yield f"wrong: status {status}, not {expected}"
    if "Traceback" in text or "Error ignored" in text or "Exception ignored" in text:
        yield "wrong: a traceback"
    if status in (1, 2) and command.trial.kind != "closed output":
        lines = [line for line in err.splitlines() if line.startswith("troupe: ")]
        if len(lines) != 1:
            yield f"wrong: {len(lines)} lines say why"
    silent = status in (0, GOES_ON) and not command.trial.kind.endswith(("prints", "output", "file sizes"))
    silent = silent and not command.trial.kind.startswith("terminal")
    if silent and err not in ("", "troupe: interrupted\n"):
        yield "wrong: something else on standard error"


def _left(command: Command) -> list[Any]:
    status = command.poll() or 0
    files = [] if status < 0 or status == 3 else [path.name for path in (command.folder / "tmp").iterdir()]
    memory = [name for name in os.listdir("/dev/shm") if str(command.pid) in name]
    return [f"process {pid}" for pid in command.processes()] + files + memory


def _lost(command: Command, saved: int) -> str:
    """Why the newest checkpoint cannot be loaded, or is older than that of `saved` steps. In a process of its own, so
    that this one remains without threads."""
    reading, writing = os.pipe()
    if (pid := os.fork()) == 0:
        result = ""
        try:
            import troupe
            from troupe.runs.store import checkpoint

            runs = command.runs()
            newest = max((checkpoint.load(run, print).state.counts.steps, str(run)) for run in runs)
            result = f"loaded {newest[0]} steps of {saved}" if newest[0] < saved else ""
            troupe.load(newest[1]).act([0.0, 0.0])
        except BaseException as error:
            result = f"{type(error).__name__}: {error}"
        os.write(writing, result.encode()[:4000])
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as result:
        text = result.read()
    os.waitpid(pid, 0)
    return text


@contextmanager
def _folder(trial: Trial) -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="faults-"))
    disk = folder / "disk"
    if trial.kind in _TMPFS:
        disk.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)], check=True)
    try:
        yield folder
    finally:
        if trial.kind in _TMPFS:
            subprocess.run(["umount", "-l", str(disk)], check=True)
        shutil.rmtree(folder, ignore_errors=True)


def work(trials: list[Trial], file: Path, seconds: float) -> None:
    """Carries trials out, one after another, until the time is over."""
    end = time.monotonic() + seconds
    for trial in trials:
        if time.monotonic() > end:
            return
        with _folder(trial) as folder:
            command = Command(trial, folder)
            try:
                found = list(follow(command))
            finally:
                command.remove()
            row = asdict(trial) | {"status": command.poll(), "hit": command.hit, "found": found}
            row |= {"seconds": round(command.seconds, 2), "limit_seconds": LIMIT_SECONDS}
            if found:
                texts = (text.read_text(errors="replace")[-1500:] for text in (command.out, command.err))
                row |= dict(zip(("out", "err"), texts, strict=True))
        with file.open("a") as lines:
            lines.write(json.dumps(row) + "\n")
        result = "; ".join(found) or f"{'fine' if command.hit else 'missed'}, {command.seconds:.1f} s"
        print(f"{trial.number} {trial.kind} ({trial.topology}, {trial.moment}): {result}", flush=True)


def report(file: Path, seed: int) -> None:
    """Adds these trials to those of other seeds that the results have."""
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    kinds = {kind: counts(each for each in rows if each["kind"] == kind) for kind in KINDS}
    series = {"seed": seed, "trials": len(rows), "limit_seconds": max(row["limit_seconds"] for row in rows)}
    results = RESULTS / "faults.json"
    others = json.loads(results.read_text())["series"] if results.exists() else []
    others = [each for each in others if each["seed"] != seed]
    write("faults", {"series": sorted([*others, series | {"kinds": kinds}], key=lambda each: each["seed"])})
    for kind, found in kinds.items():
        print(f"{kind:36}", *(f"{word} {value:5}" for word, value in found.items()))


def counts(rows: Iterable[dict[str, Any]]) -> dict[str, float]:
    rows = list(rows)
    hits = [row for row in rows if row["hit"] or row["found"]]
    words = Counter(word for row in hits for word in {found.partition(":")[0] for found in row["found"]})
    # By the 5 s of the promise, whatever limit there was on a busy machine.
    late = sum(row["seconds"] > PROMISED_SECONDS and "hung" not in str(row["found"]) for row in hits)
    fine = sum(not row["found"] and row["seconds"] <= PROMISED_SECONDS for row in hits)
    return {
        "tried": len(hits), "fine": fine, "lost": words["lost"], "hung": words["hung"] + late, "left": words["left"],
        "wrong": words["wrong"], "missed": len(rows) - len(hits),
        "slowest": max((row["seconds"] for row in hits), default=0.0),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", choices=["run", "report"], default="run")
    parser.add_argument("--count", type=int, default=1000, help="trials, with those that are done already")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", choices=list(KINDS), metavar="KIND", help=", ".join(KINDS))
    parser.add_argument("--folder", type=Path, default=Path("build/faults"))
    parser.add_argument("--numbers", type=int, nargs="*", help="these trials alone")
    parser.add_argument("--seconds", type=float, default=1e9, help="no trial begins later")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    file = options.folder / f"seed{options.seed}{'-' + options.only if options.only else ''}.jsonl"
    if options.what == "report":
        report(file, options.seed)
        return
    os.environ["OPENBLAS_NUM_THREADS"] = "1"
    from troupe import trainer  # noqa: F401
    from troupe.runs.report import plots  # noqa: F401

    assert len(os.listdir("/proc/self/task")) == 1, "a process with threads must not be forked"
    done = {json.loads(line)["number"] for line in file.read_text().splitlines()} if file.exists() else set()
    numbers = options.numbers or [number for number in range(options.count) if number not in done]
    trials = [Trial.draw(options.seed, number, options.only) for number in numbers]
    fork = multiprocessing.get_context("fork")
    workers = [fork.Process(target=work, args=(trials[part::JOBS], file, options.seconds)) for part in range(JOBS)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    sys.exit(max(worker.exitcode or 0 for worker in workers))


if __name__ == "__main__":
    main()
