"""One file, a folder or a glob: the cases of a job, and what became of each."""

__all__ = ["Case", "CaseReport", "Work", "attempt", "find_cases", "run_cases", "stem_of"]

import glob
import logging
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias, final

from medsci.errors import (
    ExitCode,
    InvalidInputError,
    MedsciError,
    OutputExistsError,
    UsageError,
    WeightsError,
)
from medsci.pipelines import Progress
from medsci.pipelines.engine import LOCAL, Engine
from medsci.pipelines.failure import explain

_log = logging.getLogger(__name__)


@final
@dataclass(frozen=True)
class Case:
    """An input file and the main output it leads to."""

    input: Path
    output: Path


@final
@dataclass(frozen=True)
class CaseReport:
    """What became of one case; `as_dict` is the object that `--json` prints.

    Args:
        case: name of the input file.
        status: done, skipped (complete before) or failed.
        code: exit code of this case alone.
        outputs: kind of output -> path.
        result: numbers worth telling, JSON types only.
        error: the message, where the case failed.
        seconds: wall time.
    """

    case: str
    status: Literal["done", "skipped", "failed"]
    code: ExitCode = ExitCode.DONE
    outputs: Mapping[str, Path] = field(default_factory=dict)
    result: Mapping[str, Any] = field(default_factory=dict)
    error: str | None = None
    seconds: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        """Give the report as JSON types; wall time is only here and never in a written file."""
        known: dict[str, Any] = {
            "case": self.case,
            "status": self.status,
            "exit_code": int(self.code),
            "outputs": {kind: str(path) for kind, path in self.outputs.items()},
            "result": dict(self.result),
            "seconds": round(self.seconds, 3),
        }
        return known if self.error is None else {**known, "error": self.error}


def find_cases(
    source: str | Path, output: Path, *, patterns: Sequence[str], suffix: str
) -> tuple[tuple[Case, ...], bool]:
    """Resolve an input argument to its cases, sorted by name.

    Args:
        source: a file; a folder, whose files matching `patterns` are taken; or a quoted glob.
        output: the main output for a file, a folder for a folder or a glob.
        patterns: what to look for in a folder, for example `("*.h5",)`.
        suffix: ending of the main output, for example ".nii.gz".

    Returns:
        The cases, and whether they came from a folder or glob.

    Raises:
        InvalidInputError: nothing is there.
        UsageError: many inputs and an output that is a file, or two inputs with one output.
    """
    path = Path(source)
    if path.is_file():
        return (Case(path, output),), False
    if path.is_dir():
        found = [file for pattern in patterns for file in path.glob(pattern) if file.is_file()]
        wanted = " or ".join(patterns)
        missing = f"the input folder {path} holds no {wanted} file; name another folder"
    elif glob.has_magic(str(source)):
        names = glob.glob(str(source), recursive=True)  # noqa: PTH207 - Path.glob takes no absolute one
        found = [Path(name) for name in names if Path(name).is_file()]
        missing = f"no file matches the input {source}; check the pattern and its quotes"
    else:
        found, missing = [], f"the input {path} does not exist; check its name"
    if not found:
        raise InvalidInputError(missing)
    if output.is_file() or output.name.endswith((suffix, *(p.lstrip("*") for p in patterns))):
        raise UsageError(
            f"the input {source} stands for many files, but the output {output} names one; "
            "name a folder"
        )
    return _with_outputs(sorted(set(found)), output, suffix=suffix), True


def _with_outputs(inputs: Sequence[Path], folder: Path, *, suffix: str) -> tuple[Case, ...]:
    cases = tuple(Case(path, folder / f"{stem_of(path)}{suffix}") for path in inputs)
    owner: dict[Path, Path] = {}
    for case in cases:
        first = owner.setdefault(case.output, case.input)
        if first != case.input:
            raise UsageError(
                f"{first} and {case.input} would both be written to {case.output}; "
                "run them separately or rename one"
            )
    return cases


def stem_of(path: Path) -> str:
    """Give a file's name without its ending, `.nii.gz` being one ending."""
    return path.name.removesuffix(".gz").rpartition(".")[0] or path.name


Work: TypeAlias = Callable[[Case], CaseReport]
"""Does one case. On a cluster it is pickled once and lives once in every process, so what it loads
into itself (a `cached_property`) is loaded once per process. See `retry.Repeatable` for work that
writes more than its main output."""

_Attempt: TypeAlias = tuple[CaseReport, Exception | None]


def run_cases(
    cases: Sequence[Case],
    work: Work,
    *,
    batch: bool,
    tell: Callable[[CaseReport], None],
    engine: Engine = LOCAL,
    progress: Progress | None = None,
) -> ExitCode:
    """Do the work for each case; in a batch report a failing one and go on with the next.

    Args:
        cases: what to do, each with its own main output.
        work: does one case; for a cluster it must survive pickling.
        batch: whether the cases came from a folder or glob.
        tell: called once for each case, as it ends: in order locally, as they end on a cluster.
        engine: where the cases are done.
        progress: called as cases end, on a cluster; local work tells about its own steps.

    Returns:
        DONE, or SOME_CASES_FAILED when a case of a batch failed.

    Raises:
        Exception: whatever a single case (`batch=False`) raised, after telling about it; from a
            cluster as the error of `medsci.errors` with the same words and exit code.
        KeyboardInterrupt: at once, in a batch too.
    """
    failed = 0
    with closing(_attempts(cases, work, batch=batch, engine=engine, progress=progress)) as attempts:
        for report, error in attempts:
            tell(report)
            if report.status != "failed":
                continue
            if not batch:
                raise error or _error_of(report)
            failed += 1
            _log.error("%s: %s", report.case, report.error)
            if error is not None:
                _log.debug("traceback of %s", report.case, exc_info=error)
    if failed:
        _log.error("%d of %d cases failed", failed, len(cases))
    return ExitCode.SOME_CASES_FAILED if failed else ExitCode.DONE


def attempt(case: Case, work: Work) -> _Attempt:
    """Do one case; an error becomes a report that says so, with the error beside it."""
    start = time.perf_counter()
    try:
        return work(case), None
    except Exception as error:  # noqa: BLE001 - one failing case must not stop the others
        failure = explain(error)
        seconds = time.perf_counter() - start
        name = case.input.name
        report = CaseReport(name, "failed", failure.code, error=failure.message, seconds=seconds)
        return report, error


def _attempts(
    cases: Sequence[Case],
    work: Work,
    *,
    batch: bool,
    engine: Engine,
    progress: Progress | None,
) -> Generator[_Attempt, None, None]:
    if engine.kind == "dask":
        from medsci.pipelines.cohort import on_cluster

        with closing(on_cluster(cases, work, engine=engine, progress=progress)) as reports:
            yield from ((report, None) for report in reports)
        return
    for number, case in enumerate(cases, start=1):
        if batch:
            _log.info("case %d of %d: %s", number, len(cases), case.input.name)
        yield attempt(case, work)


def _error_of(report: CaseReport) -> MedsciError:
    """Give the error that a report speaks of; the one that was raised stayed on its worker."""
    kinds = (UsageError, InvalidInputError, WeightsError, OutputExistsError)
    kind = next((kind for kind in kinds if kind.exit_code == report.code), MedsciError)
    error = kind(report.error)
    error.exit_code = report.code
    return error
