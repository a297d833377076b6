"""The command line: one function for each command. Heavy imports wait until a command needs them."""

import argparse
import json
import logging
import os
import re
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from troupe import config
from troupe.config import TroupeError, UsageError, one_line


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs one command and exits: 0 done, 1 the run failed, 2 wrong usage, 128 + n stopped by signal n."""
    signal.signal(signal.SIGTERM, _interrupt)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # not where a shell has it ignored
        signal.signal(signal.SIGINT, _interrupt)
    logging.basicConfig(format="troupe: %(message)s")
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by whoever started us
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
    status = _flush(run(sys.argv[1:] if arguments is None else arguments))
    if status >= 128 or threading.active_count() > 1:
        # Whoever pressed Ctrl-C waits for no tidying of libraries; an environment that never returns, or has
        # threads of its own, does not keep us.
        os._exit(status)
    sys.exit(status)


def run(arguments: Sequence[str]) -> int:
    """Runs one command; gives the exit status."""
    debug = "--debug" in arguments
    try:
        options = _parse([word for word in arguments if word != "--debug"])
        return int(options.command(options) or 0)
    except KeyboardInterrupt as stop:
        if hasattr(stop, "run"):  # which was saved, and has said so
            return 128 + signal.SIGINT
        print("troupe: interrupted", file=sys.stderr)
        return 128 + (stop.args[0] if stop.args else signal.SIGINT)
    except BrokenPipeError:  # whoever read our output has gone: `troupe envs | head`
        return 0
    except Exception as error:
        if debug:
            traceback.print_exc()
        elif isinstance(error, TroupeError):
            print(f"troupe: {one_line(error)}", file=sys.stderr)
        else:
            print(f"troupe: {one_line(error)} (--debug shows where)", file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1
    except SystemExit as done:  # --help
        return done.code if isinstance(done.code, int) else int(done.code is not None)


def _interrupt(number: int, _: FrameType | None) -> None:
    raise KeyboardInterrupt(number)  # the number tells it from one that an environment raises


def _flush(status: int) -> int:
    """Brings out what has been printed, here, where one can still say that it could not be."""
    try:
        sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(error, BrokenPipeError):
            print(f"troupe: the output could not be written: {error.strerror}", file=sys.stderr)
            return status or 1
    return status


def train(options: argparse.Namespace) -> int:
    from troupe import trainer

    asked = {"preset": options.preset, **_asked(options)}
    if options.seeds > 1:
        if options.watch:
            raise UsageError("--watch shows one agent; with --seeds, use troupe watch RUN afterwards")
        from troupe.runs.seeds import train_seeds

        return train_seeds(options.env, range(options.seed, options.seed + options.seeds), options.run_dir, asked)
    done = trainer.train(options.env, seed=options.seed, run_dir=options.run_dir, **asked)
    if options.watch:
        _show(done.path, options.seed)
    return 0


def compare(options: argparse.Namespace) -> int:
    from troupe.runs.compare import compare

    asked = _asked(options) | ({"display": "silent"} if options.quiet else {})
    seeds = range(options.seed, options.seed + options.seeds)
    return compare(options.env, options.presets, seeds, options.run_dir, **asked)


def resume(options: argparse.Namespace) -> None:
    from troupe import trainer

    seconds = config.seconds(options.time) if options.time else None
    trainer.resume(
        options.run,
        steps=options.steps,
        seconds=seconds,
        on_collapse=options.on_collapse,
        display="quiet" if options.quiet else "auto",
    )


def evaluate(options: argparse.Namespace) -> None:
    from troupe.runs.evaluation import evaluate
    from troupe.runs.view import score

    scores = evaluate(options.run, episodes=options.episodes, seed=options.seed, greedy=options.greedy)
    if options.json:
        print(json.dumps(scores.summary()))
        return
    policy = "greedy" if scores.greedy else "stochastic"
    print(
        f"{policy} policy, {options.episodes} episodes: mean return {score(scores.mean)}, "
        f"deviation {score(scores.std)}, from {scores.returns.min():g} to {scores.returns.max():g}, "
        f"mean length {scores.lengths.mean():.0f} steps"
    )


def watch(options: argparse.Namespace) -> None:
    from troupe.agent import load
    from troupe.environments import of_run, quiet_gymnasium
    from troupe.runs import checkpoint, terminal, video, window
    from troupe.torch_threads import one_torch_thread

    run = Path(options.run)
    agent = load(run)
    settings = checkpoint.read_config(run).env
    make = partial(of_run(run, settings.id).make, config=settings)
    # One thread: for one observation at a time, several would only wait for one another.
    with quiet_gymnasium(), one_torch_thread():
        if options.video:
            returns = video.record(agent, make, Path(options.video), options.episodes, options.seed)
            print(f"wrote {options.video}")
        elif options.terminal:
            returns = terminal.show_terminal(agent, make, options.episodes, options.seed, sys.stdout)
        else:
            returns = window.show_window(agent, make, options.episodes, options.seed)
    if returns:
        number = "1 episode, return" if len(returns) == 1 else f"{len(returns)} episodes, returns"
        print(f"{number} {', '.join(f'{value:g}' for value in returns)}")


def export(options: argparse.Namespace) -> None:
    from troupe.extras import need

    need("onnx")
    from troupe.agent import load

    done = load(options.run).export(options.file)
    print(f"wrote {done.file}; what goes in and out, N observations at a time:\n")
    ports = [("input", port) for port in done.inputs] + [("output", port) for port in done.outputs]
    _table(("", "name", "type", "shape"), [(side, port.name, str(port.dtype), port.batch) for side, port in ports])
    print(f"\n{done.example}", end="")


def plot(options: argparse.Namespace) -> None:
    from troupe.runs.plots import plot_runs

    plot_runs([Path(run) for run in options.runs], Path(options.output))
    print(f"wrote {options.output}")


def replay(options: argparse.Namespace) -> int:
    from troupe.runs.replay import replay

    done = replay(options.run)
    print(f"replayed {done.rollouts:,} rollouts and {done.updates:,} updates, to version {done.version:,}")
    if done.diverged is not None:
        print(f"troupe: the weights differ from those of the run from version {done.diverged:,} on", file=sys.stderr)
        return 1
    print("every version of the weights is the one the run had, bit for bit")
    return 0


def bench(options: argparse.Namespace) -> None:
    from troupe.bench import bench

    result = bench(options.env, options.preset, _settings(options), config.seconds(options.time))
    print(json.dumps(result.summary()) if options.json else result.table())


def envs(_: argparse.Namespace) -> None:
    rows = []
    for preset in map(config.load_preset, config.presets()):
        for env_id, tuned in preset.tuned.items():
            seen = tuned.verified
            numbers = ("-",) * 5
            if seen:
                numbers = (
                    f"{seen.lowest:g}",
                    f"{seen.mean:g}",
                    f"{seen.steps:,}",
                    f"{seen.seconds:g}",
                    f"{seen.seeds}",
                )
            rows.append((env_id, preset.name, *numbers))
    _table(("environment", "preset", "lowest", "mean", "steps", "seconds", "seeds"), rows)
    print("\nEvaluations of 100 greedy episodes: the lowest and the mean of the seeds; steps and seconds are medians.")
    print("ALE/* is every Atari game without a row of its own, judged by 30 episodes, as Pong is.")
    print("Every other Gymnasium environment trains untuned, whatever its spaces are made of (docs/extending.md).")


def presets(_: argparse.Namespace) -> None:
    for preset in map(config.load_preset, config.presets()):
        print(f"{preset.name}\n  {preset.summary}\n  source: {preset.source}")
        if preset.tuned:
            print(f"  tuned for: {', '.join(preset.tuned)}")


def _show(run: Path, seed: int) -> None:
    """A window where there is a display; a video in the run directory where there is none."""
    from troupe.runs import window

    command = ["watch", str(run), "--seed", str(seed), "--episodes", "1"]
    if not window.has_display():
        (run / "videos").mkdir(exist_ok=True)
        command += ["--video", str(run / "videos" / "agent.mp4")]
    options = _parse(command)
    options.command(options)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]
    for row in (head, *rows):
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        message = re.sub(r"^argument (\S+): (?=')", r"\1 ", message)
        raise UsageError(f"{re.sub(r'^argument ', '', message)} ({self.prog} --help)")


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser, commands = _build_parser()
    if not arguments:
        parser.print_help()
        raise SystemExit(2)
    if arguments[0] not in commands and not arguments[0].startswith("-"):
        hint = config.did_you_mean(arguments[0], commands)
        raise UsageError(f"no command '{arguments[0]}'{hint} (troupe --help lists them)")
    options, unknown = parser.parse_known_args(arguments)
    if unknown:
        word = unknown[0].partition("=")[0]
        known = commands[options.name]._option_string_actions
        hint = config.did_you_mean(word, known) if word.startswith("-") else ""
        raise UsageError(f"unknown argument '{word}'{hint} (troupe {options.name} --help)")
    return options


def _build_parser() -> tuple[argparse.ArgumentParser, dict[str, argparse.ArgumentParser]]:
    """The parser, and those of the commands by name."""
    parser = _Parser(prog="troupe", description="Asynchronous actor-critic reinforcement learning.", allow_abbrev=False)
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    by_name: dict[str, argparse.ArgumentParser] = {}

    def add(name: str, command: Callable[..., Any], text: str) -> argparse.ArgumentParser:
        added = by_name[name] = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
        added.set_defaults(command=command, name=name)
        return added

    one = add("train", train, "train an agent; everything it leaves goes to the run directory")
    one.add_argument("env", metavar="ENV", help="Gymnasium id, module:Id, or path/to/file.py:factory")
    one.add_argument("--preset", default="appo", metavar="P", help="troupe presets lists them (appo)")
    one.add_argument("--seed", type=_count(0), default=0, metavar="S", help="seeds every random stream (0)")
    one.add_argument(
        "--seeds", type=_count(1), default=1, metavar="K", help="K runs with seeds S, S+1, ...: a table and a picture"
    )
    one.add_argument("--run-dir", metavar="DIR", help="the run's own directory (runs/ENV/DATE_TIME_seedS)")
    one.add_argument("--watch", action="store_true", help="show the agent when it is trained")
    _add_asked(one)

    one = add("compare", compare, "train with several presets and seeds: one table, one picture")
    one.add_argument("env", metavar="ENV", help="Gymnasium id, module:Id, or path/to/file.py:factory")
    one.add_argument(
        "--presets", type=_names, required=True, metavar="P,P,...", help="which; troupe presets lists them"
    )
    one.add_argument("--seeds", type=_count(1), default=3, metavar="K", help="K runs of each preset (3)")
    one.add_argument("--seed", type=_count(0), default=0, metavar="S", help="with seeds S, S+1, ... (0)")
    one.add_argument("--run-dir", metavar="DIR", help="the comparison's own folder (runs/ENV/DATE_TIME_compare)")
    _add_asked(one)

    one = add("evaluate", evaluate, "play episodes with a run's best agent and give the scores")
    one.add_argument("run", metavar="RUN", help="a run directory")
    one.add_argument("--episodes", type=_count(1), default=100, metavar="N", help="(100)")
    one.add_argument("--seed", type=_count(0), default=0, metavar="S", help="of the environments (0)")
    how = one.add_mutually_exclusive_group()
    how.add_argument("--greedy", action="store_true", default=None, help="the likeliest actions (else as the run does)")
    how.add_argument("--stochastic", dest="greedy", action="store_false", help="actions drawn from the policy")
    one.add_argument("--json", action="store_true", help="print one JSON object")

    one = add("watch", watch, "watch a run's best agent: in a window, a video file or the terminal")
    one.add_argument("run", metavar="RUN", help="a run directory")
    one.add_argument("--video", metavar="FILE", help="write FILE.mp4 or FILE.gif")
    one.add_argument("--terminal", action="store_true", help="draw in the terminal")
    one.add_argument("--episodes", type=_count(1), default=3, metavar="N", help="(3)")
    one.add_argument("--seed", type=_count(0), default=0, metavar="S", help="of the environment (0)")

    one = add("export", export, "write a run's best agent as an ONNX file, for programs without troupe")
    one.add_argument("run", metavar="RUN", help="a run directory")
    one.add_argument("file", metavar="FILE", help="FILE.onnx")

    one = add("resume", resume, "go on with a run where its newest checkpoint stands")
    one.add_argument("run", metavar="RUN", help="a run directory")
    one.add_argument("--steps", type=_count(1), metavar="N", help="new limit of steps, those already made included")
    one.add_argument("--time", metavar="T", help="new limit of training time, what is already spent included")
    _add_on_collapse(one)
    one.add_argument("--quiet", action="store_true", help="print only what happened in the end")

    one = add("plot", plot, "draw return against steps and seconds; several runs give mean and 95 %% band")
    one.add_argument("runs", nargs="+", metavar="RUN", help="run directories")
    one.add_argument("-o", "--output", required=True, metavar="FILE", help="FILE.png, .svg or .pdf")

    one = add("replay", replay, "run a recorded run (train --record) again in one thread, bit for bit")
    one.add_argument("run", metavar="RUN", help="a run directory")

    one = add("bench", bench, "speed of each stage, the limit they imply, and what training reaches")
    one.add_argument("env", nargs="?", default="CartPole-v1", metavar="ENV", help="(CartPole-v1)")
    one.add_argument(
        "--preset", default="impala", metavar="P", help="whose parts are measured (impala: one pass over every step)"
    )
    one.add_argument("--time", default="5s", metavar="T", help="how long to train (5s)")
    one.add_argument("--json", action="store_true", help="print one JSON object")
    _add_settings(one)

    add("envs", envs, "environments with tuned settings, and what they were seen to reach")
    add("presets", presets, "what each preset is, and its source")
    return parser, by_name


_SAID_OTHERWISE = ("preset", "tuned", "seed", "record", "env.id")


def _add_asked(parser: argparse.ArgumentParser) -> None:
    """What `_asked` reads: said to one run or to many."""
    parser.add_argument("--untuned", action="store_true", help="refuse the preset's settings for this environment")
    parser.add_argument("--steps", metavar="N", help="stop after N steps")
    parser.add_argument("--time", metavar="T", help="stop after T of training: 30s, 5m, 1.5h")
    parser.add_argument("--target", metavar="R", help="stop when an evaluation confirms the return R; 'none' refuses")
    parser.add_argument("--quiet", action="store_true", help="print only what happened in the end")
    parser.add_argument("--actors", metavar="N", help="how many actors; auto, the default, measures what suits")
    parser.add_argument("--record", action="store_true", default=None, help="keep a journal for troupe replay")
    _add_on_collapse(parser)
    _add_settings(parser)


def _add_on_collapse(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--on-collapse",
        metavar="A",
        help="when the return falls far below its best and stays there: report (the default) or rollback, "
        "which goes back to the best weights and makes smaller steps",
    )


def _asked(options: argparse.Namespace) -> dict[str, Any]:
    said = {
        "stop.steps": options.steps,
        "stop.seconds": config.seconds(options.time) if options.time else None,
        "stop.target": options.target,
        "record": options.record,
        "collapse.answer": options.on_collapse,
        "actor.auto": True if options.actors == "auto" else None,
        "actor.count": None if options.actors == "auto" else options.actors,
    }
    return {
        "settings": _settings(options) | {name: value for name, value in said.items() if value is not None},
        "tuned": not options.untuned,
        "display": "quiet" if options.quiet else "auto",
    }


def _settings(options: argparse.Namespace) -> dict[str, Any]:
    """The settings that were given on the command line, by dotted name."""
    given = {name: getattr(options, name, None) for name in config.fields() if name not in _SAID_OTHERWISE}
    return {name: value for name, value in given.items() if value is not None}


def _add_settings(parser: argparse.ArgumentParser) -> None:
    """--<field> or --<section>.<field> for every setting; checked when the configuration is built, not here."""
    groups: dict[str, Any] = {}
    for name, field in config.fields().items():
        if name in _SAID_OTHERWISE:
            continue
        section = name.rpartition(".")[0] or "assembly"
        if section not in groups:
            groups[section] = parser.add_argument_group(section)
        choices = f" [{', '.join(field.choices)}]" if field.choices else ""
        default = ",".join(map(str, field.default)) if isinstance(field.default, tuple) else field.default
        text = f"{field.description}{choices} ({default})".replace("%", "%%")
        groups[section].add_argument(f"--{name}", metavar="V", help=text)


def _count(least: int) -> Callable[[str], int]:
    def count(text: str) -> int:
        if not re.fullmatch(r"\d+", text) or int(text) < least:
            raise argparse.ArgumentTypeError(f"'{text}': expected a whole number of at least {least}")
        return int(text)

    return count


def _names(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",")]
    for place, name in enumerate(names):
        if not name:
            raise argparse.ArgumentTypeError(f"'{text}': expected names, separated by commas")
        if name in names[:place]:
            raise argparse.ArgumentTypeError(f"'{text}': {name} stands there twice")
    return names
