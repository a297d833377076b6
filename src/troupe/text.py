"""Numbers, durations, tables and wrapped lines as text for users; imports nothing else of troupe."""

import textwrap
from collections.abc import Iterable, Sequence


def format_return(value: float | None) -> str:
    """A mean return: two decimals below 10, where a game is won or lost for 1 or 0; "-" for None."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:,.1f}" if abs(value) >= 10 else f"{value:.2f}"


def format_score(value: float) -> str:
    """The return of one episode in few characters: whole numbers without decimals."""
    if not abs(value) < 1e6:
        return f"{value:.3g}"
    return f"{value:,.0f}" if value == int(value) or abs(value) >= 1e4 else f"{value:,.1f}"


def format_value(value: float) -> str:
    """A value estimate or a component of an action: two decimals below 100."""
    if not abs(value) < 1e6:
        return f"{value:.3g}"
    return f"{value:.2f}" if abs(value) < 100 else f"{value:,.0f}"


def setting_text(value: object) -> str:
    """The value of a setting as the command line takes it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return ",".join(map(setting_text, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def format_speed(value: float | None) -> str:
    """A number in a second; "-" as long as it is not known."""
    return "-" if value is None else f"{value:,.0f}"


def counted(number: int, what: str) -> str:
    """'1 trial', '20 trials'."""
    return f"{number:,} {what}{'s' * (number != 1)}"


def format_duration(seconds: float) -> str:
    """12 s, 3 m 05 s or 2 h 07 m."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02} m"
    return f"{minutes} m {seconds:02} s" if minutes else f"{seconds} s"


def table(rows: Sequence[Sequence[str]], alignment: str = "", separator: str = "  ") -> list[str]:
    """A line for each row, its cells padded to the width of their columns.

    `alignment` has '<' (left) or '>' (right) for each column; columns beyond its end are aligned to the left.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    formats = [f"{side}{width}" for side, width in zip(alignment.ljust(len(widths), "<"), widths, strict=True)]
    return [separator.join(map(format, row, formats)).rstrip() for row in rows]


def by_value(values: Iterable[tuple[str, str]]) -> str:
    """'475 (appo; impala), none (article)', of pairs of a name and a value; the value alone where all have the same."""
    names: dict[str, list[str]] = {}
    for name, value in dict.fromkeys(values):
        names.setdefault(value, []).append(name)
    if len(names) > 1:
        return ", ".join(f"{value} ({'; '.join(those)})" for value, those in names.items())
    return next(iter(names), "none")


def wrapped(line: str, width: int | None) -> list[str]:
    """The line in pieces of at most `width` characters, broken at spaces; those after the first are indented further.

    A longer word, such as a path, stays whole. None: no limit.
    """
    if width is None or len(line) <= width:
        return [line]
    indent = " " * (len(line) - len(line.lstrip()) + 2)
    return textwrap.wrap(line, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)
