"""Keeps the figures in the documents equal to those in `results/`.

python benchmarks/claims.py           says which blocks differ from the results; exit status 1 if any does
python benchmarks/claims.py --write   writes them into the pages

A page has a block between `<!-- figures: NAME -->` and `<!-- end -->`; below, each NAME has the text that belongs
there, made from result files, and its command, which must stand somewhere in the same page, as must the script of each
of these files: `python benchmarks/atari.py` is that of `results/atari-pong.json`.
`tests/test_claims.py` runs the check, and that no table of the pages in PAGES stands outside of a block.
"""

import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import claim_tables as tables

ROOT = Path(__file__).parent.parent


@dataclass(frozen=True)
class Claim:
    page: str
    command: str
    text: Callable[[], str]


_RESULTS, _BENCHMARKS = "docs/results.md", "benchmarks/README.md"
PAGES = ("README.md", _RESULTS, _BENCHMARKS)
CLAIMS = {
    "headline": Claim("README.md", "python benchmarks/environments.py tuned", tables.headline),
    "cartpole": Claim(_RESULTS, "python benchmarks/cartpole.py --held-out", tables.cartpole),
    "presets": Claim(_RESULTS, "python benchmarks/topologies.py", tables.presets),
    "tuned": Claim(_RESULTS, "python benchmarks/environments.py tuned", lambda: tables.environments("tuned")),
    "untuned": Claim(_RESULTS, "python benchmarks/environments.py untuned", lambda: tables.environments("untuned")),
    "others": Claim(_RESULTS, "python benchmarks/others.py cartpole", tables.others),
    "article": Claim(_RESULTS, "python benchmarks/article.py", tables.article),
    "throughput": Claim(_RESULTS, "python benchmarks/processes.py", tables.throughput),
    "pong": Claim(_RESULTS, "python benchmarks/atari.py pong", tables.pong),
    "breakout": Claim(_RESULTS, "python benchmarks/atari.py breakout", tables.breakout),
    "atari speed": Claim(_RESULTS, "python benchmarks/atari.py speed", tables.atari_speed),
    "cluster": Claim("docs/cluster.md", "python benchmarks/cluster.py", tables.cluster),
    "faults": Claim("docs/reliability.md", "python benchmarks/faults.py report", tables.faults),
    "soak": Claim("docs/reliability.md", "python benchmarks/soak.py", tables.soak),
    "mutation": Claim("CONTRIBUTING.md", "python benchmarks/mutation.py report", tables.mutation),
    "fuzz": Claim("docs/reliability.md", "python benchmarks/fuzz.py", tables.fuzz),
    "wild": Claim(_RESULTS, "python benchmarks/wild.py", tables.wild),
    "atari trained": Claim(_BENCHMARKS, "python benchmarks/atari.py speed", tables.atari_trained),
    "ablations": Claim(_BENCHMARKS, "python benchmarks/ablations.py", tables.ablations),
    "averaging": Claim(_BENCHMARKS, "python benchmarks/averaging.py", tables.averaging),
    "memory": Claim(_BENCHMARKS, "python benchmarks/memory.py", tables.memory),
    "memory cost": Claim(_BENCHMARKS, "python benchmarks/memory.py", tables.memory_cost),
    "precision": Claim(_BENCHMARKS, "python benchmarks/atari.py precision", tables.precision),
    "stability": Claim(_BENCHMARKS, "python benchmarks/stability.py", tables.stability),
}
_BLOCK = "(<!-- figures: {} -->)(.*?)(<!-- end -->)"


def wrong(name: str, claim: Claim) -> str:
    """What is wrong with a claim's block, or ""."""
    page = (ROOT / claim.page).read_text()
    found = re.search(_BLOCK.format(re.escape(name)), page, re.DOTALL)
    if found is None:
        return f"{claim.page} has no block '{name}'"
    tables.files_read.clear()
    try:
        text = claim.text()
    except FileNotFoundError as missing:
        return f"{claim.page}, '{name}': its result file is missing: {Path(missing.filename).name}"
    for command in (
        claim.command,
        *(f"python benchmarks/{file.partition('-')[0]}.py" for file in sorted(tables.files_read)),
    ):
        if command not in page or not (ROOT / command.split()[1]).exists():
            return f"{claim.page} does not name the command of '{name}': {command}"
    if found[2] != text:
        return f"{claim.page}, '{name}' differs from the results (python benchmarks/claims.py --write)"
    return ""


def write(name: str, claim: Claim) -> None:
    page = ROOT / claim.page
    pattern = re.compile(_BLOCK.format(re.escape(name)), re.DOTALL)
    page.write_text(pattern.sub(lambda block: block[1] + claim.text() + block[3], page.read_text()))


if __name__ == "__main__":
    for name, claim in CLAIMS.items():
        if "--write" in sys.argv:
            write(name, claim)
    faults = [fault for name, claim in CLAIMS.items() if (fault := wrong(name, claim))]
    sys.exit("\n".join(faults) or None)
