"""The first import: a line where somebody watches, and an interrupt that waits for its end."""

import os
import pty
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import troupe
from helpers import PATIENCE_SECONDS, slow
from troupe import importing


def test_an_interrupt_during_the_import_comes_after_it(tmp_path, monkeypatch):
    (tmp_path / "imports_slowly.py").write_text(
        "import os, signal\nos.kill(os.getpid(), signal.SIGINT)\nfor _ in range(1000): pass\nthing = 3\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(troupe._LAZY, "thing", "imports_slowly")
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        troupe.thing  # noqa: B018
    assert sys.modules["imports_slowly"].thing == 3
    assert troupe.thing == 3
    assert signal.getsignal(signal.SIGINT) is before


def test_a_line_is_shown_on_a_terminal_and_removed(monkeypatch, capsys):
    monkeypatch.delitem(sys.modules, "torch")
    with importing.import_announced():
        assert capsys.readouterr().out == ""  # nobody watches
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    with importing.import_announced():
        shown = capsys.readouterr().out
        assert shown == "importing PyTorch and Gymnasium ...\r"
    assert capsys.readouterr().out == f"{' ' * (len(shown) - 1)}\r"


def test_measurements_are_announced_where_somebody_watches(monkeypatch, capsys):
    with pytest.raises(troupe.UsageError):
        troupe.train("Nowhere-v0")
    assert capsys.readouterr().out == ""
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    for display, shown in (("auto", "making and measuring environments ..."), ("quiet", "")):
        with pytest.raises(troupe.UsageError):
            troupe.train("Nowhere-v0", display=display)
        assert capsys.readouterr().out == (f"{shown}\r{' ' * len(shown)}\r" if shown else "")


@pytest.mark.parametrize("terminal", [True, False])
def test_train_shows_it_before_it_imports_anything_slow(tmp_path, terminal):
    """By a stand-in for torch that ends the command."""
    (tmp_path / "torch.py").write_text("raise SystemExit(7)\n")
    reading, writing = pty.openpty() if terminal else os.pipe()
    words = [sys.executable, "-m", "troupe", "train", "CartPole-v1"]
    paths = {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(Path(troupe.__file__).parent.parent)])}
    status = subprocess.run(words, stdout=writing, env=os.environ | paths, timeout=PATIENCE_SECONDS).returncode
    os.close(writing)
    assert status == 7
    assert os.read(reading, 1000).startswith(b"importing PyTorch and Gymnasium ..." + (b"\r" if terminal else b"\n"))
    os.close(reading)


def test_a_reader_who_has_gone_ends_no_run(monkeypatch):
    def gone(text):
        raise BrokenPipeError

    monkeypatch.delitem(sys.modules, "torch")
    monkeypatch.setattr(sys.stdout, "write", gone)
    with importing.import_announced(in_files=True):
        done = True
    assert done


@pytest.mark.parametrize("seconds", [slow(0.1), slow(0.5)])
def test_training_works_after_an_interrupt_in_the_first_second(tmp_path, seconds):
    script = f"""
import os, signal, threading, troupe
threading.Timer({seconds}, os.kill, (os.getpid(), signal.SIGINT)).start()
try:
    troupe.train
    threading.Event().wait(240)  # for an import that was faster than the signal
except KeyboardInterrupt:
    pass
settings = {{"topology": "serial", "actor.count": 1, "evaluation.final_episodes": 1}}
print(troupe.train("CartPole-v1", steps=100, settings=settings, run_dir={str(tmp_path / "run")!r}).outcome)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=PATIENCE_SECONDS)
    assert (done.returncode, done.stdout) == (0, "steps\n"), done.stderr
