"""The command line's arguments: what each command takes, its help, and errors for what was typed."""

import argparse
import re
from collections.abc import Sequence
from typing import Any, NoReturn

from troupe import config, hints
from troupe.argument_types import count, names, steps_or_auto, tracker
from troupe.config import UsageError
from troupe.setting_arguments import KWARGS, SHORT, add_setting, add_settings, add_short, sections, text_of


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        message = re.sub(r"^argument (\S+): (?=')", r"\1 ", message)
        raise UsageError(f"{re.sub(r'^argument ', '', message)} ({self.prog} --help)")


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser, commands = _build_parser()
    if not arguments:
        parser.print_help()
        raise SystemExit(2)
    if arguments[0] == "help":  # troupe help train [learner]
        arguments = [*arguments[1:2], "--help", *arguments[2:]]
    if arguments[0] not in commands and not arguments[0].startswith("-"):
        hint = config.did_you_mean(arguments[0], commands)
        raise UsageError(f"no command '{arguments[0]}'{hint} (troupe --help lists them)")
    arguments, kwargs = _take_kwargs(arguments)
    if command := commands.get(next(iter(arguments), "")):
        arguments = _join_negative(arguments, command)
    try:
        options, unknown = parser.parse_known_args(arguments)
    except UsageError:
        # An unknown option is the likelier mistake: `train --help-al` also lacks its environment.
        known = command._option_string_actions if command else {}
        for word in (word.partition("=")[0] for word in arguments if word.startswith("--") and known):
            if word not in known:
                raise UsageError(_unknown(word, arguments[0], commands[arguments[0]])) from None
        raise
    unknown += [f"--{name}" for name in kwargs if not hasattr(options, _table(name))]
    options.kwargs = kwargs
    if unknown:
        raise UsageError(_unknown(unknown[0].partition("=")[0], options.name, commands[options.name]))
    return options


