"""`medsci brain prep`: options reach the job, wrong inputs give one line and the right code."""

import json
import shlex

import nibabel as nib
import numpy as np
import pytest
import typer
from contracts.toy_head import toy_head

from medsci.cli import main as program
from medsci.cli.brain_prep import prep
from medsci.cli.main import main
from medsci.imaging import Volume, read_nifti, write_nifti


@pytest.fixture
def run(capfd, monkeypatch):
    group = next((g for g in program.app.registered_groups if g.name == "brain"), None)
    if group is None:  # the command before it is entered in the list of all
        before = list(program.app.registered_groups)
        monkeypatch.setattr(program.app, "registered_groups", before)
        brain = typer.Typer()
        brain.callback()(lambda: None)
        brain.command("prep")(prep)
        program.app.add_typer(brain, name="brain")

    def call(*words) -> tuple[int, str, str]:
        capfd.readouterr()
        code = main(["brain", "prep", *map(str, words)])
        out, err = capfd.readouterr()
        return code, out, err

    return call


@pytest.fixture(scope="module")
def head():
    return toy_head(spacing_mm=8.0)


@pytest.fixture
def given(head, tmp_path):
    image, brain = head
    mask = brain.with_array(brain.array.astype(np.uint8))
    return [
        "-i", write_nifti(image, tmp_path / "t1.nii.gz"),
        "--mask", write_nifti(mask, tmp_path / "m.nii.gz"),
    ]  # fmt: skip


def test_every_option_reaches_the_result(run, given, tmp_path):
    out = tmp_path / "o.nii.gz"
    words = "--fov 100,120,96 --spacing 10 --percentiles 1,99 --orientation RAS --dtype float32"
    code, told, err = run(*given, "-o", out, *words.split(), "--save-mask", "--json")
    assert code == 0, err
    found = read_nifti(out)
    assert found.shape == (10, 12, 9)
    assert found.orientation == ("R", "A", "S")
    assert found.array.dtype == np.float32
    assert found.array.min() == 0.0
    assert 0.8 < found.array.max() <= 1.0
    report = json.loads(told)
    assert report["result"]["mask"] == "given"
    assert report["result"]["shape"] == [10, 12, 9]
    assert report["outputs"]["mask"].endswith("o_mask.nii.gz")
    assert "lies outside the field of view" in err
    assert "ml of brain (given)" in err


def test_the_recorded_command_repeats_the_run(run, given, tmp_path, monkeypatch):
    out = tmp_path / "o.nii.gz"
    assert run(*given, "-o", out, "--spacing", "none", "--percentiles", "2,98")[0] == 0
    first = out.read_bytes()
    record = json.loads((tmp_path / "o.json").read_text())
    monkeypatch.chdir(tmp_path)
    again = shlex.split(record["MedsciProvenance"]["Command"])[3:]
    assert run(*again)[0] == 7, "it writes to the same name"
    assert run(*again, "--overwrite")[0] == 0
    assert out.read_bytes() == first
    code, told, _ = run(*again, "--skip-existing", "--json")
    assert (code, json.loads(told)["status"]) == (0, "skipped")


def spoilt(folder, image, kind):
    """Write an image that something is wrong with."""
    path = folder / f"{kind}.nii.gz"
    array = image.array
    bad = {
        "4d": np.stack([array] * 2, axis=-1),
        "nan": np.where(array > 100, np.nan, array).astype(np.float32),
        "constant": np.zeros_like(array),
        "mostly": np.where(np.arange(array.size).reshape(array.shape) < 3, 9, 0).astype(np.float32),
        "tiny": array[:4, :4, :4],
        "slice": array[:, :, :1],
        "complex": array.astype(np.complex64),
    }
    if kind in bad:
        return write_nifti(Volume(bad[kind], image.affine), path)
    if kind == "metres":
        return write_nifti(Volume(array, np.diag([8e3, 8e3, 8e3, 1.0])), path)
    if kind == "empty":
        path.write_bytes(b"")
    elif kind == "cut":
        whole = write_nifti(image, folder / "whole.nii.gz").read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
    elif kind == "singular":
        flat = np.diag([8.0, 8.0, 0.0, 1.0])
        file = nib.Nifti1Image(array, None)
        file.set_sform(flat, code=1)
        file.set_qform(None, code=0)
        nib.save(file, path)
    elif kind == "head":
        write_nifti(image, path)
    return path


def spoilt_mask(folder, image, kind):
    array = np.zeros(image.shape, np.float32)
    array[8:14, 8:14, 8:14] = 1
    affine = image.affine.copy()
    if kind == "empty":
        array[:] = 0
    elif kind == "nan":
        array[0, 0, 0] = np.nan
    elif kind == "far":
        affine[:3, 3] += 5000
    elif kind == "4d":
        array = np.stack([array] * 2, axis=-1)
    path = folder / f"mask_{kind}.nii.gz"
    return path if kind == "absent" else write_nifti(Volume(array, affine), path)


@pytest.mark.filterwarnings("default::medsci.imaging.GeometryWarning")
@pytest.mark.parametrize(
    ("image", "words", "code", "says"),
    [
        ("4d", "--mask good", 4, "one volume of three axes"),
        ("nan", "--mask good", 4, "NaN or infinite"),
        ("constant", "", 4, "is empty: 0 in every voxel"),
        ("mostly", "--mask good", 4, "are both 0"),
        ("tiny", "", 4, "at least 8 along each axis"),
        ("slice", "", 4, "at least 8 along each axis"),
        ("complex", "", 4, "take the magnitude"),
        ("metres", "", 4, "check the unit"),
        ("empty", "", 4, "is empty (0 bytes)"),
        ("cut", "", 4, "cut short or damaged"),
        ("singular", "", 4, "no invertible affine"),
        ("absent", "", 4, "does not exist"),
        ("head", "--mask empty", 4, "mask is empty"),
        ("head", "--mask nan", 4, "voxels of the mask are NaN"),
        ("head", "--mask far", 4, "does not overlap"),
        ("head", "--mask 4d", 4, "one volume of real numbers"),
        ("head", "--mask absent", 4, "the mask"),
        ("head", "--mask good --fov 10,20", 2, "--fov is '10,20'"),
        ("head", "--mask good --fov 10,20,-3", 2, "three positive sizes"),
        ("head", "--mask good --fov 9e6,9e6,9e6", 4, "smaller --fov"),
        ("head", "--mask good --spacing fine", 2, "rule, none or a size"),
        ("head", "--mask good --spacing 0", 2, "spacing is 0.0"),
        ("head", "--mask good --spacing nan", 2, "spacing is nan"),
        ("head", "--mask good --percentiles 99,1", 2, "low < high"),
        ("head", "--mask good --orientation ASL", 2, "ASL"),
        ("head", "--mask good --dtype int8", 2, "int8"),
        ("head", "--mask good --workers 2", 2, "--engine dask"),
        ("head", "--mask good --overwrite --skip-existing", 2, "contradict"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(run, head, tmp_path, image, words, code, says):
    given = words.split()
    if "--mask" in given:
        given[given.index("--mask") + 1] = spoilt_mask(tmp_path, head[0], given[1])
    source = spoilt(tmp_path, head[0], image)
    found, out, err = run("-i", source, "-o", tmp_path / "r.nii.gz", *given)
    assert found == code, err
    lines = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, err
    assert says in lines[0]
    assert "Traceback" not in err
    assert not out
    assert not (tmp_path / "r.nii.gz").exists()
    assert not (tmp_path / "r.json").exists()
