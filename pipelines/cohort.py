"""The cases of a job on the workers of a Dask cluster: one report each, whatever dies."""

__all__ = ["CohortTerminatedError", "on_cluster"]

import logging
import queue
import secrets
import signal
import threading
import warnings
from collections import Counter, deque
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from types import FrameType
from typing import Any, TypeAlias, final

from distributed import Client, Future, KilledWorker
from distributed.protocol.pickle import dumps

import medsci
from medsci.errors import ExitCode, MedsciError, UsageError
from medsci.pipelines import Progress
from medsci.pipelines.cases import Case, CaseReport, Work
from medsci.pipelines.cluster import connect
from medsci.pipelines.engine import Engine
from medsci.pipelines.retry import Outcome, do_case, killed, mark_of, outputs_of, sweep

_log = logging.getLogger(__name__)
_TICK_S = 1.0
_TICKS_BEFORE_WORD = 10  # without any worker
_Inbox: TypeAlias = "queue.SimpleQueue[tuple[str, Any]]"


class CohortTerminatedError(MedsciError):
    """The run was asked to end by SIGTERM."""

    exit_code = ExitCode.TERMINATED


def on_cluster(
    cases: Sequence[Case], work: Work, *, engine: Engine, progress: Progress | None = None
) -> Generator[CaseReport, None, None]:
    """Do every case on a cluster and give its report as it ends.

    A case whose worker dies is started again on another, at most `engine.retries` times. The
    cluster, or the connection to it, is closed with the generator.

    Raises:
        UsageError: the cluster cannot be had, the work cannot be pickled, or paths are relative and
            workers are elsewhere.
        KeyboardInterrupt: on Ctrl-C, after cases not begun are cancelled and all is closed.
        CohortTerminatedError: the same on SIGTERM.
    """
    engine.check_paths(path for case in cases for path in (case.input, case.output))
    inbox: _Inbox = queue.SimpleQueue()
    with ExitStack() as stack:
        stack.enter_context(_signals_to(inbox))
        cohort = _Cohort(cases, work, inbox=inbox)
        stack.callback(cohort.tidy, sweep_running=engine.starts_workers)
        client = stack.enter_context(connect(engine))
        stack.callback(cohort.cancel, client)
        total = len(cases)
        for done, report in enumerate(cohort.reports(client), start=1):
            if progress is not None:
                progress(done, total, "cases")
            yield report


