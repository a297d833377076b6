"""The run's side of an actor's process: starts it, requests rollouts, detects that it is dead or hangs.

No lock is shared with it, so it can be killed at any moment without harm to anything else.
"""

import errno
import multiprocessing
import os
import signal
import threading
import time
from concurrent.futures import Future
from contextlib import suppress
from multiprocessing.connection import Connection

from troupe.config import TroupeError, UsageError, one_line
from troupe.runtime.acting.actor_plan import ActorPlan
from troupe.runtime.data.buffers import RolloutBuffers
from troupe.runtime.data.rollout import Rollout
from troupe.runtime.data.shared_memory import Block
from troupe.runtime.execution.gate import Closed, Gate
from troupe.runtime.execution.hang_detector import HangDetector, hung
from troupe.runtime.execution.process_child import Request, decode_report, encode, run_actor
from troupe.runtime.execution.process_launch import no_main, process_context, signals_blocked
from troupe.runtime.progress import Counts, Delta, Stopwatch

_POLL_SECONDS = 0.1
_CLOSE_SECONDS = 0.6  # for an environment to close in order before its process is killed
_GRACE_SECONDS = 0.3  # a signal to all processes of a run may reach an actor before the run itself
_STACK_SECONDS = 2.0  # for a process to report its stack
AHEAD = 2  # slots that a process has at a time: it fills one while the other is on its way back


class ActorLost(Exception):
    """The process of an actor is dead, or had to be killed; another can replace it. The first line is the reason; those
    after it are a stack."""


class ActorFailed(TroupeError):
    """What an actor raised in its process; `trace` is the traceback from there."""

    def __init__(self, message: str, trace: str):
        super().__init__(message)
        self.add_note(f"in the actor's process:\n{trace}")


