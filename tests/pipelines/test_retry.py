"""One case in a worker: begun once, finished by whom, and what its words become."""

import logging
import pickle
import threading

import cohort_works
import pytest
from cohort_works import Reversing

import medsci
from medsci.errors import ExitCode, OutputExistsError
from medsci.pipelines.cases import Case, CaseReport
from medsci.pipelines.retry import do_case, mark_of, sweep

RUN = {"run": "r", "version": medsci.__version__}


@pytest.fixture
def case(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.txt").write_text("abc")
    return Case(tmp_path / "in" / "a.txt", tmp_path / "out" / "a.out")


@pytest.fixture
def do(case):
    """Do the case with a work, each call as a fresh process would."""

    def call(work, run="r", version=medsci.__version__):
        from medsci.pipelines import retry

        retry._work_of.cache_clear()
        return do_case(case, pickle.dumps(work), run=run, version=version)

    return call


def test_the_mark_stays_until_the_report_has_arrived(case, do, tmp_path):
    notes = tmp_path / "notes"
    assert do(Reversing(notes=notes)).report.status == "done"
    assert mark_of(case.output, run="r").exists()
    again = do(Reversing(notes=notes)).report
    assert again.status == "done"
    assert again.result == {"length": 3}
    kept = [line.split()[0] for line in notes.read_text().splitlines()]
    assert kept == ["load", "begin", "finished"], "a lost report does not do the case twice"


def test_what_lay_there_before_is_not_taken_for_the_result(case, do, tmp_path):
    """Overwriting: an old output under the name says nothing about this run."""
    case.output.parent.mkdir()
    case.output.write_text("old")
    notes = tmp_path / "notes"
    refused = do(Reversing(notes=notes)).report  # the first attempt ends here, the old file stays
    assert refused.code == ExitCode.OUTPUT_EXISTS
    do(Reversing(notes=notes))
    assert "again a.txt" in notes.read_text()
    assert case.output.read_text() == "cba"


def test_side_outputs_of_a_dead_worker_are_replaced(case, do):
    mark = mark_of(case.output, run="r")
    mark.parent.mkdir()
    mark.write_text("null")
    side = case.output.with_suffix(".side")
    side.write_text("half")
    assert do(Reversing()).report.status == "done"
    assert side.read_text() == "ABC"
    mark.unlink()
    case.output.unlink()
    other = do(Reversing()).report
    assert other.code == ExitCode.OUTPUT_EXISTS, "without a mark they are somebody else's"


def test_another_run_knows_nothing_of_the_mark(case, do):
    do(Reversing())
    assert do(Reversing(), run="s").report.code == ExitCode.OUTPUT_EXISTS


def test_an_input_that_the_worker_does_not_see(case, do):
    case.input.unlink()
    report = do(Reversing()).report
    assert report.code == ExitCode.INVALID_INPUT
    assert "does not see the input" in report.error
    assert "name a folder that all of them see" in report.error


def test_another_version_is_refused(do):
    assert "one version everywhere" in do(Reversing(), version="0.0.0").report.error


@pytest.mark.filterwarnings("default")  # as in a worker process
def test_words_and_warnings_come_back(do):
    outcome = do(Reversing())
    assert ("medsci.test", logging.INFO, "at work on a.txt") in outcome.records
    text, file, line = do(cohort_works.warn, run="s").warned[0]
    assert (text, file) == ("the edge is near", cohort_works.__file__)
    assert line > 1
    failed = do(Reversing(bad=frozenset(["a.txt"])), run="t")
    assert "Traceback" in failed.records[-1][2]
    assert failed.records[-1][1] == logging.DEBUG
    assert not logging.getLogger("medsci").handlers


def test_a_worker_of_many_threads_does_one_case_at_a_time(case, tmp_path):
    pickled, notes = pickle.dumps(Timing(tmp_path / "notes")), tmp_path / "notes"
    threads = [
        threading.Thread(target=do_case, args=(case, pickled), kwargs={**RUN}) for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=20)
    assert notes.read_text().split() == ["in", "out"] * 3


class Timing:
    """Notes when it begins and ends."""

    def __init__(self, notes):
        self.notes = notes

    def __call__(self, case: Case) -> CaseReport:
        import time

        for word in ("in", "out"):
            with self.notes.open("a") as file:
                file.write(f"{word}\n")
            time.sleep(0.05)
        return CaseReport(case.input.name, "done")


def test_sweep_takes_only_the_halves_of_its_outputs(tmp_path):
    for name in (".tmp-01-a.nii", ".tmp-02-a.nii", ".tmp-01-ba.nii", "a.nii"):
        (tmp_path / name).touch()
    sweep([tmp_path / "a.nii"])
    assert sorted(p.name for p in tmp_path.iterdir()) == [".tmp-01-ba.nii", "a.nii"]


def test_a_finished_reconstruction_is_reported_as_it_was(tmp_path, kspace_of, quick_sampler):
    from medsci.pipelines.recon import ReconJob, ReconWork

    work = ReconWork(ReconJob(report=tmp_path / "pages"))
    case = Case(kspace_of(tmp_path / "k.h5"), tmp_path / "out" / "k.nii.gz")
    done = work(case)
    found = work.finished(case)
    assert {**found.as_dict(), "seconds": 0} == {**done.as_dict(), "seconds": 0}
    assert found.result["metrics"]["reconstruction"]["psnr_db"] > 20
    case.output.unlink()
    with pytest.raises(OutputExistsError):
        work(case)
    assert work.again(case).status == "done", "over its own side outputs"
    assert [call[0] for call in quick_sampler].count("load") == 1
