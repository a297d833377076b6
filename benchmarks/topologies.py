"""CartPole-v1 with every preset, five seeds each, until 475 is confirmed or three minutes have passed.

comparison.json, .md, .png   as `troupe compare` writes them
"""

import json
import shutil
import tempfile
from pathlib import Path

from common import RESULTS, troupe, write

if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        comparison = Path(folder) / "comparison"
        command = [
            "compare", "CartPole-v1", "--presets", "appo,impala,a3c,ga3c,article", "--seeds", "5", "--seed", "1",
            "--target", "475", "--time", "180s", "--quiet",
        ]  # fmt: skip
        printed, seconds = troupe(*command, "--run-dir", str(comparison))
        print(printed)
        result = json.loads((comparison / "comparison.json").read_text())
        write("topologies", {"command": "troupe " + " ".join(command), "seconds": seconds, **result})
        shutil.copy(comparison / "comparison.png", RESULTS / "topologies.png")
