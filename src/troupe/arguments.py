"""The command line's arguments: what each command takes, its help, and errors for what was typed."""

import argparse
import re
from collections.abc import Sequence
from typing import Any, NoReturn

from troupe import config, hints
from troupe.argument_types import count, names, steps_or_auto
from troupe.config import UsageError


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
    return next((table for table in _KWARGS if name.startswith(f"{table}.")), "")


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
    hint, there = config.suggest(word, known, _SHORT), ""
    if name in _WITH_SETTINGS:
        there = f" {section}" if section in _sections() else "" if hint else "-all"
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
    one.add_argument("env", metavar="ENV", help="Gymnasium id, module:Id, or path/to/file.py:factory")
    one.add_argument("--preset", default="appo", metavar="P", help="troupe presets lists them (appo)")
    one.add_argument("--seed", type=count(0), default=0, metavar="S", help="seed of all random numbers (0)")
    one.add_argument(
        "--seeds", type=count(1), default=1, metavar="K", help="K runs with seeds S, S+1, ...: a table and a picture"
    )
    one.add_argument("--run-dir", metavar="DIR", help="the run's own directory (runs/ENV/DATE_TIME_seedS)")
    one.add_argument("--watch", action="store_true", help="show the agent when it is trained")
    one.add_argument("--json", action="store_true", help="print one JSON object, and nothing else")
    _add_asked(one)

    one = add("compare", "train with several presets or settings, and seeds: one table, one picture")
    one.add_argument("env", metavar="ENV", help="Gymnasium id, module:Id, or path/to/file.py:factory")
    one.add_argument("--presets", type=names, metavar="P,P,...", help="which; troupe presets lists them (appo)")
    one.add_argument(
        "--vary", action="append", default=[], metavar="NAME=V,V,...", help="values of a setting; repeat it for more"
    )
    one.add_argument("--seeds", type=count(1), default=3, metavar="K", help="K runs of each (3)")
    one.add_argument("--seed", type=count(0), default=0, metavar="S", help="with seeds S, S+1, ... (0)")
    one.add_argument("--run-dir", metavar="DIR", help="the comparison's own folder (runs/ENV/DATE_TIME_compare)")
    _add_asked(one)

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
    _add_short(one, "--target", "stop.target", "R", "new target: stop when an evaluation confirms R; none: no target")
    one.add_argument(
        "--anneal-steps", type=steps_or_auto, metavar="N",
        help="linear decay of the learning rate to 0 at step N, counted from the run's start; 0: constant; auto: "
        "down to 25 %% at the limit of steps (default: a number stays, auto continues from where it is)",
    )  # fmt: skip
    _add_short(one, "--on-collapse", "collapse.answer", "A", _COLLAPSE)
    _add_short(one, "--cluster", "actor.cluster", "ADDRESS", "another cluster for its actors; none: this machine")
    one.add_argument("--quiet", action="store_true", help="print only the outcome")
    one.add_argument("--json", action="store_true", help="print one JSON object, and nothing else")
    _add_code(one, "loss", "optimizer", "encoder", "backend", "placement")

    one = add("plot", "draw return against steps and seconds; five runs and more give a mean and a 95 % band")
    one.add_argument("runs", nargs="+", metavar="RUN", help="run directories")
    one.add_argument(
        "-o", "--output", default="learning.png", metavar="FILE", help="FILE.png, .svg or .pdf (learning.png)"
    )

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
    _add_settings(one)

    one = add("check", "play an environment at random: what is wrong with it, what is unwise, and what to change")
    one.add_argument("env", metavar="ENV", help="Gymnasium id, module:Id, or path/to/file.py:factory")
    one.add_argument("--steps", type=count(1), default=400, metavar="N", help="steps to play (400)")
    one.add_argument(
        "--seed", type=count(0), default=0, metavar="S", help="seed of the environment and the actions (0)"
    )
    one.add_argument("--json", action="store_true", help="print one JSON object")
    for name in ("env.kwargs", "env.wrappers", "env.max_steps", "env.ignore"):
        _add_setting(one, name, _text(config.fields()[name]))

    add("envs", "environments with tuned settings, and what they were seen to reach")
    add("presets", "what each preset is, and its source")
    return parser, by_name


WITH_OTHER_OPTIONS = ("preset", "tuned", "seed", "record", "env.id", "env.files")
_KWARGS = ("env.kwargs", "loss.kwargs", "learner.optimizer_kwargs")


_COLLAPSE = "if the return collapses: report, or rollback to the best weights with a smaller learning rate (report)"


_AGENT = "a run directory, a checkpoint of it (RUN/checkpoints/STEP), or a file of agent.save (NAME.safetensors)"


def _add_run(parser: argparse.ArgumentParser, text: str = "a run directory") -> None:
    parser.add_argument("run", metavar="RUN", help=text)
    _add_code(parser, "network")


def _add_code(parser: argparse.ArgumentParser, *names: str) -> None:
    for name in names:
        text = f"the run's own {name}, where its file is no longer there: path/to/file.py:NAME or module:NAME"
        _add_short(parser, f"--{name}", hints.CODE[name], "NAME", text)


def _add_env(parser: argparse.ArgumentParser) -> None:
    text = "the run's environment, where its file is no longer there: an id, module:Id, or path/to/file.py:factory"
    parser.add_argument("--env", metavar="ENV", help=text)


