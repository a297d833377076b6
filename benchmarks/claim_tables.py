"""The tables and sentences of `claims.py`, each made from result files."""

import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, median
from typing import Any

import gymnasium as gym

RESULTS = Path(__file__).parent / "results"

files_read: set[str] = set()  # by the text of a claim


def result(name: str) -> Any:
    files_read.add(name)
    return json.loads((RESULTS / f"{name}.json").read_text())


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def number(value: float, digits: int = 1) -> str:
    return f"{round(value, digits) + 0.0:,.{digits}f}"  # 0.0, not -0.0


def solved(runs: Sequence[dict[str, Any]]) -> str:
    return f"{sum(run['outcome'] == 'solved' for run in runs)} of {len(runs)}"


def cartpole_sentence() -> str:
    found = result("cartpole-held-out")
    return (
        f"{solved(found['runs'])} seeds solved, lowest evaluation {found['lowest_mean_return']:.1f} of 500; "
        f"{found['median_training_seconds']:.2f} s of training, {found['median_command_seconds']:.1f} s from start to "
        "exit (medians)"
    )


def thresholds(kind: str) -> tuple[int, int, int, int]:
    """Of a pass of environments.py: those that reach our threshold with every seed, all; and those that reach
    Gymnasium's own, those that have one."""
    found = result(f"environments-{kind}")["environments"]
    ours = sum(each["reached"] == len(each["runs"]) == 5 for each in found.values())
    registered = {name: gym.spec(name).reward_threshold for name in found}
    theirs = [found[name]["lowest"] >= limit for name, limit in registered.items() if limit is not None]
    return ours, len(found), sum(theirs), len(theirs)


def environments_sentence() -> str:
    ours, of, theirs, of_theirs = thresholds("tuned")
    untuned = thresholds("untuned")[0]
    return (
        f"{ours} of {of} reach our threshold with all five seeds ({theirs} of {of_theirs} Gymnasium's own); untuned, "
        f"{untuned} of {of}"
    )


def pong_sentence() -> str:
    runs = result("atari-pong")["runs"]
    scores = ", ".join(f"{run['evaluation']['mean_return']:.1f}" for run in runs)
    spent = sorted(run["command_seconds"] for run in runs)
    minutes = f"{spent[0] / 60:.0f} to {spent[-1] / 60:.0f} minutes from start to exit"
    return f"{solved(runs)} seeds solved: {scores}; {minutes}, no GPU"


def headline() -> str:
    rows = [
        ("CartPole-v1, preset appo, seeds 11 to 20", "`python benchmarks/cartpole.py --held-out`", cartpole_sentence()),
        (
            "ten environments of Gymnasium",
            "`python benchmarks/environments.py tuned` (and `untuned`)",
            environments_sentence(),
        ),
        ("Atari Pong, protocol `nature` (no sticky actions)", "`python benchmarks/atari.py pong`", pong_sentence()),
    ]
    return table(["what", "measured by", "result"], rows)


def cartpole() -> str:
    rows = []
    for preset, option in (("appo", ""), ("impala", " --preset impala")):
        for seeds, suffix in (("1 to 10, by which its settings were chosen", ""), ("11 to 20, held out", "-held-out")):
            found = result(f"cartpole{option.replace(' --', '-').replace(' ', '-')}{suffix}")
            whole = [run["command_seconds"] for run in found["runs"]]
            rows.append(
                (preset, seeds, solved(found["runs"]), number(found["lowest_mean_return"]),
                 number(found["median_steps"], 0),
                 f"{found['median_training_seconds']:.2f} ({found['longest_training_seconds']:.2f})",
                 f"{median(whole):.1f} ({min(whole):.1f} to {max(whole):.1f})")
            )  # fmt: skip
    head = ["preset", "seeds", "solved", "lowest", "steps", "seconds of training (longest)", "from start to exit, s"]
    return table(head, rows)


def presets() -> str:
    found, rows = result("topologies"), []
    for name, one in found["presets"].items():
        rows.append(
            (name, solved([run for run in found["runs"] if run["preset"] == name]), number(one["lowest_return"]),
             number(one["median_steps"], 0), number(one["median_training_seconds"], 2),
             number(one["median_steps_per_s"], 0), f"{one['lag_mean']:.2f} ({one['lag_max']:.0f})")
        )  # fmt: skip
    return table(["preset", "solved", "lowest", "steps", "seconds", "steps/s", "lag: mean (largest)"], rows)


