"""What must be the same on all hosts of a run, and what is said where it is not."""

import sys

import numpy as np
import pytest

from troupe.runtime.cluster import versions
from troupe.runtime.cluster.versions import difference, prober

OURS = {
    "python": "3.11", "troupe": "0.1.0", "torch": "2.13.0+cpu", "numpy": "2.4.1", "gymnasium": "1.2.0",
    "sources": "0123abcd",
}  # fmt: skip


def test_a_probe_finds_the_versions_that_are_here():
    found = prober()()
    assert found.keys() == {"python", "troupe", "torch", "numpy", "gymnasium", "sources"}
    assert found["python"] == f"{sys.version_info.major}.{sys.version_info.minor}"
    assert found["numpy"] == np.__version__
    assert len(found["sources"]) == 8
    assert prober()() == found


def test_a_package_without_a_distribution_is_there_and_one_that_cannot_be_found_is_not(monkeypatch):
    monkeypatch.setattr(versions, "_PACKAGES", {"json": "no-such-distribution", "no_such_package": "no-such-package"})
    found = prober()()
    assert (found["json"], found["no_such_package"]) == ("unknown", "")


@pytest.mark.parametrize("change", ["b = 2\n", "a = 1\n "])
def test_the_checksum_is_another_one_where_a_source_file_differs(monkeypatch, tmp_path, change):
    folder = tmp_path / "troupe"
    folder.mkdir()
    (folder / "__init__.py").touch()
    (folder / "a.py").write_text("a = 1\n")
    (folder / "notes.txt").write_text("no source\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "troupe")
    before = prober()()["sources"]
    (folder / "notes.txt").write_text("still none\n")
    assert prober()()["sources"] == before
    (folder / "a.py").rename(folder / "b.py")
    assert prober()()["sources"] != before
    (folder / "b.py").rename(folder / "a.py")
    assert prober()()["sources"] == before
    (folder / "a.py").write_text(change)
    assert prober()()["sources"] != before


@pytest.mark.parametrize(
    ("theirs", "says"),
    [
        ({}, ""),
        ({"troupe": "", "torch": ""}, "host h lacks troupe: install troupe-rl 0.1.0 there, as it is on this machine"),
        ({"torch": "", "numpy": ""}, "host h lacks torch, numpy: pip install torch==2.13.0 numpy==2.4.1 there"),
        ({"python": "3.9"}, "host h has python 3.9, this machine has 3.11: install the same on both"),
        ({"troupe": "0.0.9"}, "host h has troupe 0.0.9, this machine has 0.1.0: install the same on both"),
        (
            {"torch": "2.13.0"},
            "host h has torch 2.13.0, this machine has 2.13.0+cpu: install the same on both "
            "(pip install torch==2.13.0)",
        ),
        (
            {"sources": "ffffffff"},
            "host h has troupe 0.1.0 with other source files than this machine (checksums ffffffff and 0123abcd): "
            "install the same on both",
        ),
    ],
)
def test_what_differs_is_said_with_what_to_do(theirs, says):
    assert difference("h", OURS | theirs, OURS) == says


def test_what_an_old_probe_does_not_know_is_missing():
    assert difference("h", {}, OURS).startswith("host h lacks troupe")
