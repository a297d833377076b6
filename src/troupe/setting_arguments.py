"""The settings as arguments of a command: an option for each, and their help by groups."""

import argparse
from typing import Any

from troupe import config
from troupe.config import UsageError

WITH_OTHER_OPTIONS = ("preset", "tuned", "seed", "record", "env.id", "env.files")
KWARGS = ("env.kwargs", "loss.kwargs", "learner.optimizer_kwargs")
SHORT = {
    "actor.count": "--actors", "stop.steps": "--steps", "stop.seconds": "--time", "stop.target": "--target",
    "collapse.answer": "--on-collapse", "network.custom": "--network", "actor.cluster": "--cluster",
    "env.on_error": "--on-env-error",
}  # fmt: skip
_OFTEN = ("learner.learning_rate", "loss.gamma", "network.hidden", "network.core")


def add_short(
    parser: argparse.ArgumentParser, option: str, name: str, metavar: str, text: str, dest: str | None = None
) -> None:
    """An option that stands for the setting `name`; an error about its value calls it by the option."""
    also = "auto" if option == "--actors" else None

    def check(value: str) -> str:
        if value != also:
            config.check_option(option, name, value, also)
        return value

    parser.add_argument(option, dest=dest, type=check, metavar=metavar, help=text)


def sections() -> list[str]:
    """The groups of settings; those without a dot are `general`."""
    return list(dict.fromkeys(_section(name) for name in config.fields() if name not in WITH_OTHER_OPTIONS))


def _section(name: str) -> str:
    return name.rpartition(".")[0] or "general"


def add_settings(parser: argparse.ArgumentParser) -> None:
    """--<field> or --<section>.<field> for every setting; checked when the configuration is built, not here.

    The command's help shows those that are changed most often, and where the others are.
    """
    often = parser.add_argument_group("settings that are changed most often")
    for name, field in config.fields().items():
        if name not in WITH_OTHER_OPTIONS:
            group, text = (often, text_of(field)) if name in _OFTEN else (parser, argparse.SUPPRESS)
            add_setting(group, name, text)
    parser.add_argument(
        "-h",
        "--help",
        action=_Help,
        nargs="?",
        metavar="G",
        help="show this, or the settings of group G; --help-all: all",
    )
    parser.add_argument("--help-all", action=_Help, nargs=0, help=argparse.SUPPRESS)
    name = "[ENV]" if parser.get_default("env") else "ENV"
    parser.usage = f"{parser.prog} {name} [--OPTION VALUE ...]"
    parser.epilog = f"All settings by group: {parser.prog} --help GROUP, of {', '.join(sections())}."


def add_setting(group: Any, name: str, text: str) -> None:
    option = f"--{name}.NAME" if name in KWARGS else f"--{name}"
    group.add_argument(option, dest=name, metavar="V", help=text)


def text_of(field: config.Field) -> str:
    if field.name in KWARGS:
        return field.description
    choices = f" [{', '.join(field.choices)}]" if field.choices else ""
    default = ",".join(map(str, field.default)) if isinstance(field.default, tuple) else field.default
    return f"{field.description}{choices} ({default})".replace("%", "%%")


def settings_of(options: argparse.Namespace) -> dict[str, Any]:
    """The settings that were given on the command line, by dotted name."""
    names = [name for name in config.fields() if name not in WITH_OTHER_OPTIONS or name == "record"]
    given = {name: value for name in names if (value := getattr(options, name, None)) is not None}
    if given.get("actor.count") == "auto":
        del given["actor.count"]
        given["actor.auto"] = True
    return {**given, **options.kwargs}


def picked(options: argparse.Namespace, *names: str) -> dict[str, Any]:
    """The options that have the name of a keyword, to be passed on as they are."""
    return {name: getattr(options, name) for name in names}


class _Help(argparse.Action):
    """The command's help, or that of a group of settings, or of all."""

    def __call__(self, parser: argparse.ArgumentParser, _: Any, group: Any, option_string: str | None = None) -> None:
        groups = sections() if option_string == "--help-all" else [group] if group else []
        if unknown := [each for each in groups if each not in sections()]:
            raise UsageError(
                f"no group of settings '{unknown[0]}'{config.did_you_mean(unknown[0], sections())} "
                f"({parser.prog} --help-all shows all: {', '.join(sections())})"
            )
        if not groups or option_string == "--help-all":
            parser.print_help()
        for each in groups:
            page = argparse.ArgumentParser(usage=argparse.SUPPRESS, add_help=False)
            listed = page.add_argument_group(each)
            for name, field in config.fields().items():
                if name not in WITH_OTHER_OPTIONS and _section(name) == each:
                    add_setting(listed, name, text_of(field))
            print(f"{'' if each == group else chr(10)}{page.format_help()}", end="")
        if groups:
            print("\nValues in parentheses are the defaults, before the preset's own settings.")
        parser.exit()