def environments(kind: str) -> str:
    found, rows = result(f"environments-{kind}")["environments"], []
    for name in filter(found.get, result("environments-tuned")["environments"]):
        one, registered = found[name], gym.spec(name).reward_threshold
        seeds = f"{one['reached']} of {len(one['runs'])}"
        rows.append(
            (name, "none" if registered is None else number(registered, 0), number(one["threshold"], 0), seeds,
             number(one["lowest"]), number(one["mean"]), number(one["steps"], 0), number(one["seconds"]))
        )  # fmt: skip
    head = [
        "environment",
        "Gymnasium's threshold",
        "ours",
        "seeds that reach ours",
        "lowest",
        "mean",
        "steps",
        "seconds",
    ]
    return table(head, rows)


def others() -> str:
    rows, found = [], result("others-cartpole")["programs"]
    for name in sorted(found, key=lambda name: name.endswith(("defaults", "--untuned"))):  # tuned ones first
        one = found[name]
        rows.append(
            (name, f"{one['solved']} of {len(one['runs'])}", number(one["lowest"]), number(one["median_steps"], 0),
             f"{one['median_training_seconds']:.1f} ({one['longest_training_seconds']:.1f})",
             number(one["median_command_seconds"]))
        )  # fmt: skip
    head = ["program, settings", "solved", "lowest", "steps", "seconds of training (longest)", "from start to exit, s"]
    return table(head, rows)


def article() -> str:
    found = result("article")
    speeds, means = found["steps_per_s"], found["mean_returns"]
    return (
        f"Mean {found['mean_of_means']:.1f} of 200 over {len(means)} runs, lowest {min(means):.1f}; "
        f"{min(speeds):,.0f} to {max(speeds):,.0f} steps/s."
    )


def throughput() -> str:
    speed, costs, ga3c = result("throughput"), result("processes"), result("ga3c")
    bench, beside = speed["bench"], speed["beside_a_busy_process"]
    computing, waiting, slow, moving = (costs[key] for key in ("computing", "waiting", "one_slow", "moving"))
    times = ", ".join(f"{waiting['times_one'][str(count)]:.1f}" for count in (2, 4, 8, 16))
    ratios = sorted(computing["ratios"])
    lock_step = slow["lock_step"]["with"] / slow["lock_step"]["without"]
    kept = {preset: min(1.0, beside[preset]["kept"]) for preset in ("appo", "impala")}
    controller = {start: one["ratio_median"] for start, one in ga3c["settled"].items()}
    rows = [
        (f"steps/s of preset {bench['preset']}, each step in one gradient", "`throughput.py` (`troupe bench`)",
         f"{bench['steps_per_s']:,.0f}, {bench['fraction']:.0%} of the limit that its stages imply"),
        ("beside a process that burns a core: share of the steps/s that is kept", "`throughput.py`",
         f"appo {kept['appo']:.0%}, impala {kept['impala']:.0%} (medians of three)"),
        ("a step computes 200 us in Python: two actors in processes against `serial`", "`processes.py`",
         f"{computing['ratio_median']:.2f} times ({ratios[0]:.2f} to {ratios[-1]:.2f})"),
        ("a step sleeps 2 ms: 2, 4, 8, 16 actors against one", "`processes.py`", f"{times} times"),
        ("one of sixteen sleeps 20 ms instead: share that is kept", "`processes.py`",
         f"{slow['kept']:.0%}; a vector environment in lock step {lock_step:.0%}"),
        (f"{moving['megabytes']:.1f} MB of images from an actor's process to the learner", "`processes.py`",
         f"{moving['move_us'] / 1000:.2f} ms; one memcpy of them {moving['memcpy_us'] / 1000:.2f} ms"),
        ("GA3C's controller against the best of 20 fixed settings", "`ga3c.py`",
         f"{controller['(8, 1, 1)']:.0%} of its steps/s from there, {controller['(2, 2, 2)']:.0%} from far away"),
    ]  # fmt: skip
    return table(["what", "script", "result"], rows)


def pong() -> str:
    rows = [
        (str(run["seed"]), number(run["evaluation"]["mean_return"]), number(run["steps"], 0),
         number(run["training_seconds"], 0), number(run["command_seconds"], 0), number(run["steps_per_s"], 0))
        for run in result("atari-pong")["runs"]
    ]  # fmt: skip
    return table(
        ["seed", "30 episodes, sampled actions", "steps", "seconds of training", "from start to exit", "steps/s"], rows
    )


