"""Commands that train nothing: what they print and write about runs, environments and presets."""

import argparse
import json
import sys
from contextlib import suppress
from pathlib import Path

from troupe import config, console
from troupe.setting_arguments import picked, settings_of
from troupe.text import counted, table


def export(options: argparse.Namespace) -> None:
    from troupe.environments import report_changes
    from troupe.user_code.trust import EXPORTED
    from troupe.with_code import load_with_code

    agent, saved = load_with_code(
        options.run, options.network, EXPORTED, trusted=options.trust, encoder=options.encoder
    )
    report_changes(saved.config.env)
    done = agent.export(options.file)
    console.write(f"wrote {done.file}; its inputs and outputs, for N observations at a time:\n")
    ports = [("input", port) for port in done.inputs] + [("output", port) for port in done.outputs]
    rows = [(side, port.name, str(port.dtype), port.batch) for side, port in ports]
    console.write("\n".join(table([("", "name", "type", "shape"), *rows])))
    console.write(f"\n{done.example}", end="")


def plot(options: argparse.Namespace) -> None:
    from troupe.runs.report.plots import plot_runs

    plot_runs(options.runs, options.output, **{"metrics": options.metrics} if options.metrics else {})
    console.write(f"wrote {options.output}")


def replay(options: argparse.Namespace) -> int:
    from troupe.runs.replay import replay

    done = replay(options.run, **picked(options, "env", "network", "loss", "optimizer", "encoder", "backend", "trust"))
    console.write(f"replayed {done.rollouts:,} rollouts and {done.updates:,} updates, to version {done.version:,}")
    if done.diverged is not None:
        print(f"troupe: the weights differ from those of the run from version {done.diverged:,} on", file=sys.stderr)
        return 1
    console.write("every version of the weights is the same as in the run, bit for bit")
    return 0


def bench(options: argparse.Namespace) -> None:
    from troupe.bench import bench

    with console.prints_to_stderr(options.json):
        result = bench(options.env, options.preset, settings_of(options), options.time)
    console.write(json.dumps(result.summary()) if options.json else result.table())


def check(options: argparse.Namespace) -> int:
    """Exit status 1 if something is wrong."""
    from troupe.environments import settle
    from troupe.environments.checks import check

    asked = config.resolve(options.env, settings=settings_of(options))
    with console.prints_to_stderr(options.json):
        report = check.check(options.env, lambda: settle(asked, options.env)[1], options.steps, options.seed)
    console.write(json.dumps(report.summary()) if options.json else "\n".join(report.lines()))
    return int(bool(report.wrong))


def envs(_: argparse.Namespace) -> None:
    rows = [("environment", "preset", "lowest", "mean", "steps", "seconds", "seeds")]
    for preset in map(config.load_preset, config.presets()):
        for env_id, tuned in preset.tuned.items():
            numbers = ("-",) * 5
            if seen := tuned.verified:
                numbers = (
                    f"{seen.lowest:g}",
                    f"{seen.mean:g}",
                    f"{seen.steps:,}",
                    f"{seen.seconds:g}",
                    f"{seen.seeds}",
                )
            rows.append((env_id, preset.name, *numbers))
    console.write("\n".join(table(rows)))
    console.write(
        "\nEvaluations of 100 greedy episodes: the lowest and the mean of the seeds; steps and seconds are medians."
    )
    console.write("ALE/* is every Atari game without a row of its own, evaluated by 30 episodes, as Pong is.")
    console.write(
        "Every other Gymnasium environment trains untuned, whatever its spaces are made of (docs/extending.md)."
    )


def presets(_: argparse.Namespace) -> None:
    for preset in map(config.load_preset, config.presets()):
        console.write(f"{preset.name}\n  {preset.summary}\n  source: {preset.source}")
        verified = [name for name, tuned in preset.tuned.items() if tuned.verified]
        others = [name for name in preset.tuned if name not in verified]
        for what, names in (("tuned for", verified), ("settings, not tuned, for", others)):
            if names:
                console.write(f"  {what}: {', '.join(names)}")


def export_metrics(options: argparse.Namespace) -> None:
    from troupe.runs.report.tables import write_metrics

    rows = write_metrics([Path(run) for run in options.runs], Path(options.output), options.kind)
    console.write(f"wrote {options.output}: {counted(rows, 'row')}")


def dashboard(options: argparse.Namespace) -> None:
    """Serves until a signal ends it."""
    from troupe.runs.dashboard.server import make

    with make(Path(options.folder), options.host, options.port, remote=options.remote) as server:
        host = f"[{server.host}]" if ":" in server.host else server.host
        console.write(f"{options.folder}: http://{host}:{server.port}/ (Ctrl-C ends it)")
        sys.stdout.flush()
        with suppress(KeyboardInterrupt):
            server.serve_forever()


def report(options: argparse.Namespace) -> None:
    from troupe.runs.dashboard.report import write_report

    left_out = write_report(Path(options.run), Path(options.output))
    console.write(f"wrote {options.output}" + (f"; too large for it: {', '.join(left_out)}" if left_out else ""))
