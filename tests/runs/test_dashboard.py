"""The data of `troupe dashboard`, its server, and the file of `troupe report`."""

import json
import os
import re
import socket
import tempfile
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from werkzeug.test import Client

from troupe import UsageError, cli
from troupe.config import resolve, to_toml
from troupe.runs.dashboard import shown
from troupe.runs.dashboard.columns import POINTS, as_lists, spacing, thinned
from troupe.runs.dashboard.folder import Folder
from troupe.runs.dashboard.page import page
from troupe.runs.dashboard.server import application, make
from troupe.runs.report.lines import WINDOW
from troupe.runs.store.lock import FILE, Lock, is_held

EVIL = "<img src=x onerror=alert(1)>"


def report(steps: int, **more: Any) -> dict[str, Any]:
    numbers = {"return_mean": steps / 10, "return_min": 0.0, "return_max": steps / 5, "lag_mean": 1.0, "lag_max": 3}
    shares = {"actor": {"env": 0.2, "wait": 0.7}, "learner": {"learn": 0.9, "wait": 0.1}}
    words = {"episodes": steps, "recent_return": steps / 10, "shares": shares, "bottleneck": "learner: learn"}
    return {"kind": "report", "wall": 1e9, "seconds": steps / 100, "steps": steps, **numbers, **words, **more}


def evaluation(steps: int) -> dict[str, Any]:
    numbers = {"mean": 2.5, "min": 1.0, "max": 4.0, "episodes": 20}
    return {"kind": "evaluation", "purpose": "progress", "seconds": steps / 100, "steps": steps, **numbers}


def write(run: Path, *rows: dict[str, Any], seed: int = 0, **settings: Any) -> Path:
    run.mkdir(parents=True, exist_ok=True)
    (run / "config.toml").write_text(to_toml(resolve("CartPole-v1", "appo", {"seed": seed, **settings})))
    append(run, *rows)
    return run


def append(run: Path, *rows: dict[str, Any], end: str = "\n") -> None:
    with (run / "metrics.jsonl").open("a") as file:
        file.write("".join(f"{json.dumps(row)}{end}" for row in rows))


@pytest.fixture(autouse=True)
def _looks_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("troupe.runs.dashboard.folder._LEAST_SECONDS", 0.0)


def read(folder: Folder, after: float = 0.0) -> dict[str, Any]:
    """The answer once everything has been read."""
    while (answer := folder.answer(after))["reading"]:
        pass
    return answer


def only(root: Path) -> dict[str, Any]:
    (run,) = read(Folder(root))["runs"]
    return run


def test_a_run_has_its_curves_its_words_its_events_and_its_settings(tmp_path: Path):
    write(tmp_path / "one", report(100), evaluation(100), report(200, own={"height": 7.0}))
    run = only(tmp_path)
    assert run["curves"]["steps"]["x"] == pytest.approx([100, 200], abs=1)
    assert run["curves"]["steps"]["high"] == [20, 40]
    assert run["curves"]["steps"]["lag_max"] == [3, 3]
    assert run["curves"]["steps"]["own.height"] == [None, 7]
    assert run["curves"]["seconds"]["return_x"] == pytest.approx([1, 2], abs=0.01)
    assert run["words"]["limits"] == "the learner is the bottleneck (learn 90 %): the actors wait 70 % of the time"
    assert run["words"]["speed"] == "-"  # not known yet
    assert [event["words"] for event in run["events"]] == ["evaluation: 2.50, from 1.00 to 4.00, 20 episodes"]
    assert run["settings"]["learner.learning_rate"] == "0.003"
    assert (run["environment"], run["preset"], run["seed"], run["state"]) == ("CartPole-v1", "appo", "0", "interrupted")


def test_the_log_says_what_each_event_was(tmp_path: Path):
    collapse = evaluation(150) | {"kind": "collapse", "answer": "rollback"}
    gap = {"kind": "gap", "steps": 200, "seconds": 2.0, "from_steps": 1500}
    write(tmp_path / "one", report(100), collapse, collapse | {"answer": "warn"}, gap, report(300))
    assert [event["words"] for event in only(tmp_path)["events"]] == [
        "collapse: evaluation 2.50; back to the best weights",
        "collapse: evaluation 2.50; reported",
        "no metrics from step 1,500 on: they could not be written, or the run was killed",
    ]


