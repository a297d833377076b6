"""The command line: one function for each command. Heavy imports wait until a command needs them."""

import argparse
import atexit
import importlib
import json
import logging
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from troupe import arguments, config, console, hints, interpreter, signals
from troupe import reading_commands as reading
from troupe.config import TroupeError, UsageError, one_line, printable
from troupe.extras import need
from troupe.importing import import_announced
from troupe.setting_arguments import picked, settings_of
from troupe.text import counted, format_return

if TYPE_CHECKING:
    from troupe.run import Run


def main(argv: Sequence[str] | None = None) -> None:
    """Runs one command and exits: 0 done, 1 the run failed, 2 wrong usage, 128 + n stopped by signal n."""
    console.prepare()
    interpreter.hide_lock_warning()
    logging.basicConfig(format="troupe: %(message)s")
    try:
        with console.numbered_interrupts():
            status = console.flush(run(sys.argv[1:] if argv is None else argv))
    except KeyboardInterrupt as again:  # a second signal, while the first was reported
        status = _status_of(again)
    if status >= 128 or threading.active_count() > 1:
        # After Ctrl-C no library's clean-up is waited for, and no thread of an environment keeps the process alive.
        console.end_server()
        os._exit(status)
    atexit.register(signals.restore_defaults)  # a signal from here on is no traceback
    sys.exit(status)


