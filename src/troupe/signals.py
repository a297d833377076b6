"""The signals that end a command in order."""

import signal

ENDING = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


def ending() -> tuple[int, ...]:
    """Those to handle: SIGHUP (the terminal was closed) stays ignored where it is, as under nohup."""
    ignored = {number for number in ENDING[2:] if signal.getsignal(number) is signal.SIG_IGN}
    return tuple(number for number in ENDING if number not in ignored)


def restore_defaults() -> None:
    """From here on they end the process at once, and say nothing."""
    for number in ENDING:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
