"""A cohort on a cluster: one report per case, and the files of a local run, whatever dies."""

import logging
import os
import signal
import threading
from collections import Counter

import pytest
from cohort_works import Reversing

from medsci.errors import ExitCode, InvalidInputError, UsageError
from medsci.pipelines.cases import Case, run_cases
from medsci.pipelines.engine import LOCAL, Engine

pytest.importorskip("distributed")

NAMES = [f"c{number:02d}.txt" for number in range(12)]


@pytest.fixture(autouse=True)
def time_out():
    """End a hanging test: the run's own handler closes the cluster."""
    timer = threading.Timer(120, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    yield
    timer.cancel()


@pytest.fixture
def cohort(tmp_path):
    """Twelve cases, by the folder that they are written to."""
    inputs = tmp_path / "in"
    inputs.mkdir()
    for name in NAMES:
        (inputs / name).write_text(f"the text of {name}")

    def cases(folder: str) -> list[Case]:
        return [Case(inputs / name, tmp_path / folder / f"{name}.out") for name in NAMES]

    return cases


def files_of(cases) -> dict[str, bytes]:
    """Every file beside the outputs, hidden ones too."""
    return {p.name: p.read_bytes() for p in cases[0].output.parent.iterdir()}


def run(cases, work, engine=LOCAL, **options):
    told = []
    code = run_cases(cases, work, batch=True, tell=told.append, engine=engine, **options)
    return code, {report.case: report for report in told}, told


def deaths(caplog) -> list[str]:
    return [r.getMessage() for r in caplog.records if "died during" in r.getMessage()]


def dask(workers=2, retries=3) -> Engine:
    return Engine("dask", workers=workers, retries=retries)


def test_a_killed_worker_costs_one_line_and_nothing_else(cohort, tmp_path, caplog):
    caplog.set_level(logging.INFO, logger="medsci")
    here, there = cohort("here"), cohort("there")
    run(here, Reversing())
    notes = tmp_path / "notes"
    work = Reversing(kills=frozenset(["c04.txt"]), when="between", notes=notes)
    steps = []
    progress = lambda *step: steps.append(step)  # noqa: E731
    code, reports, told = run(there, work, dask(), progress=progress)
    assert code == ExitCode.DONE
    assert sorted(reports) == NAMES
    assert len(told) == 12
    assert all(report.status == "done" for report in told)
    assert files_of(there) == files_of(here), "equal files, no marks and no halves"
    assert len(files_of(here)) == 24
    line = deaths(caplog)
    assert len(line) == 1
    assert "died during c04.txt" in line[0]
    assert not [r for r in caplog.records if r.name.startswith("distributed")]
    said = Counter(r.getMessage() for r in caplog.records if r.name == "medsci.test")
    assert set(said) == {f"at work on {name}" for name in NAMES}, "a worker's words are repeated"
    kept = [line.split() for line in notes.read_text().splitlines()]
    begun = Counter(word for kind, word in kept if kind == "begin")
    assert begun == Counter([*NAMES, "c04.txt"]), "only the case that died is done again"
    loads = Counter(word for kind, word in kept if kind == "load")
    assert set(loads.values()) == {1}, "loaded once per process"
    assert len(loads) <= 3
    assert steps == [(n, 12, "cases") for n in range(1, 13)]


def test_without_retries_the_case_is_reported_failed(cohort, caplog):
    """The control: what the retry is good for."""
    cases = cohort("out")
    work = Reversing(kills=frozenset(["c04.txt"]), bad=frozenset(["c06.txt"]))
    code, reports, told = run(cases, work, dask(retries=0))
    assert code == ExitCode.SOME_CASES_FAILED
    assert len(told) == len(reports) == 12
    failed = {name: r.error for name, r in reports.items() if r.status == "failed"}
    assert sorted(failed) == ["c04.txt", "c06.txt"]
    assert "given up after 1 worker" in failed["c04.txt"]
    assert failed["c06.txt"] == "c06.txt is bad; mend it"
    assert reports["c06.txt"].code == ExitCode.INVALID_INPUT
    assert len(deaths(caplog)) == 1
    assert len(files_of(cases)) == 20


@pytest.mark.slow
def test_a_case_that_always_kills_is_given_up_and_the_others_go_on(cohort, caplog):
    cases = cohort("out")
    work = Reversing(always=frozenset(["c00.txt"]), when="between")
    code, reports, _ = run(cases, work, dask(retries=2))
    assert code == ExitCode.SOME_CASES_FAILED
    assert [n for n, r in reports.items() if r.status == "failed"] == ["c00.txt"]
    assert "given up after 3 workers" in reports["c00.txt"].error
    assert len(deaths(caplog)) == 3
    left = set(files_of(cases)) - {f"{n}.{end}" for n in NAMES[1:] for end in ("out", "side")}
    assert left == {"c00.txt.side"}, "the main output is not there, and nothing hidden"


@pytest.mark.slow
def test_what_a_worker_finished_before_it_died_is_not_done_again(cohort, tmp_path, caplog):
    cases, notes = cohort("out"), tmp_path / "notes"
    work = Reversing(kills=frozenset(NAMES[:3]), when="after", notes=notes)
    code, reports, _ = run(cases, work, dask())
    assert code == ExitCode.DONE
    assert reports["c01.txt"].result == {"length": len("the text of c01.txt")}
    kept = Counter(notes.read_text().splitlines())
    for name in NAMES[:3]:
        assert (kept[f"begin {name}"], kept[f"again {name}"]) == (1, 0)
        assert kept[f"finished {name}"] == 1
    assert len(deaths(caplog)) == 3


@pytest.mark.slow
def test_a_single_case_raises_as_it_does_locally(cohort, capfd):
    told = []
    work = Reversing(bad=frozenset(["c00.txt"]))
    with pytest.raises(InvalidInputError, match="mend it"):
        run_cases(cohort("out")[:1], work, batch=False, tell=told.append, engine=dask(workers=1))
    assert told[0].status == "failed"
    assert capfd.readouterr() == ("", ""), "nobody else speaks"


def test_work_that_cannot_travel_is_refused_before_anything_starts(cohort):
    lock = threading.Lock()
    with pytest.raises(UsageError, match="define it in a module"):
        run(cohort("out"), lambda case: lock, dask())
