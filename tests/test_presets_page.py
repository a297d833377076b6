"""docs/presets.md: it is what its script writes, and each difference from what was published has its reason."""

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

from troupe.config import load_preset

DOCS = Path(__file__).parent.parent / "docs"


@pytest.fixture
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("presets_page", DOCS / "presets.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_what_its_script_writes(script):
    assert (DOCS / "presets.md").read_text() == script.page(), f"run {sys.executable} docs/presets.py"


def test_a_difference_without_a_reason_is_refused_and_so_is_a_reason_without_a_difference(script):
    assert script._row("a3c", "loss.gamma", "A3C", 0.99) == "| `loss.gamma` | `0.99` | A3C | `0.99` |  |"
    with pytest.raises(ValueError, match=r"a3c, learner.learning_rate: 0.0007 here, 0.001 published"):
        script._row("a3c", "learner.learning_rate", "A3C", 1e-3)
    with pytest.raises(ValueError, match="`why` is for a difference"):
        script._row("a3c", "learner.learning_rate", "A3C", 7e-4, why="none")


@pytest.mark.parametrize("kind", ["published", "tuned"])
@pytest.mark.parametrize("name", ["a3c", "a3c-lstm", "ga3c", "impala"])
def test_every_published_preset_was_measured_with_ten_seeds(name, kind):
    runs = json.loads((DOCS.parent / "benchmarks/results/published.json").read_text())["presets"][name][kind]["runs"]
    assert [run["seed"] for run in runs] == list(range(1, 11))
    assert {run["outcome"] for run in runs} <= {"solved", "steps"}  # none was ended by the clock


@pytest.mark.parametrize("name", ["a3c", "ga3c"])
def test_what_was_verified_of_a_preset_is_what_the_comparison_of_presets_measured(name):
    """On CartPole-v1, whose settings are what these presets were before they had the published ones."""
    measured = json.loads((DOCS.parent / "benchmarks/results/topologies.json").read_text())["presets"][name]
    stated = load_preset(name).tuned["CartPole-v1"].verified
    assert stated is not None
    assert stated.seeds == measured["seeds"] == measured["solved"]
    assert stated.lowest == pytest.approx(measured["lowest_return"], abs=0.05)
    assert stated.mean == pytest.approx(measured["mean_return"], abs=0.1)
    assert stated.steps == measured["median_steps"]
    assert stated.seconds == pytest.approx(measured["median_training_seconds"], abs=0.01)