def test_how_far_a_run_is_follows_from_its_limit_on_steps(tmp_path: Path):
    write(tmp_path / "one", report(100), report(200), **{"stop.steps": 800, "stop.target": "none"})
    assert only(tmp_path)["words"]["fraction"] == 0.25


def test_a_row_that_names_no_bottleneck_has_no_words_for_it(tmp_path: Path):
    row = report(100)
    del row["bottleneck"]
    write(tmp_path / "one", row)
    assert only(tmp_path)["words"]["limits"] == ""


def test_a_name_of_a_row_that_looks_like_a_callbacks_is_none(tmp_path: Path):
    write(tmp_path / "one", report(100, **{"own.height": 3.0}, own={"width": 1.0}))
    assert [name for name in only(tmp_path)["curves"]["steps"] if name.startswith("own.")] == ["own.width"]


def test_a_run_that_begins_later_joins_its_group(tmp_path: Path):
    write(tmp_path / "one", report(100), seed=1)
    folder = Folder(tmp_path)
    assert [group["runs"] for group in read(folder)["groups"]] == [["one"]]
    write(tmp_path / "two", report(100), seed=2)
    folder._listed = 0.0
    assert [sorted(group["runs"]) for group in read(folder)["groups"]] == [["one", "two"]]


def test_an_answer_has_only_what_has_changed_since_the_one_before(tmp_path: Path):
    write(tmp_path / "one", report(100))
    write(tmp_path / "two", report(100))
    folder = Folder(tmp_path)
    now = read(folder)["now"]
    append(tmp_path / "two", report(200))
    answer = read(folder, now)
    assert [run["words"]["steps"] for run in answer["runs"]] == ["200"]
    assert answer["ids"] == ["one", "two"]
    assert read(folder, answer["now"])["runs"] == []


def test_a_row_that_is_being_written_waits_and_nonsense_is_skipped(tmp_path: Path):
    run = write(tmp_path / "one", report(100), report(150, return_mean="much"), report(160) | {"steps": None})
    (run / "metrics.jsonl").open("ab").write(b'\xff\n[]\n7\n{"kind": 3}\n' + b"[" * 5000 + b"\n")
    row = json.dumps(report(200))
    append(run, end="")
    (run / "metrics.jsonl").open("a").write(row[:50])
    folder = Folder(tmp_path)
    assert read(folder)["runs"][0]["words"]["steps"] == "100"
    (run / "metrics.jsonl").open("a").write(row[50:] + "\n")
    assert read(folder)["runs"][0]["words"]["steps"] == "200"


def test_what_a_resumed_run_repeated_is_shown_once(tmp_path: Path):
    run = write(tmp_path / "one", report(100), report(200), evaluation(250), report(300))
    folder = Folder(tmp_path)
    read(folder)
    append(run, {"kind": "resume", "steps": 205, "seconds": 2.05}, report(210), evaluation(220), report(400))
    shown_run = read(folder)["runs"][0]
    assert shown_run["curves"]["steps"]["x"] == pytest.approx([100, 200, 210, 400], abs=1)
    assert [(event["steps"], event["kind"]) for event in shown_run["events"]] == [(205, "resume"), (220, "evaluation")]
    assert shown_run["events"][0]["words"] == "resumed"


def test_a_metrics_file_that_was_replaced_is_read_anew_and_a_deleted_run_vanishes(tmp_path: Path):
    run = write(tmp_path / "one", report(100), report(200))
    folder = Folder(tmp_path)
    read(folder)
    (run / "metrics.jsonl").write_text("")
    append(run, report(50))
    assert read(folder)["runs"][0]["curves"]["steps"]["x"] == pytest.approx([50], abs=0.5)
    for file in run.iterdir():
        file.unlink()
    folder._listed = 0.0
    assert read(folder)["ids"] == []


def test_a_long_run_is_a_sample_until_all_of_it_has_been_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(shown, "PART_BYTES", 2**16)
    monkeypatch.setattr("troupe.runs.dashboard.reading.PART_BYTES", 2**16)
    monkeypatch.setattr("troupe.runs.dashboard.folder._READING_SECONDS", 0.0)
    run = write(tmp_path / "one", *(report(number) for number in range(1, 3001)), evaluation(3000))
    folder = Folder(tmp_path)
    first = folder.answer()
    assert first["reading"] == 1
    assert first["runs"][0]["words"]["steps"] == "3,000"
    assert len(first["runs"][0]["curves"]["steps"]["x"]) > 50
    whole = read(folder)["runs"][0]
    assert len(folder.run("one")._metrics.table) == 3000  # type: ignore[union-attr]
    assert [event["steps"] for event in whole["events"]] == [3000]
    assert run.is_dir()


