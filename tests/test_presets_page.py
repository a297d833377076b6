"""docs/presets.md: it is what its script writes, and each difference from what was published has its reason."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

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
