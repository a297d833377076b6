"""Runs of a series in processes of their own: as many at a time as may be, each noted, all told of a signal."""

import os
import signal
import threading
import time

import pytest

from helpers import PATIENCE_SECONDS
from troupe.config import TroupeError, UsageError
from troupe.side_by_side import side_by_side

pytestmark = pytest.mark.slow


def test_as_many_as_may_be_are_under_way_and_each_is_noted_once(tmp_path):
    def work(number):
        (tmp_path / f"begun{number}").touch()
        end = time.monotonic() + PATIENCE_SECONDS
        while number < 2 and not all((tmp_path / f"begun{each}").exists() for each in (0, 1)):
            assert time.monotonic() < end
            time.sleep(0.01)
        under_way = len(list(tmp_path.glob("begun*"))) - len(list(tmp_path.glob("ended*")))
        (tmp_path / f"ended{number}").touch()
        return number, under_way

    noted = {}
    side_by_side(range(4), work, 2, noted.__setitem__)
    assert sorted(noted) == [0, 1, 2, 3]
    assert all(noted[number][0] == number for number in noted)
    assert max(under_way for _, under_way in noted.values()) == 2


def test_a_process_that_dies_is_noted_as_an_error_and_the_others_go_on():
    def work(number):
        if number == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return number

    noted = {}
    side_by_side([0, 1], work, 2, noted.__setitem__)
    assert isinstance(noted[0], TroupeError)
    assert noted[1] == 1


def test_what_note_raises_ends_all(tmp_path):
    def work(number):
        (tmp_path / "pid").write_text(str(os.getpid()))
        time.sleep(PATIENCE_SECONDS if number else 0)

    def refuse(number, result):
        while not (tmp_path / "pid").exists():
            time.sleep(0.01)
        raise UsageError("wrong for all")

    with pytest.raises(UsageError, match="wrong for all"):
        side_by_side([0, 1], work, 2, refuse)


def test_a_signal_reaches_all_whose_results_are_noted(tmp_path):
    def work(number):
        try:
            (tmp_path / f"begun{number}").touch()
            time.sleep(PATIENCE_SECONDS)
        except KeyboardInterrupt:
            return f"{number} saved"

    def interrupt():
        while len(list(tmp_path.glob("begun*"))) < 2:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    noted = {}
    threading.Thread(target=interrupt, daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        side_by_side([0, 1, 2], work, 2, noted.__setitem__)
    assert noted == {0: "0 saved", 1: "1 saved"}
