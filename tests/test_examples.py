"""The examples run as they are printed."""

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import troupe
from helpers import PATIENCE_SECONDS, slow

EXAMPLES = Path(__file__).parent.parent / "examples"


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        slow("article.py", ["2"]),
        slow("custom_backend.py", []),
        slow("custom_encoder.py", []),
        slow("custom_environment.py", []),
        slow("custom_loss.py", []),
        slow("custom_network.py", []),
        slow("custom_optimizer.py", []),
        slow("custom_placement.py", []),
        slow("onnx_agent.py", []),
        slow("train_and_act.py", []),
    ],
)
def test_the_example_runs(name: str, arguments: list[str], tmp_path: Path):
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / name), *arguments],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


NOTEBOOK = EXAMPLES / "first_agent.ipynb"


def test_the_notebook_has_been_executed_and_is_small():
    """Its outputs are of a run, without an error and without the paths of a machine."""
    notebook = json.loads(NOTEBOOK.read_text())
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    kinds = [output["output_type"] for cell in cells for output in cell["outputs"]]
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    assert "error" not in kinds
    assert any("image/png" in output.get("data", {}) for cell in cells for output in cell["outputs"])
    assert NOTEBOOK.stat().st_size < 200_000
    assert not re.search(r"/(home|tmp|root|work|Users)/", NOTEBOOK.read_text())


@pytest.mark.slow
def test_the_notebook_can_be_executed_again(tmp_path: Path):
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    where = {"metadata": {"path": tmp_path}}
    nbclient.NotebookClient(notebook, timeout=PATIENCE_SECONDS, kernel_name="python3", resources=where).execute()
    assert (tmp_path / "corridor.mp4").stat().st_size > 0


def test_the_articles_program_is_under_a_hundred_lines():
    assert len((EXAMPLES / "article.py").read_text().splitlines()) < 100


@pytest.mark.slow
def test_on_a_fixed_price_series_the_optimum_is_reached(tmp_path: Path):
    """The states do not follow from the actions; dynamic programming says what could be earned at most."""
    spec = importlib.util.spec_from_file_location("trading", EXAMPLES / "trading.py")
    assert spec is not None
    assert spec.loader is not None
    trading = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(trading)
    settings = {
        "topology": "serial", "learner.minibatches": 4,  # the defaults' 16, of 128 steps, stop at 99.8 % of it
        "evaluation.every_steps": 10_000, "evaluation.every_seconds": 0.0, "evaluation.episodes": 1,
        "evaluation.final_episodes": 1,
    }  # fmt: skip
    best = trading.best_return()
    run = troupe.train(
        trading.Trading, seed=1, steps=150_000, target=best - 1e-4, settings=settings, run_dir=tmp_path / "run"
    )
    assert run.scores is not None
    assert run.scores.mean == pytest.approx(best, abs=1e-4)
