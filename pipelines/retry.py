"""What runs in a worker of a cluster: one case, begun perhaps before by a worker that died.

A case marks its beginning with a small hidden file beside its main output. Whoever finds the mark
of this run knows that an earlier worker got that far, and, since the main output is moved into
place last, whether it had finished: then the case is not done again.
"""

__all__ = ["Outcome", "Repeatable", "do_case", "killed", "mark_of", "outputs_of", "sweep"]

import functools
import glob
import json
import logging
import os
import socket
import threading
import traceback
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, final, runtime_checkable

import medsci
from medsci.errors import ExitCode, InvalidInputError, MedsciError
from medsci.pipelines.cases import Case, CaseReport, Work, attempt

_ONE_AT_A_TIME = threading.Lock()  # a worker with many threads still does one case at a time


@runtime_checkable
class Repeatable(Protocol):
    """Work that knows what a dead worker may have left behind."""

    def __call__(self, case: Case) -> CaseReport:
        """Do a case."""
        ...

    def files(self, case: Case) -> Mapping[str, Path]:
        """Name every output of a case by its kind, the main one last."""
        ...

    def again(self, case: Case) -> CaseReport:
        """Do a case that was begun and not finished; side outputs that are there are its own."""
        ...

    def finished(self, case: Case) -> CaseReport:
        """Report on a case whose outputs are complete, from what they say."""
        ...


@final
@dataclass(frozen=True)
class Outcome:
    """What comes back from a worker.

    Args:
        report: what became of the case.
        records: what medsci logged meanwhile: logger, level, message.
        warned: what was warned of meanwhile: text, file, line.
    """

    report: CaseReport
    records: tuple[tuple[str, int, str], ...] = ()
    warned: tuple[tuple[str, str, int], ...] = ()


def do_case(case: Case, pickled: bytes, *, run: str, version: str) -> Outcome:
    """Do one case on a worker; every error of its own comes back as a report.

    Args:
        case: which one.
        pickled: the work; the same bytes are unpickled once in each process.
        run: a word that is different in every run.
        version: medsci's, where the run was started.
    """
    with _ONE_AT_A_TIME, _listening() as (records, warned):
        report, error = attempt(case, functools.partial(_do, pickled, run=run, version=version))
        if error is not None:
            text = "".join(traceback.format_exception(error))
            records.append((__name__, logging.DEBUG, f"traceback of {case.input.name}\n{text}"))
    return Outcome(report, tuple(records), tuple(warned))


def mark_of(output: Path, *, run: str) -> Path:
    """Name the mark of a case that was begun: hidden, beside its main output."""
    return output.with_name(f".begun-{run}-{output.name}")


def outputs_of(case: Case, work: Work) -> list[Path]:
    """Name the outputs of a case as far as its work tells."""
    return [*work.files(case).values()] if isinstance(work, Repeatable) else [case.output]


def sweep(outputs: Iterable[Path]) -> None:
    """Remove the half-written temporary files that a killed worker left beside the outputs."""
    for path in outputs:
        for left in path.parent.glob(f".tmp-*-{glob.escape(path.name)}"):
            left.unlink(missing_ok=True)


def _do(pickled: bytes, case: Case, *, run: str, version: str) -> CaseReport:
    if version != medsci.__version__:
        raise MedsciError(
            f"the worker on {socket.gethostname()} has medsci {medsci.__version__}, this run has "
            f"{version}; install one version everywhere"
        )
    if not case.input.exists():
        raise InvalidInputError(
            f"the worker on {socket.gethostname()} does not see the input {case.input}; paths are "
            "given to workers as they are, so name a folder that all of them see"
        )
    work = _work_of(pickled, run)
    mark = mark_of(case.output, run=run)
    if not _begin(mark, case.output):
        return work(case)
    if json.loads(mark.read_text(encoding="utf-8") or "null") != _signature(case.output):
        if isinstance(work, Repeatable):
            return work.finished(case)
        return CaseReport(case.input.name, "done", outputs={"output": case.output})
    return work.again(case) if isinstance(work, Repeatable) else work(case)


@functools.lru_cache(maxsize=1)
def _work_of(pickled: bytes, run: str) -> Work:
    """Unpickle the work once in a process; the next run's displaces it, and what it had loaded."""
    from distributed.protocol.pickle import loads

    work: Work = loads(pickled)  # as everything from the scheduler, which runs code here anyway
    return work


def _begin(mark: Path, output: Path) -> bool:
    """Mark a case as begun, with the state of its output; say whether it was begun before."""
    mark.parent.mkdir(parents=True, exist_ok=True)
    if mark.exists():
        return True
    aside = mark.with_name(f"{mark.name}-{os.getpid()}-{socket.gethostname()}")
    aside.write_text(json.dumps(_signature(output)), encoding="utf-8")
    aside.replace(mark)  # whole or not there: a death in between must not look like a beginning
    return False


def _signature(path: Path) -> list[int] | None:
    """Tell two files of one name apart: a file that is moved into place has a new number."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return [found.st_ino, found.st_size, found.st_mtime_ns]


@contextmanager
def _listening() -> Iterator[tuple[list[tuple[str, int, str]], list[tuple[str, str, int]]]]:
    """Collect what medsci says in the block, so that it is said where the run was started."""
    records: list[tuple[str, int, str]] = []
    warned: list[tuple[str, str, int]] = []
    logger, handler = logging.getLogger("medsci"), _Collector(records)
    before = (logger.level, logger.propagate)
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    try:
        with warnings.catch_warnings(record=True) as caught:
            yield records, warned
        warned += [(str(one.message), one.filename, one.lineno) for one in caught]
    finally:
        logger.removeHandler(handler)
        logger.level, logger.propagate = before


@final
class _Collector(logging.Handler):
    def __init__(self, records: list[tuple[str, int, str]]) -> None:
        super().__init__()
        self._records = records

    def emit(self, record: logging.LogRecord) -> None:
        self._records.append((record.name, record.levelno, record.getMessage()))


def killed(case: Case, *, deaths: int) -> CaseReport:
    """Report on a case that was given up because its workers died."""
    return CaseReport(
        case.input.name,
        "failed",
        ExitCode.INTERNAL,
        error=(
            f"given up after {deaths} workers died on it; most often memory ran out: use fewer "
            "--workers, a smaller --chunk, or leave this case out"
        ),
    )
