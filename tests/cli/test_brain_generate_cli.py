"""`medsci brain generate`: options reach the job, wrong inputs give one line and the right code."""

import json
import shlex
import subprocess
import sys

import numpy as np
import pytest
import typer
from brain.tiny_generator import config, published, stored

import medsci.pipelines.brain_generate as jobs
from medsci.cli import main as program
from medsci.cli.brain_generate import generate
from medsci.cli.main import main
from medsci.imaging import Volume, read_nifti, write_nifti


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Models to choose from: ours, a published one, one of slices, and a damaged one."""
    folder = tmp_path_factory.mktemp("models")
    stored(folder)
    stored(folder, published())
    network = {"kind": "unet_2d", "channels": (8, 32), "res_blocks": (1, 1), "norm_groups": 4}
    flat = {"network": network, "covariates": (), "image_channels": ("real", "imaginary")}
    stored(folder, config(name="flat", training_size=(16, 16), voxel_size_mm=(1.0, 1.0), **flat))
    stored(folder, config(name="broken"))
    weights = folder / "broken" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + b"abcd")
    stored(folder, config(name="boxless", training_size=(), voxel_size_mm=()))
    return folder


@pytest.fixture
def run(capfd, store, monkeypatch):
    monkeypatch.setenv("MEDSCI_MODELS", str(store))
    monkeypatch.setattr(jobs, "warn_if_busy", lambda: None)
    if "brain" not in [group.name for group in program.app.registered_groups]:
        before = list(program.app.registered_groups)
        monkeypatch.setattr(program.app, "registered_groups", before)
        room = typer.Typer(no_args_is_help=True)
        room.callback()(lambda: None)
        room.command(name="generate")(generate)
        program.app.add_typer(room, name="brain")

    def call(*words) -> tuple[int, str, str]:
        capfd.readouterr()
        code = main(["brain", "generate", *map(str, words)])
        out, err = capfd.readouterr()
        return code, out, err

    return call


QUICK = ["--model", "tiny-head", "--steps", 3, "--device", "cpu", "--precision", "fp32"]


def test_every_option_reaches_the_job(run, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(
        "medsci.pipelines.brain_generate.generate_volumes",
        lambda output, *, job, **_: seen.append((output, job)) or 0,
    )
    words = "-n 3 --first 2 --steps 7 --solver ddim --seed 9 --centre fov --guidance 1.5"
    more = "--clip ddim --labels --hallucination --dtype uint16 --batch 2 --device cpu --model m"
    more += " --precision bf16 --memory sliced"
    conditions = "--condition brain_ml=1400 --condition fluid_fraction=0.2"
    code, _, err = run(
        "-o", tmp_path / "out", *words.split(), *more.split(), *conditions.split(),
        "--like", "a.nii.gz", "--condition-file", "b.csv", "--skip-existing",
    )  # fmt: skip
    assert code == 0, err
    output, job = seen[0]
    s = job.settings
    assert output == tmp_path / "out"
    assert (job.n, job.first, job.model, job.labels, job.dtype) == (3, 2, "m", True, "uint16")
    assert (s.seed, s.solver, s.n_steps, s.guidance, s.clip) == (9, "ddim", 7, 1.5, "ddim")
    assert (s.batch, s.maps, job.existing, job.device) == (2, True, "skip", "cpu")
    assert job.conditions == {"brain_ml": 1400.0, "fluid_fraction": 0.2}
    assert (job.like.name, job.condition_file.name, job.centre) == ("a.nii.gz", "b.csv", "fov")
    assert (job.precision, job.memory) == ("bfloat16", "sliced")


def test_the_recorded_command_makes_that_volume_again(run, tmp_path, monkeypatch):
    words = ["--condition", "brain_ml=1405.5", "--guidance", 2, "--labels", "--hallucination"]
    assert run("-o", tmp_path / "out", "-n", 2, *QUICK, *words, "--seed", 5)[0] == 0
    record = json.loads((tmp_path / "out" / "sub-gen0002_T1w.json").read_text())
    again = shlex.split(record["MedsciProvenance"]["Command"])
    assert again[:3] == ["medsci", "brain", "generate"]
    (tmp_path / "again").mkdir()
    monkeypatch.chdir(tmp_path / "again")
    assert run(*again[3:])[0] == 0
    made = {path.name: path.read_bytes() for path in (tmp_path / "again" / "out").iterdir()}
    assert len(made) == 5
    assert all((tmp_path / "out" / name).read_bytes() == data for name, data in made.items())
    assert run(*again[3:])[0] == 7


def test_json_is_one_object_per_volume_and_the_rest_is_on_stderr(run, tmp_path):
    words = ["-o", tmp_path / "out", "-n", 2, *QUICK, "--seed", 1, "--json"]
    code, out, err = run(*words)
    assert code == 0, err
    reports = [json.loads(line) for line in out.splitlines()]
    assert [(r["case"], r["status"]) for r in reports] == [
        ("sub-gen0001", "done"), ("sub-gen0002", "done"),
    ]  # fmt: skip
    assert reports[0]["result"]["achieved"]["brain_ml"] > 0
    assert "wrote" in err
    code, out, _ = run(*words, "--skip-existing")
    assert [json.loads(line)["status"] for line in out.splitlines()] == ["skipped", "skipped"]
    code, out, err = run(*words[:-1], "--overwrite", "--quiet")
    assert (code, out, err) == (0, "", "")


def test_a_seed_is_drawn_and_recorded_if_none_came(run, tmp_path):
    for name in "ab":
        assert run("-o", tmp_path / name, *QUICK)[0] == 0
    seeds = [
        json.loads((tmp_path / name / "sub-gen0001_T1w.json").read_text())["Generation"]["Seed"]
        for name in "ab"
    ]
    assert seeds[0] != seeds[1]


def test_a_condition_beyond_training_is_warned_of_and_done(run, tmp_path):
    code, _, err = run("-o", tmp_path / "out", *QUICK, "--condition", "fluid_fraction=0.7")
    assert code == 0
    warned = [line for line in err.splitlines() if line.startswith("warning: ")]
    assert len(warned) == 1
    assert "0.1 to 0.4" in warned[0]


def reference(folder, kind: str):
    array = np.zeros((8, 9, 7), np.float32)
    arrays = {
        "4d": np.stack([array, array], -1),
        "complex": array.astype(np.complex64),
        "good": array,
    }
    if kind == "empty file":
        (folder / "ref.nii.gz").write_bytes(b"")
        return folder / "ref.nii.gz"
    return write_nifti(Volume(arrays[kind], 4 * np.eye(4) - np.diag([0, 0, 0, 3])),
                       folder / "ref.nii.gz")  # fmt: skip


TABLES = {
    "short": "brain_ml\n1200\n",
    "words": "brain_ml\n1200\nlarge\n",
    "unknown": "brain_ml,age\n1200,40\n1300,50\n",
    "infinite": "brain_ml\n1200\ninf\n",
    "void": "",
}


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        ("-n 0", 2, "-n"),
        ("-n two", 2, "-n"),
        ("--first 0", 2, "first"),
        ("--model absent", 6, "no model 'absent'"),
        ("--model broken", 6, "damaged"),
        ("--model flat", 2, "2D images"),
        ("--model boxless", 2, "three of each"),
        ("--model tiny-published --labels", 2, "draws no tissue"),
        ("--model tiny-published --condition brain_ml=1300", 2, "takes no conditions"),
        ("--condition age=40", 2, "there are brain_ml, fluid_fraction"),
        ("--condition brain_ml", 2, "NAME=VALUE"),
        ("--condition brain_ml=nan", 2, "finite number"),
        ("--condition brain_ml=1300 --condition brain_ml=1400", 2, "came twice"),
        ("--condition-file short", 4, "1 rows for 2 volumes"),
        ("--condition-file words", 4, "line 3: brain_ml is 'large'"),
        ("--condition-file unknown", 2, "no condition 'age'"),
        ("--condition-file infinite", 4, "finite number"),
        ("--condition-file void", 4, "is empty"),
        ("--condition-file absent", 4, "does not exist"),
        ("--guidance -1", 2, "guidance"),
        ("--guidance 2", 2, "without a --condition"),
        ("--guidance nan --condition brain_ml=1300", 2, "guidance"),
        ("--steps 0", 2, "steps"),
        ("--steps 1 --hallucination", 2, "two or more"),
        ("--model tiny-published --steps 2000", 2, "cannot be sampled so"),
        ("--solver magic", 2, "magic"),
        ("--solver heun --clip ddim", 2, "use consistent"),
        ("--batch 0", 2, "batch"),
        ("--like 4d", 4, "one 3D volume"),
        ("--like absent", 4, "does not exist"),
        ("--like empty_file", 4, "is empty"),
        ("--like good --centre head", 4, "no head was found"),
        ("--centre fov", 2, "--like"),
        ("--device tpu", 2, "cuda"),
        ("--seed -1", 2, "seed"),
        ("--overwrite --skip-existing", 2, "contradict"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(run, tmp_path, words, code, says):
    given = words.split()
    for option, make in (("--like", reference), ("--condition-file", None)):
        if option not in given:
            continue
        place = given.index(option) + 1
        kind = given[place].replace("_", " ")
        if kind == "absent":
            given[place] = tmp_path / "absent.nii.gz"
        elif make is not None:
            given[place] = make(tmp_path, kind)
        else:
            given[place] = tmp_path / "table.csv"
            given[place].write_text(TABLES[kind])
    base = [*([] if "-n" in given else ["-n", 2]), *([] if "--steps" in given else ["--steps", 3])]
    base += [] if "--model" in given else ["--model", "tiny-head"]
    base += [] if "--seed" in given else ["--seed", 1]
    base += [] if "--device" in given else ["--device", "cpu"]
    found, out, err = run("-o", tmp_path / "out", *base, *given)
    assert found == code, err
    lines = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, err
    assert says in lines[0]
    assert "Traceback" not in err
    assert not out
    assert not (tmp_path / "out").exists()


def test_an_output_that_exists_is_code_7_and_one_that_is_a_file_code_2(run, tmp_path):
    assert run("-o", tmp_path / "out", *QUICK, "--seed", 1)[0] == 0
    before = (tmp_path / "out" / "sub-gen0001_T1w.nii.gz").read_bytes()
    code, _, err = run("-o", tmp_path / "out", *QUICK, "--seed", 2)
    assert code == 7
    assert err.count("error: ") == 1
    assert (tmp_path / "out" / "sub-gen0001_T1w.nii.gz").read_bytes() == before
    code, _, err = run("-o", tmp_path / "volume.nii.gz", *QUICK)
    assert code == 2
    assert "name one" in err


def test_like_keeps_the_affine(run, tmp_path):
    source = reference(tmp_path, "good")
    assert run("-o", tmp_path / "out", *QUICK, "--like", source)[0] == 0
    found = read_nifti(tmp_path / "out" / "sub-gen0001_T1w.nii.gz")
    np.testing.assert_array_equal(found.affine, read_nifti(source).affine)


def test_the_command_line_itself_loads_nothing_heavy():
    code = (
        "import sys, medsci.cli.brain_generate;"
        "print([n for n in ('torch', 'nibabel', 'monai', 'scipy') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]", done.stderr
