"""A file, a folder and a glob become cases; one that fails does not stop the others."""

from pathlib import Path

import pytest

from medsci.errors import ExitCode, InvalidInputError, OutputExistsError, UsageError
from medsci.pipelines.cases import Case, CaseReport, find_cases, run_cases, stem_of

PATTERNS = ("*.h5", "*.hdf5")


def find(source, output):
    return find_cases(source, output, patterns=PATTERNS, suffix=".nii.gz")


@pytest.fixture
def folder(tmp_path):
    inputs = tmp_path / "in"
    inputs.mkdir()
    for name in ("b.h5", "a.hdf5", "c.h5", "notes.txt"):
        (inputs / name).write_text(name)
    (inputs / "sub.h5").mkdir()
    return inputs


def test_one_file_keeps_its_output_name(folder, tmp_path):
    cases, batch = find(folder / "b.h5", tmp_path / "x.nii.gz")
    assert cases == (Case(folder / "b.h5", tmp_path / "x.nii.gz"),)
    assert not batch


def test_a_folder_gives_its_files_sorted(folder, tmp_path):
    cases, batch = find(folder, tmp_path / "out")
    assert batch
    assert [c.input.name for c in cases] == ["a.hdf5", "b.h5", "c.h5"]
    assert [c.output for c in cases] == [tmp_path / "out" / f"{n}.nii.gz" for n in "abc"]


def test_a_glob_gives_what_it_matches(folder, tmp_path):
    cases, batch = find(str(folder / "[bc].h5"), tmp_path / "out")
    assert batch
    assert [c.input.name for c in cases] == ["b.h5", "c.h5"]


def test_a_file_whose_name_looks_like_a_glob_is_a_file(tmp_path):
    odd = tmp_path / "scan[1].h5"
    odd.write_text("")
    cases, batch = find(str(odd), tmp_path / "x.nii.gz")
    assert not batch
    assert cases[0].input == odd


@pytest.mark.parametrize(
    ("source", "words"),
    [("gone.h5", "does not exist"), ("*.dat", "no file matches"), ("empty", "holds no")],
)
def test_nothing_found_is_invalid_input(tmp_path, source, words):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InvalidInputError, match=words):
        find(str(tmp_path / source), tmp_path / "out")


def test_many_inputs_need_a_folder(folder, tmp_path):
    with pytest.raises(UsageError, match="names one; name a folder"):
        find(folder, tmp_path / "x.nii.gz")


def test_two_inputs_with_one_output_are_refused(folder, tmp_path):
    (folder / "a.h5").write_text("")
    with pytest.raises(UsageError, match="would both be written"):
        find(folder, tmp_path / "out")


@pytest.mark.parametrize(
    ("name", "stem"), [("a.h5", "a"), ("a.nii.gz", "a"), ("a.b.h5", "a.b"), ("bare", "bare")]
)
def test_stem(name, stem):
    assert stem_of(Path(name)) == stem


def three():
    return [Case(Path(f"{n}.h5"), Path(f"{n}.nii.gz")) for n in "abc"]


def fail_on_b(case: Case) -> CaseReport:
    if case.input.name == "b.h5":
        raise InvalidInputError("b is bad; mend it")
    return CaseReport(case.input.name, "done")


def test_a_batch_goes_on_after_a_failure():
    told: list[CaseReport] = []
    code = run_cases(three(), fail_on_b, batch=True, tell=told.append)
    assert code == ExitCode.SOME_CASES_FAILED
    assert [(r.case, r.status) for r in told] == [
        ("a.h5", "done"),
        ("b.h5", "failed"),
        ("c.h5", "done"),
    ]
    assert told[1].code == ExitCode.INVALID_INPUT
    assert told[1].as_dict()["error"] == "b is bad; mend it"


def test_a_batch_without_failures_is_done():
    def work(case: Case) -> CaseReport:
        return CaseReport(case.input.name, "done")

    assert run_cases(three(), work, batch=True, tell=lambda _: None) == ExitCode.DONE


def test_a_single_case_raises_its_own_error_after_telling():
    told: list[CaseReport] = []

    def work(case: Case) -> CaseReport:
        raise OutputExistsError("it is there")

    with pytest.raises(OutputExistsError):
        run_cases(three()[:1], work, batch=False, tell=told.append)
    assert told[0].code == ExitCode.OUTPUT_EXISTS


def test_an_interrupt_stops_a_batch():
    seen: list[str] = []

    def work(case: Case) -> CaseReport:
        seen.append(case.input.name)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_cases(three(), work, batch=True, tell=lambda _: None)
    assert seen == ["a.h5"]