def test_five_seeds_have_a_mean_with_a_band_and_fewer_have_none(tmp_path: Path):
    for seed in range(5):
        write(tmp_path / f"fast{seed}", report(100), report(200), seed=seed, **{"learner.learning_rate": 0.1})
    for seed in range(4):
        write(tmp_path / f"slow{seed}", report(100), report(200), seed=seed, **{"learner.learning_rate": 0.01})
    slow, fast = sorted(read(Folder(tmp_path))["groups"], key=lambda group: len(group["runs"]))
    assert (fast["name"], len(fast["runs"]), slow["name"]) == (
        "appo · learner.learning_rate=0.1", 5, "appo · learner.learning_rate=0.01"
    )  # fmt: skip
    assert slow["bands"] == {}
    band = fast["bands"]["steps"]
    assert band["low"] == band["mean"] == band["high"]  # all five are alike
    assert band["mean"][-1] == 20


def test_a_run_that_trains_belongs_to_those_whose_settings_were_measured(tmp_path: Path):
    for seed, actors in ((1, 4), (2, 8)):
        run = write(tmp_path / f"done{seed}", report(100), seed=seed, **{"actor.count": actors})
        (run / "summary.json").write_text('{"outcome": "steps", "measured": ["actor.count"]}')
    write(tmp_path / "trains", report(100), seed=3, **{"actor.count": 2})
    assert [group["name"] for group in read(Folder(tmp_path))["groups"]] == ["appo"]


def test_what_was_measured_is_known_once_there_is_a_checkpoint(tmp_path: Path):
    run = write(tmp_path / "trains", report(100), **{"actor.count": 2})
    folder = Folder(tmp_path)
    assert read(folder)["runs"][0]["settings"]["actor.count"] == "2"
    (run / "checkpoints/100").mkdir(parents=True)
    (run / "checkpoints/100/state.json").write_text('{"target": null, "measured": ["actor.count"]}')
    assert read(folder)["runs"][0]["settings"]["actor.count"] == "auto"


def test_the_page_says_over_how_much_lines_are_smoothed():
    assert f"smoothed ({WINDOW})" in page(None)


def test_columns_become_few_points_at_multiples_of_a_power_of_two():
    x = np.arange(1.0, 10_001)
    places, mean, low, high = thinned(x, np.column_stack([x, np.full_like(x, np.nan)]))
    assert POINTS / 2 < len(places) <= POINTS
    assert np.diff(places) == pytest.approx(spacing(10_000)) == pytest.approx(64)
    assert (low[0, 0], high[0, 0], mean[0, 0]) == (1, 63, 32)
    assert np.isnan(mean[:, 1]).all()
    assert as_lists({"a": np.array([1 / 3, np.nan, 123456.0]), "b": mean[:, 1]}) == {
        "a": [0.33333, None, 123460],
        "b": [],
    }


def test_a_run_that_trains_is_told_from_one_that_was_killed(tmp_path: Path):
    run = write(tmp_path / "one", report(100))
    lock = Lock(run)
    assert only(tmp_path)["state"] == "training"
    lock.release()
    assert only(tmp_path)["state"] == "interrupted"
    (run / FILE).write_text(f"process {2**22 + 1} on {socket.gethostname()}\n")  # above the largest number there is
    assert not is_held(run)
    (run / FILE).write_text("process 1 on another-host\n")
    assert is_held(run)


def test_a_failed_run_shows_its_traceback_and_its_outcome(tmp_path: Path):
    run = write(tmp_path / "one", report(100))
    (run / "summary.json").write_text('{"outcome": "failed"}')
    (run / "error.txt").write_text(f"ValueError: {EVIL}")
    assert only(tmp_path)["error"] == f"ValueError: {EVIL}"
    assert only(tmp_path)["state"] == "failed"


def test_a_folder_without_runs_waits_for_them(tmp_path: Path):
    folder = Folder(tmp_path)
    assert read(folder)["ids"] == []
    write(tmp_path / "one", report(100))
    folder._listed = 0.0
    assert read(folder)["ids"] == ["one"]


