"""`recon tune` from the outside: words become a job, results reach stdout, errors are one line."""

import json
import shlex

import pytest
import yaml
from contracts.ct_scans import prior_folder, scan_file

from medsci.cli.main import main

QUICK = "--option n_steps=3 --budget 3 --slices 1 --device cpu --precision float32"


@pytest.fixture(scope="module")
def room(tmp_path_factory):
    found = tmp_path_factory.mktemp("tune")
    scan_file(found / "scan.h5")
    prior_folder(found / "tiny", drawn=False)
    return found


@pytest.fixture
def tune(room, capfd, monkeypatch):
    monkeypatch.chdir(room)

    def call(words: str, *, base: str = "-i scan.h5 --prior tiny") -> tuple[int, str, str]:
        capfd.readouterr()
        code = main(["recon", "tune", "ct", *shlex.split(f"{base} {words}")])
        return code, *capfd.readouterr()

    return call


def test_options_reach_the_job_and_the_result_is_told(tune, room):
    code, out, err = tune(
        f"-o a.yaml {QUICK} --range lam=0.01:1 --range lr=0.05:0.2 --seed 5 --json"
    )
    assert code == 0, err
    record = yaml.safe_load((room / "a.yaml").read_text())
    made = record["provenance"]["Options"]
    assert record["provenance"]["Seed"] == 5
    assert (made["budget"], made["slices"], made["judge"]) == (3, 1, "auto")
    assert made["range"] == "lam=0.01:1.0,lr=0.05:0.2"
    assert all(set(trial["options"]) == {"lam", "lr"} for trial in record["trials"][1:])
    (line,) = out.splitlines()
    told = json.loads(line)
    assert told["result"]["options"] == record["options"]
    assert told["result"]["default_score"] == record["default_score"]
    assert told["outputs"] == {"settings": "a.yaml"}
    assert "runs: 3/3" in err
    assert "wrote a.yaml" in err


def test_the_recorded_command_repeats_the_run(tune, room):
    tune(f"-o b.yaml {QUICK} -i scan.h5 --judge held-out")
    before = (room / "b.yaml").read_bytes()
    words = shlex.split(yaml.safe_load(before)["provenance"]["Command"])
    assert words[:5] == ["medsci", "recon", "tune", "ct", "-i"]
    assert words.count("-i") == 2
    assert main(words[1:]) == 7, "it writes to the same name"
    assert (room / "b.yaml").read_bytes() == before
    assert main([*words[1:], "--overwrite", "-q"]) == 0
    assert (room / "b.yaml").read_bytes() == before
    assert main([*words[1:-1], "77", "--overwrite", "-q"]) == 0
    assert (room / "b.yaml").read_bytes() != before, "another seed"


@pytest.mark.parametrize(
    ("words", "code", "say"),
    [
        ("--range lambd=0.1:1", 2, "did you mean lam"),
        ("--range lam=1:0.1", 2, "0 < low < high"),
        ("--range lam=0.1", 2, "give NAME=LOW:HIGH"),
        ("--range lam", 2, "give NAME=LOW:HIGH"),
        ("--range lam=a:b", 2, "give NAME=LOW:HIGH"),
        ("--option lam", 2, "give NAME=VALUE"),
        ("--budget 0", 2, "budget=0 came"),
        ("--slices 0", 2, "slices=0 came"),
        ("--solver ddrm", 2, "none is known of projections"),
        ("--solver nonesuch", 2, "nonesuch"),
        ("--samples 2", 2, "seeks one image"),
        ("--prior absent", 6, "absent"),
        ("-i absent.h5", 4, "absent.h5 does not exist"),
        ("-o c.txt", 2, "name it *.yaml"),
        ("-o scan.h5.yaml -i tiny", 4, "is a folder"),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(tune, room, words, code, say):
    found, _, err = tune(f"-o c.yaml {words}")
    assert found == code, err
    errors = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert say in errors[0]
    assert "Traceback" not in err
    assert not list(room.glob("c.*"))


def test_k_space_is_no_sinogram(tune, room, kspace_of):
    kspace_of(room / "k.h5")
    code, _, err = tune("-i k.h5 -o d.yaml --prior tiny", base="")
    assert code == 4
    assert "k.h5" in err


def test_mri_takes_coil_maps(room, kspace_of, capfd, monkeypatch):
    monkeypatch.chdir(room)
    kspace_of(room / "m.h5")
    prior_folder(room / "two", channels=2, window=None, drawn=False)
    words = f"-i m.h5 -o e.yaml --prior two --solver red-diff --maps low_res -q {QUICK}"
    assert main(["recon", "tune", "mri", *shlex.split(words)]) == 0, capfd.readouterr().err
    record = yaml.safe_load((room / "e.yaml").read_text())
    assert record["domain"] == "mri"
    assert record["provenance"]["Options"]["maps"] == "low_res"


def test_recon_takes_what_was_found(tune, room, capfd):
    tune(f"-o d.yaml {QUICK} --solver red-diff --seed 5")
    found = yaml.safe_load((room / "d.yaml").read_text())
    words = "recon ct -i scan.h5 --prior tiny --seed 1 --device cpu --precision float32 -q"
    given = ["--settings", "d.yaml", "--option", "lr=0.07"]
    assert main([*words.split(), "-o", "d.nii.gz", *given]) == 0, capfd.readouterr().err
    record = json.loads((room / "d.json").read_text())
    assert record["Reconstruction"]["method"] == "red-diff"
    assert record["Reconstruction"]["n_steps"] == 3
    assert record["Reconstruction"]["lr"] == 0.07
    for name, value in found["options"].items():
        if name != "lr":
            assert str(record["Reconstruction"][name]) == str(value)
    capfd.readouterr()
    assert (
        main([*words.split()[:2], "-i", "scan.h5", "-o", "e.nii.gz", "--settings", "no.yaml"]) == 4
    )
    assert "no.yaml" in capfd.readouterr().err
