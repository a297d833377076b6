"""The examples run as they are printed."""

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"


@pytest.mark.parametrize(
    ("name", "arguments"),
    [("article.py", ["2"]), ("custom_environment.py", []), ("custom_network.py", []), ("train_and_act.py", [])],
)
def test_the_example_runs(name: str, arguments: list[str], tmp_path: Path):
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / name), *arguments], cwd=tmp_path, capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def test_the_articles_program_is_under_a_hundred_lines():
    assert len((EXAMPLES / "article.py").read_text().splitlines()) < 100
