"""The wheel and the source archive: what is in them, and that troupe trains from each."""

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from helpers import PATIENCE_SECONDS

ROOT = Path(__file__).parent.parent


def run(*command: str | Path, **options) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_SECONDS, **options)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    for package in ("build.__main__", "twine"):
        pytest.importorskip(package)
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--outdir", folder, ROOT, cwd=folder)
    run(sys.executable, "-m", "twine", "check", "--strict", *folder.iterdir())
    return folder


@pytest.mark.slow
def test_they_hold_what_belongs_to_the_project_and_nothing_else(built: Path):
    tracked = set(run("git", "ls-files", cwd=ROOT).split())
    with tarfile.open(next(built.glob("*.tar.gz"))) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert names <= tracked | {"PKG-INFO"}
    assert {"src/troupe/presets/appo.toml", "tests/conftest.py", "docs/tutorial.md", "constraints.txt"} <= names
    with zipfile.ZipFile(next(built.glob("*.whl"))) as wheel:
        code = {f"src/{name}" for name in wheel.namelist() if ".dist-info/" not in name}
    assert code == {name for name in tracked if name.startswith("src/")}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["*.whl", "*.tar.gz"])
def test_troupe_trains_from_it_in_another_folder(built: Path, kind: str, tmp_path: Path):
    """Its dependencies are those of this environment, which `pip install .` has installed."""
    target = tmp_path / "installed"
    run(sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", target, next(built.glob(kind)))
    environment = os.environ | {"PYTHONPATH": str(target)}
    where = run(sys.executable, "-c", "import troupe; print(troupe.__file__)", cwd=tmp_path, env=environment)
    assert where.startswith(str(target))
    run(
        target / "bin/troupe",
        "train",
        "CartPole-v1",
        "--steps",
        "2000",
        "--run-dir",
        "run",
        cwd=tmp_path,
        env=environment,
    )
    assert (tmp_path / "run/plots/learning.png").is_file()
