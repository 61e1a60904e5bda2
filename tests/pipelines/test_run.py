"""The record of a run repeats it, and says nothing about who ran it where."""

import hashlib
import json
import shlex
from pathlib import Path

import pytest

import medsci
from medsci.pipelines.run import Run, draw_seed, sha256_of, sidecar_of


@pytest.fixture
def run(tmp_path):
    private = tmp_path / "Jane Doe 1970"
    private.mkdir()
    source = private / "k space.h5"
    source.write_bytes(b"data")
    return Run(
        ("recon", "mri"),
        source,
        private / "recon.nii.gz",
        seed=7,
        options={"samples": 3, "noise": 0.01, "chunk": None, "report": private / "r.html"},
        model={"Name": "m", "Sha256": "0" * 64},
    )


def test_the_command_is_complete(run):
    assert shlex.split(run.command()) == [
        *("medsci", "recon", "mri", "-i", "k space.h5", "-o", "recon.nii.gz"),
        *("--samples", "3", "--noise", "0.01", "--report", "r.html", "--seed", "7"),
    ]


def test_the_record_names_no_folder(run, tmp_path):
    text = json.dumps(run.provenance())
    assert "Jane" not in text
    assert str(tmp_path) not in text
    assert str(Path.home()) not in text


def test_the_record_is_enough_to_tell_runs_apart(run):
    record = run.provenance()
    assert record["Version"] == medsci.__version__
    assert record["Seed"] == 7
    assert record["Inputs"] == [
        {"Name": "k space.h5", "Sha256": hashlib.sha256(b"data").hexdigest()}
    ]
    assert record["Options"] == {"samples": 3, "noise": 0.01, "report": "r.html"}
    assert record["Model"]["Name"] == "m"
    run.input.write_bytes(b"other")
    assert run.provenance() != record


@pytest.mark.parametrize(
    ("name", "sidecar"),
    [("a.nii.gz", "a.json"), ("a.b.nii", "a.b.json"), ("k.h5", "k.json"), ("x.dat", "x.dat.json")],
)
def test_sidecar_name(name, sidecar):
    assert sidecar_of(Path("f") / name) == Path("f") / sidecar


def test_hash_of_a_file_larger_than_a_block(tmp_path):
    path = tmp_path / "big"
    content = bytes(range(256)) * 5000
    path.write_bytes(content)
    assert sha256_of(path) == hashlib.sha256(content).hexdigest()


def test_drawn_seeds_differ_and_fit():
    drawn = {draw_seed() for _ in range(20)}
    assert len(drawn) > 15
    assert all(0 <= seed < 2**31 for seed in drawn)