@final
class _Cohort:
    """The state of one run: cases not given away yet, those that are, and who died on them."""

    def __init__(self, cases: Sequence[Case], work: Work, *, inbox: _Inbox) -> None:
        self._run = secrets.token_hex(6)
        self._cases = {f"medsci-{self._run}-{number}": case for number, case in enumerate(cases)}
        self._waiting = deque(self._cases)
        self._running: dict[str, Future] = {}
        self._deaths: Counter[str] = Counter()
        self._inbox = inbox
        self._work, self._pickled = work, _pickled(work)
        self._idle_ticks = 0

    def reports(self, client: Client) -> Iterator[CaseReport]:
        """Give work away, one case for each worker, and yield what comes back."""
        client.subscribe_topic("all", self._hear)
        while self._waiting or self._running:
            self._give(client)
            try:
                kind, what = self._inbox.get(timeout=_TICK_S)
            except queue.Empty:
                if client.status == "closed":
                    yield from self._give_up("the connection to the scheduler was lost")
                continue
            if kind == "signal":
                raise _stop(what)
            if kind == "death":
                self._mourn(what)
            elif what in self._running:
                yield self._take(what)

    def cancel(self, client: Client) -> None:
        """Take back what was given away; a case that a worker of others has begun runs on."""
        if client.status == "running":
            client.unsubscribe_topic("all")
            client.cancel(list(self._running.values()), force=True)

    def tidy(self, *, sweep_running: bool) -> None:
        """Remove the marks, and what was half written by workers that ended with this run."""
        for key, case in self._cases.items():
            mark_of(case.output, run=self._run).unlink(missing_ok=True)
            if sweep_running and key in self._running:
                sweep(outputs_of(case, self._work))

    def _give(self, client: Client) -> None:
        """Submit so many cases that each worker has one: none dies for its neighbour's sake."""
        if not self._waiting or client.status != "running":
            return
        n_workers = len(client.ncores())
        self._idle_ticks = 0 if n_workers else self._idle_ticks + 1
        if self._idle_ticks and self._idle_ticks % _TICKS_BEFORE_WORD == 0:
            _log.info("no worker yet; %d cases wait for one", len(self._waiting))
        while self._waiting and len(self._running) < n_workers:
            key = self._waiting.popleft()
            options = {"run": self._run, "version": medsci.__version__}
            future = client.submit(
                do_case, self._cases[key], self._pickled, **options, key=key, pure=False
            )
            self._running[key] = future
            future.add_done_callback(self._come)

    def _come(self, future: Future) -> None:
        self._inbox.put(("done", future.key))

    def _hear(self, event: tuple[float, Any]) -> None:
        """Pass on that a worker left while it had cases of ours; called in Dask's own thread."""
        message = event[1]
        if isinstance(message, dict) and message.get("action") == "remove-worker":
            keys = sorted(set(message["processing-tasks"]) & set(self._cases))
            if keys and not message["expected"]:
                self._inbox.put(("death", (message["worker"], keys)))

    def _mourn(self, death: tuple[str, list[str]]) -> None:
        worker, keys = death
        self._deaths.update(keys)
        names = ", ".join(self._cases[key].input.name for key in keys)
        _log.warning("worker %s died during %s", worker, names)

    def _take(self, key: str) -> CaseReport:
        future, case = self._running.pop(key), self._cases[key]
        error = future.exception() if future.status == "error" else None
        if isinstance(error, KilledWorker):
            self._hear_out(key)
            sweep(outputs_of(case, self._work))
            return killed(case, deaths=self._deaths[key])
        if future.status != "finished":
            return _unable(case, "it was cancelled on the cluster" if error is None else error)
        outcome: Outcome = future.result()
        future.release()
        _say(outcome)
        if self._deaths[key]:
            sweep(outputs_of(case, self._work))
        return outcome.report

    def _hear_out(self, key: str) -> None:
        """Wait for the word of the last death, which may come after the case was given up."""
        kept = []
        try:
            while self._deaths[key] == 0 or not self._inbox.empty():
                kind, what = self._inbox.get(timeout=_TICK_S)
                if kind == "death":
                    self._mourn(what)
                else:
                    kept.append((kind, what))
        except queue.Empty:
            self._deaths[key] = max(self._deaths[key], 1)
        for message in kept:
            self._inbox.put(message)

    def _give_up(self, why: str) -> Iterator[CaseReport]:
        for key in [*self._running, *self._waiting]:
            yield _unable(self._cases[key], why)
        self._running.clear()
        self._waiting.clear()


def _pickled(work: Work) -> bytes:
    try:
        return bytes(dumps(work))
    except Exception as error:
        raise UsageError(
            f"the work cannot be sent to workers: {error}; define it in a module that they can "
            "import, and let it load what it needs there"
        ) from error


def _say(outcome: Outcome) -> None:
    """Repeat what a worker logged and warned of, here, where somebody reads it."""
    for name, level, message in outcome.records:
        logging.getLogger(name).log(level, "%s", message)
    for text, file, line in outcome.warned:
        warnings.warn_explicit(text, UserWarning, file, line)


def _unable(case: Case, why: object) -> CaseReport:
    words = f"{type(why).__name__}: {why}" if isinstance(why, BaseException) else str(why)
    return CaseReport(
        case.input.name,
        "failed",
        ExitCode.INTERNAL,
        error=f"no worker could do it: {words}; every worker needs this medsci and what it imports",
    )


def _stop(number: int) -> BaseException:
    if number == signal.SIGINT:
        return KeyboardInterrupt()
    return CohortTerminatedError("terminated; finished cases are kept, go on with --skip-existing")


@contextmanager
def _signals_to(inbox: _Inbox) -> Iterator[None]:
    """Turn the first Ctrl-C or SIGTERM into a message; the second acts as it always did."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = (int(signal.SIGINT), int(signal.SIGTERM))
    before = {number: signal.getsignal(number) for number in numbers}

    def note(number: int, frame: FrameType | None) -> None:
        inbox.put(("signal", number))
        signal.signal(number, before[number])

    try:
        for number in numbers:
            signal.signal(number, note)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
