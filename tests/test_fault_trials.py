"""A short selection of the trials of `benchmarks/faults.py`; the faults themselves are in `test_faults` and
`test_process_faults`."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

FAULTS = Path(__file__).parent.parent / "benchmarks/faults.py"


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="fills small file systems of its own")
def test_runs_survive_drawn_faults(tmp_path: Path):
    words = [sys.executable, str(FAULTS), "--seed", "21", "--count", "16", "--folder", str(tmp_path)]
    subprocess.run(words, check=True, capture_output=True, env=os.environ | {"LIMIT_SECONDS": "120"})
    (file,) = tmp_path.iterdir()
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert len(rows) == 16
    assert [row for row in rows if row["found"]] == []