def breakout() -> str:
    runs = result("atari-breakout")["runs"]
    scores = ", ".join(f"{run['evaluation']['mean_return']:.1f}" for run in runs)
    return f"{scores} after {mean(run['steps'] for run in runs):,.0f} steps (mean of the three)"


def atari_speed() -> str:
    rows = [
        (kind.replace("a3c", "A3C's").replace("nature", "Nature's").replace(" ", ", "), number(one["steps_per_s"], 0),
         ", ".join(f"{fraction:.2f}" for fraction in one["fractions"]))
        for kind, one in result("atari-speed")["one_pass"].items()
    ]  # fmt: skip
    return table(["network, precision", "steps/s", "share of the limit, each run"], rows)


def fuzz() -> str:
    series = result("fuzz")["series"]
    head = ["command", "tried", "fine", "bare", "executed", "slow", "large"]
    rows = [
        [name, *(f"{sum(each['commands'][name][what] for each in series):,}" for what in head[1:])]
        for name in series[0]["commands"]
    ]
    about = (
        f"\n{sum(each['runs'] for each in series):,} changed runs, the hashes mended in "
        f"{sum(each['mended'] for each in series):,}; the longest took "
        f"{max(each['longest_seconds'] for each in series):.1f} s, the largest "
        f"{max(each['largest_mb'] for each in series):,} MB, with PyTorch in them:\n"
    )
    return about + table(head, rows)


def cluster() -> str:
    rows = []
    for name, each in result("cluster")["figures"].items():
        spread = f" ({each['spread']})" if "spread" in each else ""
        rows.append([name, f"{each['value']:.3g}{spread}", each["bar"] + ("" if each["good"] else " (missed)")])
    return table(["what", "measured", "should be"], rows)


def faults() -> str:
    series = [each["kinds"] for each in result("faults")["series"]]
    kinds = {
        kind: [found[kind] for found in series if kind in found] for kind in dict.fromkeys(itertools.chain(*series))
    }
    kinds["all"] = [counts for found in kinds.values() for counts in found]
    words, rows = ("tried", "fine", "lost", "hung", "left", "wrong", "missed"), []
    for kind, found in kinds.items():
        sums = [f"{sum(counts.get(word, 0) for counts in found):,}" for word in words]
        times = [counts["slowest"] for counts in found if "slowest" in counts]
        rows.append([kind, *sums, f"{max(times):.1f}" if times else "-"])
    return table(["fault", *words, "slowest, s"], rows)


def soak() -> str:
    rows = []
    for name, one in result("soak")["runs"].items():
        quarters = [f"{each['second']:,.0f}, {each['last']:,.0f}" for each in one["quarters"].values()]
        sizes = [number(one["series"][kind][-1]) for kind in ("journal_mb", "directory_mb")]
        rows.append([name, f"{one['steps']:,}", *quarters, *sizes])
    return table(["run", "steps", "memory, MB", "files", "threads", "steps/s", "journal, MB", "the rest, MB"], rows)


def mutation() -> str:
    found = result("mutation")
    low, high = found["interval_95"]
    of, killed = found["outcomes"], f"{found['killed_share']:.1%} ({low:.1%} to {high:.1%})"
    row = [f"{found['sample']} of {found['mutants']:,}, seed {found['seed']}"]
    counts = ("killed", "hung"), ("survived", "uncovered"), ("equivalent",), ("late",)
    row += [*(str(sum(of.get(name, 0) for name in names)) for names in counts), killed]
    return table(["mutants", "noticed", "missed", "equivalent", "undecided", "noticed of those that count"], [row])


def wild() -> str:
    rows = []
    for name, one in result("wild")["environments"].items():
        reached = one["evaluation"]["mean_return"]
        rows.append(
            (f"`{name}`", one["package"], f"{one['random']:.4g}", f"{reached:.4g}", one["best"] or "-",
             number(one["steps"], 0), number(one["best_steps"], 0), number(one["training_seconds"] / 60))
        )  # fmt: skip
    head = [
        "environment",
        "package",
        "random",
        "reached",
        "possible",
        "steps",
        "of which the kept agent had",
        "minutes",
    ]
    return table(head, rows)


