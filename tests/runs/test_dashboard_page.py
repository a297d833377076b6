"""The page of `troupe dashboard` and the file of `troupe report` in Chromium; skipped where that is not installed."""

import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers.browser import CHROMIUM, Browser
from runs.test_dashboard import EVIL, append, evaluation, report, write
from troupe.runs.dashboard.report import write_report
from troupe.runs.dashboard.server import make

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not CHROMIUM, reason="no Chromium is installed")]
DRAWN = "document.querySelectorAll('#returns canvas').length === 2"


@pytest.fixture
def browser() -> Iterator[Browser]:
    with Browser() as browser:
        yield browser
        assert browser.errors == []


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("one", "two"):
        write(tmp_path / "runs" / name, *(report(100 * number) for number in range(1, 30)), evaluation(2900))
    return tmp_path / "runs"


@pytest.fixture
def address(root: Path) -> Iterator[str]:
    with make(root, "127.0.0.1", 0) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.port}/"
        server.shutdown()
        thread.join()


def text(browser: Browser, selector: str) -> str:
    return str(browser.value(f"document.querySelector({selector!r})?.textContent ?? ''"))


def test_what_is_added_appears_and_what_is_deleted_goes(browser: Browser, root: Path, address: str):
    browser.open(f"{address}#two")
    browser.wait_for(DRAWN)
    append(root / "two", report(4000))
    browser.wait_for("$('about').textContent && $('parts').textContent.includes('4,000')")
    browser.wait_for("plots.get('steps').u.data[0].at(-1) > 3900")
    write(root / EVIL.replace("/", ""), report(100))
    browser.wait_for(f"$('list').textContent.includes({EVIL!r})")
    assert browser.value("document.images.length") == 0
    shutil.rmtree(root / "two")
    browser.wait_for("$('notice').textContent === 'two is no longer there.'")


def test_the_first_run_appears_in_a_folder_that_was_empty(browser: Browser, root: Path, address: str):
    shutil.rmtree(root)
    root.mkdir()
    browser.open(address)
    browser.wait_for("$('notice').textContent.startsWith('No runs under runs yet')")
    write(root / "one", report(100))
    browser.wait_for(f"{DRAWN} && $('notice').hidden")


def test_it_is_used_by_keyboard(browser: Browser, address: str):
    browser.open(f"{address}#one")
    browser.wait_for(DRAWN)
    browser.press("/")
    assert browser.value("document.activeElement.id") == "filter"
    for _ in range(2):  # over the group's box, to the first run
        browser.press("Tab")
    browser.press("ArrowDown")
    browser.press("Enter")
    assert text(browser, "#run h2") == "two"
    assert browser.value("document.activeElement.dataset.id") == "two"
    browser.press("Tab")
    browser.press("ArrowRight")
    assert text(browser, "#returns output").endswith(", one")
    assert browser.value("getComputedStyle(document.activeElement).outlineStyle") == "solid"


@pytest.mark.parametrize("dark", [False, True])
def test_it_fits_a_phone_in_light_and_dark(root: Path, address: str, dark: bool):
    with Browser(390, 844, dark=dark) as browser:
        browser.open(address)
        browser.wait_for(DRAWN)
        assert browser.value("document.documentElement.scrollWidth") == 390
        red = browser.value("getComputedStyle(document.body).backgroundColor.match(/\\d+/)[0]")
        assert (int(red) < 128) == dark
        assert browser.errors == []


def test_a_report_needs_nothing_but_its_file(browser: Browser, root: Path, tmp_path: Path):
    write_report(root / "one", tmp_path / "report.html")
    browser.open(f"file://{tmp_path}/report.html")
    browser.wait_for(DRAWN)
    assert text(browser, "#run h2") == "one"
    assert (
        browser.value("performance.getEntriesByType('resource').filter(each => !each.name.startsWith('data:')).length")
        == 0
    )


def test_a_run_is_followed_while_it_trains_and_to_its_end(browser: Browser, root: Path, address: str):
    browser.open(f"{address}#new")
    limits = ["--time", "6s", "--target", "none", "--evaluation.final_episodes", "2", "--quiet"]
    command = [sys.executable, "-m", "troupe", "train", "CartPole-v1", "--run-dir", str(root / "new"), *limits]
    with subprocess.Popen(command) as training:
        browser.wait_for("runs.get('new')?.state === 'training' && runs.get('new').words.steps")
        steps = browser.value("runs.get('new').words.steps")
        browser.wait_for(f"runs.get('new').words.steps !== '{steps}'")
        assert training.wait() == 0
    browser.wait_for("runs.get('new').state === 'done'")
