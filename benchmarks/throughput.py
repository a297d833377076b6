"""`troupe bench`: the stages, the limit and the fraction; and training beside a process that burns a core."""

import json
import subprocess
import sys

from common import troupe, write

BURN = [sys.executable, "-c", "while True: pass"]


def bench(*options: str) -> dict[str, float]:
    return json.loads(troupe("bench", "CartPole-v1", "--json", *options)[0])


if __name__ == "__main__":
    throughput = bench()
    print(throughput)
    beside = {}
    for preset in ("appo", "impala"):
        alone, burdened = [], []
        for _ in range(3):  # in turn: the machine's speed varies
            alone.append(bench("--preset", preset)["steps_per_s"])
            burner = subprocess.Popen(BURN)
            try:
                burdened.append(bench("--preset", preset)["steps_per_s"])
            finally:
                burner.kill()
                burner.wait()
        beside[preset] = {
            "alone": alone,
            "beside": burdened,
            "kept": sorted(b / a for a, b in zip(alone, burdened, strict=True))[1],
        }
        print(preset, beside[preset])
    write("throughput", {"command": "troupe bench CartPole-v1", "bench": throughput, "beside_a_busy_process": beside})