def averaging() -> str:
    rows = []
    for name, runs in result("averaging")["environments"].items():
        limit = result("environments-tuned")["environments"][name]["threshold"]
        kinds = [[run for run in runs if run["decay"] == decay] for decay in (0.99, 0.0)]
        reached = (f"{sum(run['mean_return'] >= limit for run in kind)} of {len(kind)}" for kind in kinds)
        lowest = (number(min(run["mean_return"] for run in kind)) for kind in kinds)
        steps = (number(median(run["steps"] for run in kind), 0) for kind in kinds)
        rows.append((name, number(limit, 0), *map(", ".join, (reached, lowest, steps))))
    head = ["environment", "threshold", "reached it: 0.99, 0.0", "lowest: 0.99, 0.0", "median steps: 0.99, 0.0"]
    return table(head, rows)


def ablations() -> str:
    """For each variant and environment: means over the seeds that have a run with the variant and one without."""
    environments = result("ablations")["environments"]
    variants = dict.fromkeys(variant for each in environments.values() for variant in each if variant != "default")
    rows = []
    for variant, (name, runs) in itertools.product(variants, environments.items()):
        if variant not in runs:
            continue
        of_seed = {run["seed"]: run for run in runs["default"]}
        pairs = [(of_seed[run["seed"]], run) for run in runs[variant] if run["seed"] in of_seed]
        during = [[mean(run["evaluations"]) for run in kind] for kind in zip(*pairs, strict=True)]
        final = [[run["final"] for run in kind if run["final"] is not None] for kind in zip(*pairs, strict=True)]
        same = sum(one["evaluations"] == other["evaluations"] for one, other in pairs)
        above = sum(other > one for one, other in zip(*during, strict=True))
        rows.append(
            (variant, name, str(len(pairs)), *(", ".join(_mean(each) for each in kinds) for kinds in (during, final)),
             f"{same} the same" if same else f"{above} of {len(pairs)}")
        )  # fmt: skip
    head = ["change", "environment", "seeds", "while training: default, changed", "final: default, changed", "better"]
    return table(head, rows)


def _mean(values: Sequence[float]) -> str:
    return "-" if not values else number(mean(values), 1 if max(map(abs, values)) > 10 else 2)


def stability() -> str:
    runs = result("stability")["runs"]
    pairs = [(one, other) for one, other in zip(runs["report"], runs["rollback"], strict=True) if one["collapses"]]
    rows = [(str(one["seed"]), number(one["level"], 0), number(other["level"], 0)) for one, other in pairs]
    means = [number(mean(pair[k]["level"] for pair in pairs), 0) for k in (0, 1)]
    of_all = [number(mean(run["level"] for run in runs[answer]), 0) for answer in ("report", "rollback")]
    return table(["seed", "reported", "rolled back"], [*rows, ("mean", *means), ("mean of all ten", *of_all)])


def memory() -> str:
    rows = []
    for task, cores in result("memory")["tasks"].items():
        for core, one in cores.items():
            returns = [run["mean_return"] for run in one["runs"]]
            rows.append(
                (task, core, f"{min(returns):.2f}", f"{max(returns):.2f}", number(one["median_steps"], 0),
                 number(one["median_seconds"]))
            )  # fmt: skip
    return table(["task", "core", "lowest of five", "highest", "steps", "seconds"], rows)


def memory_cost() -> str:
    pong, cartpole = (result("memory")["cost"][name]["ratio"] for name in ("ALE/Pong-v5", "CartPole-v1"))
    return (
        f"With an LSTM of 128, Pong keeps {pong:.2f} of its steps per second, and CartPole, whose network is small, "
        f"{cartpole:.2f} (`memory.py`, too)."
    )


def atari_trained() -> str:
    found = result("atari-speed")
    alone, shares = found["beside_a_busy_process"]["alone"], found["as_trained"]["fractions"]
    return (
        f"as it trains on Pong (4 epochs over each batch): {min(alone):,.0f} to {max(alone):,.0f} steps/s, "
        f"{min(shares):.2f} to {max(shares):.2f} of its limit; beside a process that burns a core it keeps "
        f"{found['beside_a_busy_process']['kept']:.2f} of that. The largest resident memory of all these processes was "
        f"{found['peak_memory_mb']} MB."
    )


def precision() -> str:
    points, rows = (200_000, 250_000, 300_000, 350_000, 380_000), []
    for kind, name in (("float32", "atari-float32"), ("bfloat16", "atari-pong")):
        for run in result(name)["runs"]:
            returns = (min(run["returns"], key=lambda point: abs(point[0] - at))[1] for at in points)
            rows.append((kind, str(run["seed"]), *map(number, returns), number(run["steps_per_s"], 0)))
    return table(["precision", "seed", *(number(at, 0) for at in points), "steps/s"], rows)