NUMBERS = st.one_of(
    st.none(), st.floats(allow_nan=False, allow_infinity=False), st.integers(-5, 5), st.text(max_size=3)
)
NESTED = st.one_of(NUMBERS, st.lists(NUMBERS, max_size=2), st.dictionaries(st.sampled_from(["learner", "a"]), NUMBERS))
FIELDS = st.sampled_from([*report(1), "own", "mean", "purpose", "from_steps", "queue_depth", "policy_loss"])
ROWS = st.dictionaries(FIELDS, NESTED, max_size=6).map(lambda row: {"kind": "report", "steps": 3, "seconds": 1.0} | row)


@given(
    st.lists(ROWS, max_size=8), st.sampled_from(["", "tuned = [1]", "preset = {a = 1}", "[stop]\nseconds = inf", "="])
)
@example([{"kind": "report", "steps": 3, "seconds": 1.0, "own": None}], "")
def test_no_file_of_a_stranger_breaks_the_page(rows: list[dict[str, Any]], settings: str):
    with tempfile.TemporaryDirectory() as folder:
        for name in ("one", "two"):
            run = Path(folder) / name
            run.mkdir()
            (run / "config.toml").write_text(settings)
            append(run, *rows)
        (Path(folder) / "two/checkpoints").write_text("no folder")
        assert msgspec.json.encode(read(Folder(Path(folder))))


def test_a_folder_that_is_a_run_itself_and_names_that_are_no_text(tmp_path: Path):
    run = write(tmp_path / "one", report(100))
    (run / "videos").mkdir()
    (run / os.fsdecode(b"videos/\xff.mp4")).touch()
    assert read(Folder(run))["ids"] == ["one"]
    run.rename(tmp_path / os.fsdecode(b"\xff"))
    assert b"\xef\xbf\xbd" in msgspec.json.encode(read(Folder(tmp_path)))


# The server


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "runs"
    run = write(root / "one", report(100))
    (run / "videos").mkdir()
    (run / "videos/agent.mp4").write_bytes(b"0123456789")
    (tmp_path / "secret.mp4").write_bytes(b"secret")
    return root


@pytest.fixture
def client(root: Path) -> Client:
    folder = Folder(root)
    read(folder)
    return Client(application(folder, "127.0.0.1"))


def status(client: Client, path: str, **more: Any) -> int:
    return client.get(path, **{"base_url": "http://127.0.0.1:8770"} | more).status_code


def test_the_page_the_data_and_a_part_of_a_video_are_served(client: Client):
    html = client.get("/", base_url="http://localhost:8770")
    assert (html.status_code, html.headers["X-Content-Type-Options"]) == (200, "nosniff")
    assert "http:" not in re.sub(r"http://www\.w3\.org\S*|https?://github\S*", "", html.text)  # nothing from elsewhere
    assert client.get("/data?after=nonsense", base_url="http://[::1]:8770").json["ids"] == ["one"]  # type: ignore[index]
    part = client.get("/file/one/videos/agent.mp4", base_url="http://127.0.0.1", headers={"Range": "bytes=2-4"})
    assert (part.status_code, part.data, part.mimetype) == (206, b"234", "video/mp4")


@pytest.mark.parametrize(("name", "kind"), [("a.gif", "image/gif"), ("a.webm", "video/webm")])
def test_other_kinds_of_videos_are_sent_as_what_they_are(root: Path, name: str, kind: str):
    (root / "one/videos" / name).write_bytes(b"0123456789")
    folder = Folder(root)
    read(folder)
    answer = Client(application(folder, "127.0.0.1")).get(f"/file/one/videos/{name}", base_url="http://127.0.0.1")
    assert (answer.status_code, answer.mimetype) == (200, kind)


@pytest.mark.parametrize(
    "path",
    [
        "/file/one/config.toml", "/file/one/videos/../config.toml", "/file/one/videos/%2e%2e/config.toml",
        "/file/../secret.mp4", "/file/one/videos/../../../secret.mp4", "/file//etc/videos/passwd", "/etc/passwd",
        "/file/one/videos/", "/file/one/videos/agent.mp4/..", "/file/one/videos/linked.mp4", "/file/two/videos/a.mp4",
        "/file/one/videos/folder.mp4", "/file/one/../one/videos/agent.mp4", "/file/linked/videos/a.mp4", "//a/file",
    ],
)  # fmt: skip
def test_nothing_but_the_videos_of_runs_is_served(client: Client, root: Path, path: str):
    (root / "one/videos/linked.mp4").symlink_to(root.parent / "secret.mp4")
    (root / "linked").symlink_to(write(root.parent / "elsewhere", report(1)))
    (root / "one/videos/folder.mp4").mkdir()
    assert status(client, path) == 404
    assert "elsewhere" not in client.get("/data", base_url="http://127.0.0.1").text


