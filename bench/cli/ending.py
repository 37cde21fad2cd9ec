"""How a command ends: its exit code, one message, and for an error of ours a file with the traceback."""

from __future__ import annotations

import errno
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import NoReturn

from bench.errors import BenchError
from bench.printing import printable

INTERRUPTED, INTERNAL = 130, 70
EXIT_CODES = {  # docs/machine-output.md has this table
    0: "done",
    1: "a check failed",
    2: "an argument, a file or a set-up that cannot be used; or a pair of several failed",
    3: "done, but some images have no prediction: unreadable, or the isolated pipeline failed on them",
    INTERNAL: "an error of this program; the message names the file with the traceback",
    INTERRUPTED: "stopped by Ctrl-C; the same command continues",
    129: "stopped by SIGHUP: the terminal was closed; the same command continues",
    143: "stopped by SIGTERM: docker stop, Slurm, systemd; the same command continues",
}
DEVICE_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}


class Ended(KeyboardInterrupt):
    """SIGTERM or SIGHUP: what is done on Ctrl-C is done on these, too."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """Raise Ended inside the block, and leave it so, for SIGTERM and SIGHUP, unless they are ignored or handled."""
    process, ended = os.getpid(), list[Ended]()

    def end(number: int, _: FrameType | None) -> None:
        if os.getpid() == process:
            ended.append(Ended(number))
            raise ended[-1]
        signal.signal(number, signal.SIG_DFL)  # a forked worker
        os.kill(os.getpid(), number)

    # Only the main thread may set handlers; not every system has SIGHUP.
    main = threading.current_thread() is threading.main_thread()
    numbers = [signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else [])] if main else []
    taken = [number for number in numbers if signal.getsignal(number) is signal.SIG_DFL]
    for number in taken:
        signal.signal(number, end)
    try:
        yield
    except SystemExit:
        if ended:  # typer has made it an interruption of its own
            raise ended[-1] from None
        raise
    finally:
        for number in taken:
            signal.signal(number, signal.SIG_DFL)


def leave(error: BaseException) -> NoReturn:
    """Print what ended a command in one message, and exit with its code."""
    if isinstance(error, BenchError):
        _leave(str(error), error.exit_code, error.__cause__)
    if isinstance(error, Ended):
        _leave(f"stopped by {error}", 128 + error.number)
    if isinstance(error, KeyboardInterrupt):
        _leave("interrupted", INTERRUPTED)
    if isinstance(error, BrokenPipeError):  # `bench list | head`
        _close_stdout()
        sys.exit(0)
    if isinstance(error, OSError) and (line := _about_file(error)):
        _leave(line, 2, error)
    _leave(_internal(error), INTERNAL)


def _leave(line: str, code: int, cause: BaseException | None = None) -> NoReturn:
    with suppress(OSError):  # the terminal may be closed
        print(f"bench: {printable(line)}", file=sys.stderr)
        if cause is not None and _is_verbose():
            import traceback

            traceback.print_exception(cause)
    _close_stdout()
    sys.exit(code)


def _close_stdout() -> None:
    """Print what is left, so that the interpreter finds nothing to complain about at its end."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            with suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _is_verbose() -> bool:
    import logging

    return logging.getLogger().level == logging.INFO


def _about_file(error: OSError) -> str:
    """Say which file or device an OSError is about; "" for one that is about none."""
    if error.filename:
        return f"{str(error.filename)[:200]}: {error.strerror}"
    if error.errno in DEVICE_FULL:
        return f"the output cannot be written ({error.strerror}); free some space, or write it elsewhere"
    try:
        Path.cwd()
    except FileNotFoundError:
        return "the working folder does not exist any more; change to another one (cd)"
    return ""


def _internal(error: BaseException) -> str:
    """Write a file with the traceback; returns the line that names it."""
    import platform
    import tempfile
    import traceback
    from importlib.metadata import version

    from bench.errors import first_line
    from bench.runs.provenance import git_state, redacted

    text = "".join(traceback.format_exception(error))
    facts = f"grounding-bench {version('grounding-bench')}, commit {git_state()['commit']}, "
    facts += f"Python {platform.python_version()}, {platform.platform()}\n{' '.join(redacted())}\n\n"
    try:
        handle, path = tempfile.mkstemp(prefix="bench-error-", suffix=".txt")
        os.close(handle)
        Path(path).write_text(facts + text, encoding="utf-8", errors="backslashreplace")
    except OSError:
        print(text, file=sys.stderr)
        return f"internal error: {first_line(error)}; please report it with the traceback above and your command"
    return (
        f"internal error: {first_line(error)}; nothing you did should cause it. Please report it with the file {path}: "
        "it has the traceback, the versions and your command, without secrets"
    )
