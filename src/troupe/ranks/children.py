"""The ranks that a run with `learners` starts on this machine, as processes."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import cloudpickle

from troupe.config import UsageError, one_line
from troupe.runtime.execution.process_launch import signals_blocked


class Children:
    """Owns the processes it starts. Each reads what to do from its standard input and ends when that is closed, so also
    when this process ends, in whatever way."""

    def __init__(self) -> None:
        self._processes: dict[int, subprocess.Popen[bytes]] = {}

    def start(self, size: int, port: int, function: str, arguments: Mapping[str, Any]) -> None:
        """Starts ranks 1 to `size` - 1, which call `function` of troupe.trainer with `arguments`. Raises UsageError
        if these cannot be sent."""
        try:
            call = cloudpickle.dumps((function, dict(arguments)))
        except Exception as error:
            raise UsageError(
                f"learners = {size}: the environment or network cannot be sent to other processes: {one_line(error)}; "
                "name it as path/to/file.py:NAME"
            ) from error
        line = json.dumps([[str(folder) for folder in sys.path], call.hex()]).encode() + b"\n"
        for rank in range(1, size):
            rank_variables = {
                "RANK": rank,
                "LOCAL_RANK": rank,
                "WORLD_SIZE": size,
                "LOCAL_WORLD_SIZE": size,
                "MASTER_PORT": port,
            }
            variables = {
                **os.environ,
                "MASTER_ADDR": "127.0.0.1",
                **{name: str(value) for name, value in rank_variables.items()},
            }
            variables.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # otherwise torch reports every connection that ends
            with signals_blocked():  # Ctrl-C is for rank 0, which ends the others
                process = subprocess.Popen(
                    [sys.executable, "-m", "troupe.ranks.process"], stdin=subprocess.PIPE, stdout=2, env=variables
                )
            self._processes[rank] = process
            assert process.stdin is not None
            with suppress(BrokenPipeError):  # it has ended, which is noticed soon
                process.stdin.write(line)
                process.stdin.flush()

    def ended(self, rank: int) -> str:
        """How the process of `rank` ended; "" if it is running or was not started here."""
        process = self._processes.get(rank)
        status = process.poll() if process else None
        if status is None:
            return ""
        how = f"by {signal.Signals(-status).name}" if status < 0 else f"with exit status {status}"
        return f"its process ended {how}"

    def close(self, patience_seconds: float) -> None:
        """Waits for the processes to end, and kills those that do not end in time."""
        deadline = time.monotonic() + patience_seconds
        for process in self._processes.values():
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            if process.stdin:
                with suppress(OSError):
                    process.stdin.close()
