"""What a message about a missing package tells the user to install."""

import importlib.metadata
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import troupe
from helpers import PATIENCE_SECONDS
from troupe import extras

EXTRAS = ("atari", "box2d", "mujoco", "envpool", "onnx", "wandb", "mlflow", "parquet", "tune")
HOUSE = Path(troupe.__file__).parents[2]


@pytest.mark.parametrize("extra", EXTRAS)
def test_the_command_names_the_packages_and_versions_that_the_project_asks_for(extra):
    asked = tomllib.loads((HOUSE / "pyproject.toml").read_text())["project"]["optional-dependencies"][extra]
    assert sorted(extras.requirements(extra)) == sorted(asked)
    assert "troupe" not in extras.command(extra)


@pytest.mark.parametrize("stated", [None, [], ["torch>=2.5"]])
@pytest.mark.parametrize("extra", EXTRAS)
def test_without_metadata_it_names_the_same_packages(monkeypatch, extra, stated):
    asked = {name.partition(">")[0] for name in extras.requirements(extra)}

    def requires(name: str) -> list[str] | None:
        if stated is None:
            raise importlib.metadata.PackageNotFoundError(name)
        return stated

    monkeypatch.setattr(importlib.metadata, "requires", requires)
    assert {name.partition(">")[0] for name in extras.requirements(extra)} == asked


@pytest.mark.slow
def test_a_source_tree_on_the_path_without_metadata_names_packages_and_trains(tmp_path):
    program = f"""
import importlib.metadata, sys
find = importlib.metadata.distribution
def distribution(name):
    if name == "troupe-rl":
        raise importlib.metadata.PackageNotFoundError(name)
    return find(name)
importlib.metadata.distribution = distribution
sys.modules["ale_py"] = None
from troupe import cli
assert cli.run("train ALE/Pong-v5".split()) == 2
tiny = "--steps 200 --actor.count 1 --evaluation.final_episodes 2 --target none --quiet"
sys.exit(cli.run(f"train CartPole-v1 --run-dir {tmp_path}/run {{tiny}}".split()))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=PATIENCE_SECONDS, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.endswith("not installed: pip install ale-py opencv-python-headless\n")


def test_no_document_tells_to_install_a_package_that_is_not_ours():
    files = [HOUSE / "README.md", *HOUSE.glob("docs/*.md"), *HOUSE.glob("examples/*.py"), *HOUSE.glob("src/**/*.py")]
    for file in files:
        assert "install troupe" not in file.read_text().replace("'", ""), file