@pytest.mark.parametrize("name", ["config.toml", "summary.json", "error.txt", "metrics.jsonl", "videos"])
def test_a_link_that_leads_out_of_the_folder_is_not_followed(client: Client, root: Path, name: str):
    other = write(root.parent / "elsewhere", report(1, recent_return=7777.0), **{"learner.learning_rate": 0.7777})
    (other / "summary.json").write_text('{"outcome": "failed", "measured": [], "target": 7777}')
    (other / "error.txt").write_text("7777")
    (other / "videos").mkdir()
    (other / "videos/7777.mp4").write_bytes(b"7777")
    (root / "one/summary.json").write_text('{"outcome": "failed"}')
    file = root / "one" / name
    if name == "videos":
        (file / "agent.mp4").unlink()
        file.rmdir()
    file.unlink(missing_ok=True)
    file.symlink_to(other / name)
    assert "7777" not in client.get("/data", base_url="http://127.0.0.1").text
    assert status(client, "/file/one/videos/7777.mp4") == 404


def test_a_link_in_a_circle_and_a_pipe_are_left_alone(client: Client, root: Path):
    (root / "one/error.txt").symlink_to(root / "one/error.txt")
    os.mkfifo(root / "one/videos/pipe.mp4")
    write(root / "two", report(1))
    (root / "two/metrics.jsonl").unlink()
    os.mkfifo(root / "two/metrics.jsonl")
    assert client.get("/data", base_url="http://127.0.0.1").json["ids"] == ["one"]  # type: ignore[index]


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8770", "127.0.0.1.evil.example", "localhost.evil.example", "::1.evil", ""]
)
def test_a_host_name_that_is_not_ours_is_refused(client: Client, host: str):
    assert status(client, "/data", headers={"Host": host}) == 403


def test_only_reading_is_allowed(client: Client):
    for method in ("post", "put", "delete", "patch", "options"):
        assert getattr(client, method)("/data", base_url="http://127.0.0.1").status_code == 405


def test_an_address_that_others_can_reach_needs_to_be_asked_for(tmp_path: Path):
    with pytest.raises(UsageError, match=r"--host 0\.0\.0\.0 would show the runs to everybody .* add --remote"):
        make(tmp_path, "0.0.0.0", 0)
    with make(tmp_path, "0.0.0.0", 0, remote=True) as server:
        assert server.port > 0


def test_wrong_usage_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        assert cli.run(["dashboard", str(tmp_path), "--port", str(port)]) == 2
    assert cli.run(["dashboard", str(tmp_path / "none")]) == 2
    assert cli.run(["dashboard", str(tmp_path), "--host", "no.such.host.invalid", "--remote"]) == 2
    assert cli.run(["dashboard", str(tmp_path), "--port", "70000"]) == 2
    assert cli.run(["report", str(tmp_path), "-o", str(tmp_path / "a.html")]) == 2
    assert cli.run(["report", str(tmp_path), "-o", str(tmp_path / "a.pdf")]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith(
        f"troupe: cannot serve at 127.0.0.1, port {port}: address already in use; --port N takes another one"
    )
    assert lines[1] == f"troupe: no folder '{tmp_path / 'none'}'"
    assert "is not a run directory: it has no metrics.jsonl" in lines[4]
    assert len(lines) == 6


# The file of one run


def test_a_report_is_one_file_with_the_video_inside(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (root / "one/videos/long.mp4").write_bytes(b"0" * (4 * 2**20 + 1))
    assert cli.run(["report", str(root / "one"), "-o", str(tmp_path / "a.html")]) == 0
    assert capsys.readouterr().out == f"wrote {tmp_path / 'a.html'}; too large for it: long.mp4\n"
    html = (tmp_path / "a.html").read_text()
    assert "data:video/mp4;base64,MDEyMzQ1Njc4OQ==" in html
    assert "4.0 MB, not in this file" in html


def test_a_name_is_never_html(tmp_path: Path):
    name = "</script><script>alert(1)<!--"
    write(tmp_path / name.replace("/", "_"), report(100), **{"env.wrappers": [f"{EVIL}:{name}"]})
    html = page(read(Folder(tmp_path)))
    assert "<img" not in html
    assert html.count("<script") == 3
    assert "alert" in html  # it is there, as text
    assert "script-src 'sha256-" in html
