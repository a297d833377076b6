"""`troupe.watch`: where an agent is shown, and with what."""

from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import troupe
from troupe.runs.show import watch as watching
from troupe.runs.show.watch import video_without_display


class Shown:
    """Stands in for what loads and shows; remembers how each was called."""

    def __init__(self) -> None:
        self.calls: list[Any] = []
        self.threads = 2
        self.display = True

    def load(self, run: Any, **passed: Any) -> Any:
        self.calls.append(("load", run, passed))
        return "agent", SimpleNamespace(config=SimpleNamespace(env="its settings"))

    def environment(self, *given: Any) -> Any:
        self.calls.append(("environment", given[0], given[2]))
        return SimpleNamespace(make=lambda mode, *, config: (mode, config))

    def by(self, name: str) -> Any:
        def show(agent: Any, make: Any, *how: Any) -> list[float]:
            assert (agent, make("rgb_array")) == ("agent", ("rgb_array", "its settings"))
            self.calls.append((name, self.threads, *how))
            return [1.0, 2.0]

        return show

    @contextmanager
    def one_thread(self):
        self.threads = 1
        yield
        self.threads = 2


@pytest.fixture
def shown(monkeypatch) -> Shown:
    shown = Shown()
    monkeypatch.setattr(watching, "load_with_code", shown.load)
    monkeypatch.setattr(watching, "environment_of", shown.environment)
    monkeypatch.setattr(watching, "one_torch_thread", shown.one_thread)
    monkeypatch.setattr(watching.window, "has_display", lambda: shown.display)
    for name in ("record", "show_terminal", "show_window"):
        monkeypatch.setattr(watching, name, shown.by(name))
    return shown


def test_an_agent_is_shown_in_a_window_in_the_terminal_or_as_a_video(shown, tmp_path, capsys):
    assert troupe.watch(tmp_path, episodes=4, seed=7) == [1.0, 2.0]
    nothing = {"trusted": False, "env": None, "network": None, "encoder": None, "backend": None}
    assert shown.calls[:2] == [("load", tmp_path, nothing), ("environment", "agent", None)]
    assert shown.calls[2] == ("show_window", 1, 4, 7)
    troupe.watch(tmp_path, terminal=True)
    assert shown.calls[-1][:4] == ("show_terminal", 1, 3, 0)
    troupe.watch(tmp_path, video="a.gif", episodes=1)
    assert shown.calls[-1] == ("record", 1, Path("a.gif"), 1, 0)
    assert capsys.readouterr().out == ""
    assert shown.threads == 2


def test_callables_that_a_run_needs_are_passed_on(shown, tmp_path):
    network: Any = "network"
    troupe.watch(tmp_path, env="X-v0", network=network, encoder="encoder", backend="backend", trust=True)
    passed = {"network": "network", "encoder": "encoder", "backend": "backend"}
    assert shown.calls[0][2] == {"trusted": True, "env": "X-v0"} | passed
    assert shown.calls[1] == ("environment", "agent", "X-v0")


def test_without_a_display_a_video_is_written_where_it_is_found_again(shown, tmp_path, capsys):
    shown.display = False
    (tmp_path / "config.toml").touch()
    assert troupe.watch(tmp_path) == [1.0, 2.0]
    assert shown.calls[-1] == ("record", 1, tmp_path / "videos" / "agent.mp4", 3, 0)
    assert capsys.readouterr().out == f"wrote {tmp_path}/videos/agent.mp4\n"
    assert (tmp_path / "videos").is_dir()
    troupe.watch(tmp_path, terminal=True)
    troupe.watch(tmp_path, video=tmp_path / "b.mp4")
    assert [call[0] for call in shown.calls if call[0][:4] in ("show", "reco")] == ["record", "show_terminal", "record"]
    assert capsys.readouterr().out == ""
    assert video_without_display(tmp_path / "checkpoints" / "5") == Path("agent.mp4")
    shown.display = True
    assert video_without_display(tmp_path) is None