def _add_asked(parser: argparse.ArgumentParser) -> None:
    """What a single run and several take alike."""
    parser.add_argument(
        "--untuned", action="store_true", help="ignore the preset's tuned settings for this environment"
    )
    for option, name, metavar, text in (
        ("--steps", "stop.steps", "N", "stop after N steps: 300000, 100k, 1.5M, 1e6"),
        ("--target", "stop.target", "R", "stop when an evaluation confirms R; none: no target"),
        ("--actors", "actor.count", "N", "number of actors (auto: by measurement)"),
        ("--cluster", "actor.cluster", "ADDRESS", "actors on the hosts of a Ray cluster; auto: this machine's"),
        ("--network", "network.custom", "NAME", "your own: path/to/file.py:NAME or module:NAME"),
        ("--on-collapse", "collapse.answer", "A", _COLLAPSE),
    ):
        _add_short(parser, option, name, metavar, text, dest=name)
    text = "stop after T of training: 30s, 5m, 1.5h"
    parser.add_argument("--time", dest="stop.seconds", type=config.seconds, metavar="T", help=text)
    parser.add_argument("--quiet", action="store_true", help="print only the outcome")
    parser.add_argument("--record", action="store_true", default=None, help="keep a journal for troupe replay")
    _add_settings(parser)


def _add_short(
    parser: argparse.ArgumentParser, option: str, name: str, metavar: str, text: str, dest: str | None = None
) -> None:
    """An option that stands for the setting `name`; an error about its value calls it by the option."""
    also = "auto" if option == "--actors" else None

    def check(value: str) -> str:
        if value != also:
            config.check_option(option, name, value, also)
        return value

    parser.add_argument(option, dest=dest, type=check, metavar=metavar, help=text)


_WITH_SETTINGS = ("train", "compare", "bench")  # commands with a help of their own
_SHORT = {
    "actor.count": "--actors", "stop.steps": "--steps", "stop.seconds": "--time", "stop.target": "--target",
    "collapse.answer": "--on-collapse", "network.custom": "--network", "actor.cluster": "--cluster",
}  # fmt: skip
_OFTEN = ("learner.learning_rate", "loss.gamma", "network.hidden", "network.core")


def _sections() -> list[str]:
    """The groups of settings; those without a dot are `general`."""
    return list(dict.fromkeys(_section(name) for name in config.fields() if name not in WITH_OTHER_OPTIONS))


def _section(name: str) -> str:
    return name.rpartition(".")[0] or "general"


def _add_settings(parser: argparse.ArgumentParser) -> None:
    """--<field> or --<section>.<field> for every setting; checked when the configuration is built, not here.

    The command's help shows those that are changed most often, and where the others are.
    """
    often = parser.add_argument_group("settings that are changed most often")
    for name, field in config.fields().items():
        if name not in WITH_OTHER_OPTIONS:
            group, text = (often, _text(field)) if name in _OFTEN else (parser, argparse.SUPPRESS)
            _add_setting(group, name, text)
    parser.add_argument("-h", "--help", action=_Help, nargs="?", metavar="GROUP", help="show this, or GROUP's settings")
    parser.add_argument("--help-all", action=_Help, nargs=0, help="show every setting")
    name = "[ENV]" if parser.get_default("env") else "ENV"
    parser.usage = f"{parser.prog} {name} [--OPTION VALUE ...]"
    parser.epilog = f"All settings by group: {parser.prog} --help GROUP, of {', '.join(_sections())}."


def _add_setting(group: Any, name: str, text: str) -> None:
    option = f"--{name}.NAME" if name in _KWARGS else f"--{name}"
    group.add_argument(option, dest=name, metavar="V", help=text)


def _text(field: config.Field) -> str:
    if field.name in _KWARGS:
        return field.description
    choices = f" [{', '.join(field.choices)}]" if field.choices else ""
    default = ",".join(map(str, field.default)) if isinstance(field.default, tuple) else field.default
    return f"{field.description}{choices} ({default})".replace("%", "%%")


class _Help(argparse.Action):
    """The command's help, or that of a group of settings, or of all."""

    def __call__(self, parser: argparse.ArgumentParser, _: Any, group: Any, option_string: str | None = None) -> None:
        groups = _sections() if option_string == "--help-all" else [group] if group else []
        if unknown := [each for each in groups if each not in _sections()]:
            raise UsageError(
                f"no group of settings '{unknown[0]}'{config.did_you_mean(unknown[0], _sections())} "
                f"({parser.prog} --help-all shows all: {', '.join(_sections())})"
            )
        if not groups or option_string == "--help-all":
            parser.print_help()
        for each in groups:
            page = argparse.ArgumentParser(usage=argparse.SUPPRESS, add_help=False)
            listed = page.add_argument_group(each)
            for name, field in config.fields().items():
                if name not in WITH_OTHER_OPTIONS and _section(name) == each:
                    _add_setting(listed, name, _text(field))
            print(f"{'' if each == group else chr(10)}{page.format_help()}", end="")
        if groups:
            print("\nValues in parentheses are the defaults, before the preset's own settings.")
        parser.exit()


class _Version(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        from troupe.extras import version

        print(f"troupe {version()}")
        parser.exit()