class ActorProcess:
    """An actor's process; used by one thread, which owns it."""

    def __init__(self, plan: ActorPlan, buffers: RolloutBuffers, gate: Gate, pulses: Block):
        self.number = plan.number
        self._plan, self._buffers = plan, buffers
        self._gate, self._pulses = gate, pulses
        self._process: multiprocessing.process.BaseProcess | None = None
        self._ends: list[Connection] = []
        self.generation = 0
        self.waiting: dict[int, Rollout] = {}  # slots the process has
        self.watch = Stopwatch()

    def start(self, hang_seconds: float) -> None:
        """Starts the process and waits until it is ready to play; raises what `receive` raises."""
        try:
            self._process = self._launch()
        except OSError as error:
            if error.errno not in (errno.EMFILE, errno.ENFILE):
                raise
            raise TroupeError(
                f"{error}: a process takes some; raise the limit (ulimit -n), or lower actor.count"
            ) from error
        self.receive(hang_seconds)

    def _launch(self) -> multiprocessing.process.BaseProcess:
        """Starts the process in a thread, so that the run can end while the server is still importing torch."""
        context = process_context()
        self._connection, connection = context.Pipe()
        self._ends = [self._connection]
        self._stacks, stacks = context.Pipe(duplex=False)
        self._ends.append(self._stacks)
        arguments = (
            connection, stacks, self._plan, self._buffers.block, self._buffers.slots, self._gate.switches, self._pulses,
            self.generation, dict(os.environ),
        )  # fmt: skip
        process = context.Process(target=run_actor, args=arguments, name=f"actor-{self.number}", daemon=True)
        done: Future[None] = Future()

        def launch() -> None:
            try:
                with no_main(), signals_blocked():
                    process.start()
                done.set_result(None)
            except BaseException as error:
                done.set_exception(error)
            finally:
                connection.close()
                stacks.close()

        threading.Thread(target=launch, name=f"launch-{self.number}", daemon=True).start()
        while not done.done():
            with suppress(TimeoutError):
                done.exception(_POLL_SECONDS)
            if self._gate.stopped and not done.done():
                raise Closed
        if isinstance(done.exception(), EOFError | ConnectionError):
            raise self._lost("the server that starts its process is gone")
        done.result()
        started: multiprocessing.process.BaseProcess = process
        return started

    @property
    def wants_more(self) -> bool:
        return len(self.waiting) < AHEAD

    def request(self, rollout: Rollout, counts: Counts) -> None:
        """Hands an empty rollout to the process."""
        self.waiting[rollout.slot] = rollout
        try:
            counted = counts.played, counts.steps, counts.updates, counts.failures
            self._connection.send_bytes(encode(Request(rollout.slot, *counted)))
        except OSError:
            raise self._lost(self._exit_message()) from None

    def receive(self, hang_seconds: float) -> tuple[Rollout | None, Delta]:
        """The next rollout that the process has filled, and what it has counted since the last one.

        Raises ActorLost when the process is dead, or has been killed for an environment that did not answer
        for `hang_seconds` (0: any time); ActorFailed with what the actor raised; Closed at the end of the run.
        """
        hang_detector = HangDetector(self._pulses["pulse"][self.number : self.number + 1], hang_seconds)
        while not self._connection.poll(_POLL_SECONDS):
            if self._gate.stopped:
                raise Closed
            # Processes that its environments have forked may hold its end of the pipe.
            if self._is_dead() and not self._connection.poll():
                raise self._lost(self._exit_message())
            if hang_detector.hangs():
                raise ActorLost(self._kill_hung(hang_seconds))
        try:
            report = decode_report(self._connection.recv_bytes())
        except (EOFError, OSError):
            raise self._lost(self._exit_message()) from None
        if report.error:
            raise ActorFailed(report.error, report.trace)
        self.watch.add(report.stage_seconds)
        rollout = self.waiting.pop(report.slot, None)
        if rollout is not None:
            rollout.pulls = report.pulls
        return rollout, report.delta

    def close(self) -> None:
        """Ends the process: in order if its environment closes in time, else by force."""
        if self._process is not None:
            self._connection.close()
            self._process.join(_CLOSE_SECONDS)
            # Even if it has ended: processes of its environments may be left.
            _kill(self._process)
            self._process.join(_CLOSE_SECONDS)
            self._process = None
        for end in self._ends:
            end.close()
        self._ends.clear()
        self._pulses["pulse"][self.number] = 0.0

    def _is_dead(self) -> bool:
        if self._process is None or self._process.is_alive():
            return False
        try:
            if os.name == "posix":
                os.kill(_pid_of(self._process), 0)  # the library believes all of them dead when their server is
                return False
        except ProcessLookupError:
            pass
        return True

    def _lost(self, why: str) -> Exception:
        """ActorLost; or Closed, where what ended the process is ending the run as well."""
        end = time.monotonic() + _GRACE_SECONDS
        while not self._gate.stopped and time.monotonic() < end:
            time.sleep(_GRACE_SECONDS / 10)
        return Closed() if self._gate.stopped else ActorLost(why)

    def _exit_message(self) -> str:
        assert self._process is not None
        self._process.join(_CLOSE_SECONDS)
        code = self._process.exitcode
        how = "stopped answering" if code is None else f"ended with status {code}"
        if code is not None and code < 0:
            how = f"was killed by {signal.Signals(-code).name}"
        return f"its process {how}"

    def _kill_hung(self, seconds: float) -> str:
        assert self._process is not None
        stack = self._request_stack(_pid_of(self._process)) if hasattr(signal, "SIGUSR1") else ""
        _kill(self._process)
        return hung(self._plan.source.value.id, seconds, stack.splitlines()[1:])

    def _request_stack(self, pid: int) -> str:
        """The process's stack, which its interpreter writes in pieces, without its lock."""
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGUSR1)
        stack, end = b"", time.monotonic() + _STACK_SECONDS
        while not self._gate.stopped and time.monotonic() < end:
            if self._stacks.poll(_POLL_SECONDS):
                piece = os.read(self._stacks.fileno(), 65536)
                if not piece:
                    break
                stack += piece
            elif stack:
                break
        return stack.decode(errors="replace")


def _pid_of(process: multiprocessing.process.BaseProcess) -> int:
    """Of one that was started: 0 or none would be this process's whole group to os.kill."""
    assert process.pid
    return process.pid


def _kill(process: multiprocessing.process.BaseProcess) -> None:
    """Kills the process and those that its environments have started."""
    process.kill()
    if hasattr(os, "killpg") and process.pid:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)


def check_sendable(plan: ActorPlan) -> None:
    """Raises UsageError where the environment or the network cannot be sent to a process."""
    source = plan.source.value
    wrong = (
        f"environment {source.id} cannot be sent to actor processes: {source.unsendable}" if source.unsendable else ""
    )
    if isinstance(plan.policy_source, tuple) and not wrong:
        try:
            plan.policy_source[0].__getstate__()
        except Exception as error:
            wrong = f"the network cannot be sent to actor processes: {one_line(error)}"
    if wrong:
        raise UsageError(
            f"{one_line(wrong)}; make inside the factory what it holds from outside (files, locks, "
            "connections), or set actor.placement to thread"
        )