def _take_kwargs(arguments: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """The arguments without --env.kwargs.NAME VALUE and the like, whose names are free; and these by dotted name."""
    rest, found, words = [], {}, iter(arguments)
    for word in words:
        if not (table := _table(word.removeprefix("--"))):
            rest.append(word)
            continue
        option, equals, value = word.partition("=")
        given = value if equals else next(words, None)
        if given is None or option == f"--{table}." or (given.startswith("--") and not equals):
            raise UsageError(f"{option}: expected --{table}.NAME VALUE")
        found[option.removeprefix("--")] = given
    return rest, found


def _table(name: str) -> str:
    """The table of arguments that a dotted name is an entry of; "" for every other."""
    return next((table for table in KWARGS if name.startswith(f"{table}.")), "")


def _join_negative(arguments: Sequence[str], command: argparse.ArgumentParser) -> list[str]:
    """The arguments with "--time -3s" as "--time=-3s": argparse takes some negative values for options."""
    joined: list[str] = []
    for word in arguments:
        before = command._option_string_actions.get(joined[-1]) if joined else None
        if before and before.nargs is None and re.match(r"-(\.?\d|inf|nan)", word):
            joined[-1] += f"={word}" if joined[-1].startswith("--") else word
        else:
            joined.append(word)
    return joined


def _unknown(word: str, name: str, command: argparse.ArgumentParser) -> str:
    known = command._option_string_actions
    if not word.startswith("-"):
        return f"unknown argument '{word}' (troupe {name} --help)"
    section = word.lstrip("-").partition(".")[0]
    hint, there = config.suggest(word, known, SHORT), ""
    if name in _WITH_SETTINGS:
        there = f" {section}" if section in sections() else "" if hint else "-all"
    return f"unknown argument '{word}'{hint} (troupe {name} --help{there})"


def _build_parser() -> tuple[argparse.ArgumentParser, dict[str, argparse.ArgumentParser]]:
    """The parser, and those of the commands by name."""
    parser = _Parser(prog="troupe", description="Asynchronous actor-critic reinforcement learning.", allow_abbrev=False)
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    parser.add_argument("--version", action=_Version, nargs=0, help="show the version")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    by_name: dict[str, argparse.ArgumentParser] = {}

    def add(name: str, text: str) -> argparse.ArgumentParser:
        added = by_name[name] = commands.add_parser(
            name,
            help=text.replace("%", "%%"),
            description=text,
            allow_abbrev=False,
            add_help=name not in _WITH_SETTINGS,
        )
        added.set_defaults(name=name)
        return added

    one = add("train", "train an agent; all its files go to the run directory")
    one.add_argument("env", nargs="?", metavar="ENV", help="Gymnasium id, module:Id, or path/to/file.py:factory")
    one.add_argument("--preset", metavar="P", help="troupe presets lists them (appo)")
    one.add_argument("--seed", type=count(0), metavar="S", help="seed of all random numbers (0)")
    _add_config(one)
    one.add_argument(
        "--seeds", type=count(1), default=1, metavar="K", help="K runs with seeds S, S+1, ...: a table and a picture"
    )
    one.add_argument("--run-dir", metavar="DIR", help="the run's own directory (runs/ENV/DATE_TIME_seedS)")
    _add_callbacks(one)
    one.add_argument("--learners", type=count(1), default=1, metavar="N", help=_LEARNERS)
    one.add_argument("--watch", action="store_true", help="show the agent when it is trained")
    one.add_argument("--json", action="store_true", help="print one JSON object, and nothing else")
    _add_asked(one)

    one = add("compare", "train with several presets or settings, and seeds: one table, one picture")
    one.set_defaults(preset=None)
    one.add_argument("env", nargs="?", metavar="ENV", help="Gymnasium id, module:Id, or path/to/file.py:factory")
    one.add_argument("--presets", type=names, metavar="P,P,...", help="which; troupe presets lists them (appo)")
    one.add_argument(
        "--vary", action="append", default=[], metavar="NAME=V,V,...", help="values of a setting; repeat it for more"
    )
    one.add_argument("--seeds", type=count(1), default=3, metavar="K", help="K runs of each (3)")
    one.add_argument("--seed", type=count(0), metavar="S", help="with seeds S, S+1, ... (0)")
    _add_config(one)
    one.add_argument("--run-dir", metavar="DIR", help="the comparison's own folder (runs/ENV/DATE_TIME_compare)")
    _add_callbacks(one)
    _add_asked(one)

    one = add("tune", "search for better settings with Optuna, several runs at once, and verify the best")
    one.add_argument("env", metavar="ENV", help="Gymnasium id, module:Id, or path/to/file.py:factory")
    one.add_argument("--preset", default="appo", metavar="P", help="troupe presets lists them (appo)")
    one.add_argument("--trials", type=count(1), default=20, metavar="N", help="runs to search with (20)")
    one.add_argument("--time", type=config.seconds, default=0.0, metavar="T", help="begin no trial after T: 10m, 1h")
    one.add_argument("--space", metavar="FILE", help="the settings to vary, in TOML (docs/usage.md)")
    one.add_argument("--jobs", type=count(1), metavar="N", help="runs at once (as many as there are cores)")
    one.add_argument("--seed", type=count(0), default=0, metavar="S", help="seed of the search and of its runs (0)")
    one.add_argument("--seeds", type=count(2), default=5, metavar="K", help="fresh seeds to verify the best with (5)")
    one.add_argument("--run-dir", metavar="DIR", help="the search's own folder, to continue one too")
    _add_callbacks(one)
    one.add_argument("--untuned", action="store_true", help="ignore the settings tuned for this environment")
    add_short(one, "--steps", "stop.steps", "N", "steps of a trial (50k)", dest="stop.steps")
    add_settings(one)

    one = add("evaluate", "play episodes with a run's best agent and give the scores")
    _add_run(one, _AGENT)
    _add_env(one)
    one.add_argument("--episodes", type=count(1), default=100, metavar="N", help="episodes to play (100)")
    one.add_argument("--seed", type=count(0), default=0, metavar="S", help="seed of the environments (0)")
    how = one.add_mutually_exclusive_group()
    how.add_argument(
        "--greedy", action="store_true", default=None, help="greedy actions (default: as in the run's evaluations)"
    )
    how.add_argument("--stochastic", dest="greedy", action="store_false", help="actions sampled from the policy")
    one.add_argument("--json", action="store_true", help="print one JSON object")
    _add_code(one, "encoder", "backend")

    one = add("watch", "watch a run's best agent: in a window, a video file or the terminal")
    _add_run(one, _AGENT)
    _add_env(one)
    one.add_argument("--video", metavar="FILE", help="write FILE.mp4 or FILE.gif")
    one.add_argument("--terminal", action="store_true", help="draw in the terminal")
    one.add_argument("--episodes", type=count(1), default=3, metavar="N", help="episodes to show (3)")
    one.add_argument("--seed", type=count(0), default=0, metavar="S", help="seed of the environment (0)")
    _add_code(one, "encoder", "backend")

    one = add("export", "write a run's best agent as an ONNX file, for programs without troupe")
    _add_run(one, _AGENT)
    one.add_argument("file", metavar="FILE", help="FILE.onnx")
    _add_code(one, "encoder")

    one = add("resume", "continue a run from its newest checkpoint")
    _add_run(one)
    _add_env(one)
    one.add_argument(
        "--steps", type=count(1), metavar="N", help="new limit of steps (500k), those already made included"
    )
    one.add_argument("--time", type=config.seconds, metavar="T", help="new limit of training time, the spent included")
    add_short(one, "--target", "stop.target", "R", "new target: stop when an evaluation confirms R; none: no target")
    one.add_argument(
        "--anneal-steps", type=steps_or_auto, metavar="N",
        help="linear decay of the learning rate to 0 at step N, counted from the run's start; 0: constant; auto: "
        "down to 25 %% at the limit of steps (default: a number stays, auto continues from where it is)",
    )  # fmt: skip
    add_short(one, "--on-collapse", "collapse.answer", "A", _COLLAPSE)
    add_short(one, "--cluster", "actor.cluster", "ADDRESS", "another cluster for its actors; none: this machine")
    _add_callbacks(one)
    one.add_argument("--learners", type=count(1), default=1, metavar="N", help=_LEARNERS)
    one.add_argument("--quiet", action="store_true", help="print only the outcome")
    one.add_argument("--json", action="store_true", help="print one JSON object, and nothing else")
    _add_code(one, "loss", "optimizer", "encoder", "backend", "placement")
    for name, field in config.fields().items():
        if name.startswith("schedules."):
            add_short(one, f"--{name}", name, "V", f"another schedule: {text_of(field)}", dest=name)

    one = add("plot", "draw return against steps and seconds; five runs give mean and 95 % band")
    one.add_argument("runs", nargs="+", metavar="RUN", help="run directories")
    one.add_argument(
        "-o", "--output", default="learning.png", metavar="FILE", help="FILE.png, .svg or .pdf (learning.png)"
    )
    text = "metrics of the reports instead, such as entropy,shares.actor.wait (docs/metrics.md)"
    one.add_argument("--metric", type=names, dest="metrics", metavar="NAME,NAME,...", help=text)

    one = add("export-metrics", "write the metrics of runs as one table, for other programs")
    one.add_argument("runs", nargs="+", metavar="RUN", help="run directories, or folders that hold some")
    one.add_argument("-o", "--output", required=True, metavar="FILE", help="FILE.csv or FILE.parquet")
    kinds = "which rows: report, evaluation, collapse, gap or resume (docs/metrics.md; report)"
    one.add_argument("--kind", default="report", metavar="K", help=kinds)

    one = add("dashboard", "serve a page that shows all runs under a folder, while they train and afterwards")
    one.add_argument("folder", nargs="?", default="runs", metavar="FOLDER", help="which (runs)")
    one.add_argument(
        "--port", type=count(0), default=8770, metavar="N", help="of the page's address (8770); 0: a free one"
    )
    one.add_argument("--host", default="127.0.0.1", metavar="ADDRESS", help="the address to serve at (127.0.0.1)")
    one.add_argument("--remote", action="store_true", help="allow a --host that others can reach; there is no password")

    one = add("report", "write that page of one run as a single HTML file")
    one.add_argument("run", metavar="RUN", help="a run directory")
    one.add_argument("-o", "--output", required=True, metavar="FILE", help="FILE.html")

    one = add("replay", "run a recorded run (train --record) again in one thread, bit for bit")
    _add_run(one)
    _add_env(one)
    _add_code(one, "loss", "optimizer", "encoder", "backend")

    one = add("bench", "speed of each stage, the limit they imply, and what training reaches")
    one.add_argument("env", nargs="?", default="CartPole-v1", metavar="ENV", help="which environment (CartPole-v1)")
    one.add_argument(
        "--preset", default="impala", metavar="P", help="whose parts are measured (impala: one pass over every step)"
    )
    one.add_argument("--time", type=config.seconds, default="5s", metavar="T", help="how long to train (5s)")
    one.add_argument("--json", action="store_true", help="print one JSON object")
    add_settings(one)

    one = add("check", "play an environment at random: what is wrong with it, what is unwise, and what to change")
    one.add_argument("env", metavar="ENV", help="Gymnasium id, module:Id, or path/to/file.py:factory")
    one.add_argument("--steps", type=count(1), default=400, metavar="N", help="steps to play (400)")
    one.add_argument(
        "--seed", type=count(0), default=0, metavar="S", help="seed of the environment and the actions (0)"
    )
    one.add_argument("--json", action="store_true", help="print one JSON object")
    for name in ("env.kwargs", "env.wrappers", "env.max_steps", "env.ignore"):
        add_setting(one, name, text_of(config.fields()[name]))

    add("envs", "environments with tuned settings, and what they were seen to reach")
    add("presets", "what each preset is, and its source")
    return parser, by_name


_WITH_SETTINGS = ("train", "compare", "tune", "bench")  # commands with a help of their own
_COLLAPSE = "if the return collapses: report or rollback (report)"
_AGENT = "a run directory, a checkpoint of it (RUN/checkpoints/STEP), or a file of agent.save (NAME.safetensors)"
_LEARNERS = "processes that learn together (1; docs/learners.md)"


def _add_run(parser: argparse.ArgumentParser, text: str = "a run directory") -> None:
    parser.add_argument("run", metavar="RUN", help=text)
    trust = "import the code that the run names although you have not trained with it (SECURITY.md)"
    parser.add_argument("--trust", action="store_true", help=trust)
    _add_code(parser, "network")


def _add_code(parser: argparse.ArgumentParser, *names: str) -> None:
    for name in names:
        text = f"the run's own {name}, where its file is no longer there: path/to/file.py:NAME or module:NAME"
        add_short(parser, f"--{name}", hints.CODE[name], "NAME", text)


def _add_env(parser: argparse.ArgumentParser) -> None:
    text = "the run's environment, where its file is no longer there: an id, module:Id, or path/to/file.py:factory"
    parser.add_argument("--env", metavar="ENV", help=text)


def _add_config(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", metavar="FILE", help="settings in TOML, such as another run's config.toml")


def _add_callbacks(parser: argparse.ArgumentParser) -> None:
    text = "your own: FILE.py:NAME; or --track wandb, --track mlflow"
    parser.add_argument("--callbacks", action="append", default=[], metavar="NAME", help=text)
    parser.add_argument("--track", dest="callbacks", action="append", type=tracker, metavar="T", help=argparse.SUPPRESS)


def _add_asked(parser: argparse.ArgumentParser) -> None:
    """The arguments that a single run and several have in common."""
    parser.add_argument("--untuned", action="store_true", help="ignore the settings tuned for this environment")
    for option, name, metavar, text in (
        ("--steps", "stop.steps", "N", "stop after N steps: 300000, 100k, 1.5M, 1e6"),
        ("--target", "stop.target", "R", "stop when an evaluation confirms R; none: no target"),
        ("--actors", "actor.count", "N", "number of actors (auto: by measurement)"),
        ("--cluster", "actor.cluster", "ADDRESS", "actors on a Ray cluster; auto: this machine's"),
        ("--network", "network.custom", "NAME", "your own: path/to/file.py:NAME or module:NAME"),
        ("--on-collapse", "collapse.answer", "A", argparse.SUPPRESS),
        ("--on-env-error", "env.on_error", "A", argparse.SUPPRESS),
    ):
        add_short(parser, option, name, metavar, text, dest=name)
    text = "stop after T of training: 30s, 5m, 1.5h"
    parser.add_argument("--time", dest="stop.seconds", type=config.seconds, metavar="T", help=text)
    parser.add_argument("--quiet", action="store_true", help="print only the outcome")
    parser.add_argument("--record", action="store_true", default=None, help="keep a journal for troupe replay")
    add_settings(parser)


class _Version(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        from troupe.extras import version

        print(f"troupe {version()}")
        parser.exit()
