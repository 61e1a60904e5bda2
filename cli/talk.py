"""What a command says: messages and bars on stderr, JSON objects on stdout."""

__all__ = ["Talk", "talk_of"]

import json
import logging
import sys
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, final

import typer

import medsci
from medsci.errors import UsageError
from medsci.pipelines import Progress
from medsci.pipelines.cases import CaseReport

_LEVELS = {-1: logging.ERROR, 0: logging.INFO}  # by verbosity; above: DEBUG
_SECONDS_BETWEEN_LINES = 10.0

# One voice per run. The parser could carry it to the commands as its context, but the context it
# passes is of a private class, which no annotation can name.
_running: ContextVar["Talk"] = ContextVar("running")


@final
class Talk:
    """The voice of one run of the command line.

    Args:
        verbosity: -1 errors only, 0 messages, 1 details, 2 details and tracebacks.
        as_json: print one JSON object per case on stdout.
    """

    def __init__(self, *, verbosity: int = 0, as_json: bool = False) -> None:
        self.verbosity = verbosity
        self.as_json = as_json

    @contextmanager
    def running(self) -> Iterator[None]:
        """Speak for the block: medsci's log and Python's warnings go to stderr."""
        logger, handler = logging.getLogger("medsci"), _Stderr(self)
        token = _running.set(self)
        before = (logger.level, logger.propagate)
        logger.addHandler(handler)
        logger.setLevel(logging.DEBUG)
        logger.propagate = False
        try:
            with warnings.catch_warnings():
                warnings.showwarning = _show_warning
                yield
        finally:
            _running.reset(token)
            logger.removeHandler(handler)
            logger.level, logger.propagate = before

    def say(self, text: str) -> None:
        """Print the answer of a command that answers with text."""
        typer.echo(text)

    def emit(self, record: Mapping[str, Any]) -> None:
        """Print one object on one line of stdout, if JSON was asked for."""
        if self.as_json:
            typer.echo(json.dumps(record, sort_keys=True, allow_nan=False))

    def tell(self, report: CaseReport) -> None:
        """Say what became of a case, on stdout if JSON was asked for."""
        self.emit(report.as_dict())
        if report.status == "skipped":
            logging.getLogger("medsci").info("%s: output exists, skipped", report.case)

    def error(self, message: str) -> None:
        """Print the one message that a failed command ends with."""
        typer.echo(f"error: {message}", err=True)

    @contextmanager
    def progress(self) -> Iterator[Progress | None]:
        """Show long work: a bar on a terminal, now and then a line elsewhere, nothing if quiet."""
        if self.verbosity < 0:
            yield None
        elif sys.stderr.isatty():
            with _bar() as update:
                yield update
        else:
            yield _lines()


def talk_of(*, quiet: bool = False, verbose: int = 0, as_json: bool = False) -> Talk:
    """Give the voice of the running command, set to what the command was asked for."""
    if quiet and verbose:
        raise UsageError("--quiet and --verbose contradict each other; give one")
    talk = _running.get(None) or Talk()
    talk.verbosity = -1 if quiet else verbose
    talk.as_json = as_json
    return talk


@final
class _Stderr(logging.Handler):
    """Writes records to whatever stderr is now, so that a live bar can move out of their way."""

    def __init__(self, talk: Talk) -> None:
        super().__init__()
        self._talk = talk

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno < _LEVELS.get(self._talk.verbosity, logging.DEBUG):
            return
        lead = "" if record.levelno < logging.WARNING else f"{record.levelname.lower()}: "
        typer.echo(lead + record.getMessage(), err=True)
        if record.exc_info and self._talk.verbosity > 1:
            typer.echo(logging.Formatter().formatException(record.exc_info), err=True)


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: object = None,
    line: str | None = None,
) -> None:
    """Log a warning of ours for everybody, one of a library's only for those who want details."""
    log = logging.getLogger("medsci.warnings")
    if any(Path(filename).is_relative_to(room) for room in _our_folders()):
        log.warning("%s", message)
    else:
        log.debug("%s:%d: %s: %s", filename, lineno, category.__name__, message)


def _our_folders() -> list[Path]:
    rooms = [
        medsci,
        *(module for name, module in sys.modules.items() if name == "medsci.pipelines"),
    ]
    return [Path(module.__file__).parent for module in rooms if module.__file__]


@contextmanager
def _bar() -> Iterator[Progress]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.progress import Progress as Bar

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=None)

        def update(done: int, total: int, text: str) -> None:
            bar.update(task, completed=done, total=total, description=text)

        yield update


def _lines() -> Progress:
    last_text, last_time = "", 0.0

    def update(done: int, total: int, text: str) -> None:
        nonlocal last_text, last_time
        now = time.monotonic()
        recent = now - last_time < _SECONDS_BETWEEN_LINES
        if text == last_text and recent and done < total:
            return
        last_text, last_time = text, now
        typer.echo(f"{text}: {done}/{total}", err=True)

    return update