def run(argv: Sequence[str]) -> int:
    """Runs one command; returns the exit status."""
    debug = "--debug" in argv
    try:
        options = arguments.parse([word for word in argv if word != "--debug"])
        with console.numbered_interrupts(), hints.by_command():
            if extra := {"export": "onnx", "tune": "tune"}.get(options.name):
                need(extra)
            if options.name not in _WITHOUT_TORCH:
                silent = getattr(options, "json", False) or getattr(options, "quiet", False)
                announced = nullcontext() if silent else import_announced(in_files=options.name in _WITH_ROWS)
                with announced, console.interrupts_end_at_once():
                    importlib.import_module("torch")
                    if options.name in _WITH_ROWS:
                        importlib.import_module("troupe.trainer")
            return int(_COMMANDS[options.name](options) or 0)
    except KeyboardInterrupt as stop:
        if hasattr(stop, "run"):  # it was saved and reported
            return 128 + signal.SIGINT
        with suppress(OSError):  # the terminal may be gone
            print(f"troupe: interrupted{getattr(stop, 'after', '')}", file=sys.stderr)
        return _status_of(stop)
    except BrokenPipeError:  # the reader of the output has ended: `troupe envs | head`
        return 0
    except Exception as error:
        if debug:
            print(printable(traceback.format_exc()), end="", file=sys.stderr)
        elif isinstance(error, TroupeError):
            print(f"troupe: {one_line(error)}", file=sys.stderr)
        else:
            print(f"troupe: {one_line(error)} (--debug shows where)", file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1
    except SystemExit as done:  # --help
        return done.code if isinstance(done.code, int) else int(done.code is not None)


def _status_of(stop: KeyboardInterrupt) -> int:
    number = stop.args[0] if stop.args else signal.SIGINT
    return 128 + (number if isinstance(number, int) else signal.SIGINT)


def train(options: argparse.Namespace) -> int:
    from troupe import trainer

    _add_config(options)
    asked = {"preset": options.preset, "callbacks": options.callbacks, **_asked(options)}
    if options.json and options.watch:
        raise UsageError("--json prints nothing else; use troupe watch RUN afterwards")
    if options.json and options.seeds > 1:
        raise UsageError("--json covers a single run; with --seeds, read summary.json in each run's directory")
    if options.learners > 1 and options.seeds > 1:
        raise UsageError("--learners is for one run; leave --seeds out")
    if options.seeds > 1:
        if options.watch:
            raise UsageError("--watch shows one agent; with --seeds, use troupe watch RUN afterwards")
        from troupe.series import train_seeds

        return train_seeds(options.env, range(options.seed, options.seed + options.seeds), options.run_dir, **asked)
    asked |= {"seed": options.seed, "run_dir": options.run_dir, "learners": options.learners}
    done = _result_printed(lambda: trainer.train(options.env, **asked), json_only=options.json)
    if options.watch:
        from troupe.runs.show.watch import video_without_display

        _show_run(done.path, {}, 1, options.seed, video_without_display(done.path), trust=True)
    return 0


def _add_config(options: argparse.Namespace) -> None:
    """Adds the settings of the --config file to the options; settings on the command line override them."""
    given = config.read_settings(Path(options.config)) if options.config else {}
    env, preset, seed = (given.pop(name, None) for name in ("env.id", "preset", "seed"))
    options.untuned |= given.pop("tuned", True) is False
    options.env = options.env or env
    if not options.env:
        raise UsageError(f"the following arguments are required: ENV (troupe {options.name} --help)")
    options.preset = options.preset or preset or "appo"
    options.seed = seed or 0 if options.seed is None else options.seed
    options.in_file = given


def _result_printed(training: "Callable[[], Run]", *, json_only: bool) -> "Run":
    """The run that `training` gives; with `json_only` its result is all that is printed, also after a signal."""
    from troupe.run import saved_run

    try:
        with console.prints_to_stderr(json_only):
            done = training()
    except (KeyboardInterrupt, SystemExit) as stop:
        if json_only:
            console.write(json.dumps(_result(saved_run(stop))))
        raise
    if json_only:
        console.write(json.dumps(_result(done)))
    return done


def _result(run: "Run") -> dict[str, Any]:
    return {
        "path": str(run.path),
        "outcome": run.outcome,
        "steps": run.steps,
        "updates": run.updates,
        "seconds": run.seconds,
        "evaluation": run.scores.summary() if run.scores else None,
    }


def compare(options: argparse.Namespace) -> int:
    from troupe.comparison import compare, parse_vary

    _add_config(options)
    if not (options.presets or options.vary):
        raise UsageError("--presets or --vary is required: name what to compare (troupe compare --help)")
    asked = {"callbacks": options.callbacks, **_asked(options)} | ({"display": "silent"} if options.quiet else {})
    presets, vary = options.presets or [options.preset], parse_vary(options.vary)
    seeds = range(options.seed, options.seed + options.seeds)
    return compare(options.env, presets, seeds, options.run_dir, vary=vary, **asked)


def tune(options: argparse.Namespace) -> None:
    from troupe.tuning.search import tune

    tune(
        options.env, seconds=options.time, space=Path(options.space) if options.space else None,
        settings=settings_of(options), tuned=not options.untuned,
        **picked(options, "preset", "trials", "seed", "seeds", "jobs", "run_dir", "callbacks"),
    )  # fmt: skip


def resume(options: argparse.Namespace) -> None:
    from troupe import trainer

    _result_printed(
        lambda: trainer.resume(
            options.run,
            seconds=options.time,
            display=_display(options),
            schedules={name.partition(".")[2]: vars(options)[name] for name in _SCHEDULES},
            **picked(options, "steps", "target", "on_collapse", "anneal_steps", "cluster", "callbacks", "learners"),
            **picked(options, "trust", *hints.CODE),
        ),
        json_only=options.json,
    )


def evaluate(options: argparse.Namespace) -> None:
    from troupe.runs.evaluate.evaluation import evaluate
    from troupe.runs.report.display import Counter
    from troupe.runs.store.saved_agent import read_config

    counter = Counter(options.episodes, sys.stderr)
    try:
        with console.prints_to_stderr(options.json):
            played = picked(options, "episodes", "seed", "greedy", "env", "network", "encoder", "backend", "trust")
            scores = evaluate(options.run, progress=counter, **played)
    except KeyboardInterrupt as stop:
        stop.after = f" after {counter.text}"  # type: ignore[attr-defined]
        raise
    finally:
        counter.clear()
    if options.json:
        console.write(json.dumps(scores.summary()))
        return
    policy = "greedy" if scores.greedy else "stochastic"
    protocol = config.protocol_of(read_config(Path(options.run)).env)
    console.write(
        f"{policy} policy, {counted(options.episodes, 'episode')}: mean return {format_return(scores.mean)}, "
        f"std {format_return(scores.std)}, from {scores.returns.min():g} to {scores.returns.max():g}, "
        f"mean length {scores.lengths.mean():.0f} steps"
        + (f", {scores.cut_off} cut off" if scores.cut_off else "")
        + (f"; Atari protocol: {protocol}" if protocol else "")
    )


def watch(options: argparse.Namespace) -> None:
    code, how = picked(options, "network", "encoder", "backend"), picked(options, "terminal", "trust")
    _show_run(options.run, code, options.episodes, options.seed, options.video, options.env, **how)


def _show_run(
    run: str | Path,
    passed: Mapping[str, str | None],
    episodes: int,
    seed: int,
    video: str | Path | None,
    env: str | None = None,
    *,
    terminal: bool = False,
    trust: bool,
) -> None:
    from troupe.runs.show.watch import show

    returns = show(run, env, passed, episodes, seed, video, terminal=terminal, trust=trust)
    if video:
        console.write(f"wrote {video}")
    if returns:
        number = "1 episode, return" if len(returns) == 1 else f"{len(returns)} episodes, returns"
        console.write(f"{number} {', '.join(f'{value:g}' for value in returns)}")


def _asked(options: argparse.Namespace) -> dict[str, Any]:
    settings = getattr(options, "in_file", {}) | settings_of(options)
    return {"settings": settings, "tuned": not options.untuned, "display": _display(options)}


def _display(options: argparse.Namespace) -> config.Mode:
    """A live panel on a terminal, plain lines in a file or a pipe."""
    if getattr(options, "json", False):
        return "silent"
    if options.quiet:
        return "quiet"
    return "auto" if sys.stdout.isatty() else "plain"


_SCHEDULES = [name for name in config.fields() if name.startswith("schedules.")]
_WITHOUT_TORCH = ("envs", "presets", "dashboard", "report")
_WITH_ROWS = ("train", "resume", "compare", "tune")  # whose output is read while they work; others print a result
_COMMANDS: Mapping[str, Callable[[argparse.Namespace], int | None]] = {
    command.__name__.replace("_", "-"): command
    for command in (
        train, compare, tune, evaluate, watch, reading.export, resume, reading.plot, reading.export_metrics,
        reading.dashboard, reading.report, reading.replay, reading.bench, reading.check, reading.envs, reading.presets,
    )
}  # fmt: skip
