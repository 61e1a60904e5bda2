"""`medsci restore`: options reach the job, wrong inputs give one line and the right code."""

import json
import shlex

import numpy as np
import pytest
from torch import Tensor, nn

import medsci.pipelines.restore as jobs
from medsci.cli import main as program
from medsci.cli.main import main
from medsci.cli.restore import restore
from medsci.core import Path
from medsci.imaging import Volume, read_nifti, write_nifti
from medsci.pipelines.restore import RestorePrior
from medsci.recon.restore_settings import PriorUnits


class Halfway(nn.Module):
    """Pull every pixel towards 0.5."""

    def __init__(self) -> None:
        super().__init__()
        self.path = Path.vp_cosine()

    def forward(self, x: Tensor, t: float) -> Tensor:
        return 0.5 + 0.5 * (x - 0.5)


@pytest.fixture
def used(monkeypatch):
    """Collect the settings that reach the prior."""
    found: list = []

    def load(name, *, settings):
        found.append((name, settings))
        window = (-1000.0, 1000.0) if name == "ct" else None
        return RestorePrior(name, "c" * 64, Halfway(), PriorUnits(1 if window else 2, window))

    monkeypatch.setattr(jobs, "load_restore_prior", load)
    monkeypatch.setattr(jobs, "warn_if_busy", lambda: None)
    return found


@pytest.fixture
def run(capfd, used, monkeypatch):
    names = [c.name for c in program.app.registered_commands]
    if "restore" not in names:  # the command before it is entered in the list of all
        before = list(program.app.registered_commands)
        monkeypatch.setattr(program.app, "registered_commands", before)
        program.app.command(name="restore")(restore)

    def call(*words) -> tuple[int, str, str]:
        capfd.readouterr()
        code = main(["restore", *map(str, words)])
        out, err = capfd.readouterr()
        return code, out, err

    return call


def test_every_option_reaches_the_job(run, used, t1_file, tmp_path):
    words = "--task superres --method dds3d --samples 2 --steps 3 --noise 4 --factor 3 --axes k"
    more = "--seed 9 --chunk 2 --precision float32 --device cpu --set eta=0.5,consistency.n_cg=2"
    code, _, err = run(
        "-i", t1_file, "-o", tmp_path / "r.nii.gz", *words.split(), *more.split(), "--prior", "x"
    )
    assert code == 0, err
    name, settings = used[0]
    assert name == "x"
    assert (settings.task, settings.method, settings.n_samples) == ("superres", "dds3d", 2)
    assert (settings.n_steps, settings.noise, settings.factor) == (3, 4.0, 3)
    assert (settings.axes, settings.seed, settings.chunk) == ("k", 9, 2)
    assert settings.options == {"eta": "0.5", "consistency.n_cg": "2"}
    assert (tmp_path / "r_std.nii.gz").exists()


def test_the_recorded_command_repeats_the_run(run, t1_file, tmp_path, monkeypatch):
    words = ["--task", "deblur", "--fwhm", 2.5, "--steps", 3, "--set", "eta=0.5"]
    out = tmp_path / "r.nii.gz"
    assert run("-i", t1_file, "-o", out, *words)[0] == 0
    first = out.read_bytes()
    record = json.loads((tmp_path / "r.json").read_text())
    monkeypatch.chdir(tmp_path)
    again = shlex.split(record["MedsciProvenance"]["Command"])[2:]
    assert run(*again)[0] == 7, "it writes to the same name"
    assert run(*again, "--overwrite")[0] == 0
    assert out.read_bytes() == first


def test_json_and_skip(run, t1_file, tmp_path):
    words = ["-i", t1_file, "-o", tmp_path / "r.nii.gz", "--task", "denoise", "--json"]
    code, out, err = run(*words, "--reference", t1_file)
    assert code == 0
    report = json.loads(out)
    assert report["result"]["metrics"]["input"] == {"ssim": pytest.approx(1.0)}, "PSNR is infinite"
    assert "PSNR" in err
    code, out, _ = run(*words, "--skip-existing")
    assert (code, json.loads(out)["status"]) == (0, "skipped")


def bad_image(folder, kind: str):
    rng = np.random.default_rng(0)
    good = np.abs(rng.normal(100, 10, (16, 16, 3))).astype(np.float32)
    arrays = {
        "4d": np.stack([good, good], axis=-1),
        "nan": np.where(good > 110, np.nan, good),
        "constant": np.ones_like(good),
        "thin": good[:4],
        "complex": good.astype(np.complex64),
        "negative": -good,
        "good": good,
    }
    return write_nifti(Volume(arrays[kind], np.eye(4)), folder / f"{kind}.nii.gz")


def bad_mask(folder, kind: str):
    mask = np.zeros((16, 16, 3), np.float32)
    mask[4:6, 4:6] = 1
    affine = np.eye(4)
    if kind == "size":
        mask = mask[:, :8]
    elif kind == "empty":
        mask = np.zeros_like(mask)
    elif kind == "full":
        mask = np.ones_like(mask)
    elif kind == "nan":
        mask[0, 0, 0] = np.nan
    elif kind == "moved":
        affine[0, 3] = 5.0
    return write_nifti(Volume(mask, affine), folder / f"mask_{kind}.nii.gz")


@pytest.mark.parametrize(
    ("image", "words", "code", "says"),
    [
        ("4d", "--task denoise", 4, "three axes"),
        ("nan", "--task denoise", 4, "NaN"),
        ("constant", "--task denoise", 4, "no image"),
        ("thin", "--task denoise", 4, "at least 8"),
        ("complex", "--task denoise", 4, "magnitude"),
        ("negative", "--task denoise", 4, "magnitudes"),
        ("negative", "--task bias", 4, "not negative"),
        ("good", "--task denoise --prior ct", 4, "Hounsfield"),
        ("good", "--task inpaint", 2, "needs --mask"),
        ("good", "--task inpaint --mask size", 4, "mask has shape"),
        ("good", "--task inpaint --mask empty", 4, "mask is empty"),
        ("good", "--task inpaint --mask full", 4, "covers its slices"),
        ("good", "--task inpaint --mask nan", 4, "voxels of the mask are NaN"),
        ("good", "--task inpaint --mask moved", 4, "lies elsewhere"),
        ("good", "--task inpaint --mask absent", 4, "does not exist"),
        ("good", "--task denoise --mask size", 2, "belongs to the task"),
        ("good", "--task superres --factor 0", 2, "factor"),
        ("good", "--task deblur", 2, "needs the width"),
        ("good", "--task deblur --fwhm -2", 2, "positive width"),
        ("good", "--task deblur --fwhm 500", 4, "check the width"),
        ("good", "--task denoise --noise -1", 2, "noise"),
        ("good", "--task denoise --noise inf", 2, "standard deviation"),
        ("good", "--task denoise --method n4", 2, "is for the task bias"),
        ("good", "--task deblur --fwhm 2 --method magic", 2, "no method"),
        ("good", "--task deblur --fwhm 2 --set eta", 2, "NAME=VALUE"),
        ("good", "--task deblur --fwhm 2 --set etta=1", 2, "did you mean eta"),
        ("good", "--task sharpen", 2, "sharpen"),
        ("good", "--task denoise --device tpu", 2, "cuda"),
        ("good", "--task denoise --samples 1 --std s.nii.gz", 2, "no spread"),
        ("good", "--task denoise --overwrite --skip-existing", 2, "contradict"),
        ("absent", "--task denoise", 4, "does not exist"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(run, tmp_path, image, words, code, says):
    source = tmp_path / "absent.nii.gz" if image == "absent" else bad_image(tmp_path, image)
    given = words.split()
    if "--mask" in given:
        place = given.index("--mask") + 1
        kind = given[place]
        given[place] = tmp_path / "no.nii.gz" if kind == "absent" else bad_mask(tmp_path, kind)
    found, out, err = run("-i", source, "-o", tmp_path / "r.nii.gz", *given, "--seed", 1)
    assert found == code, err
    lines = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, err
    assert says in lines[0]
    assert "Traceback" not in err
    assert not out
    assert not (tmp_path / "r.nii.gz").exists()
    assert not (tmp_path / "r.json").exists()


def test_the_output_must_be_nifti(run, t1_file, tmp_path):
    code, _, err = run("-i", t1_file, "-o", tmp_path / "r.png", "--task", "denoise")
    assert code == 2
    assert "*.nii.gz" in err


def test_integers_stay_integers(run, t1_file, tmp_path):
    volume = read_nifti(t1_file)
    source = write_nifti(volume.with_array(volume.array.astype(np.uint8)), tmp_path / "u.nii.gz")
    assert run("-i", source, "-o", tmp_path / "r.nii.gz", "--task", "denoise")[0] == 0
    assert read_nifti(tmp_path / "r.nii.gz").array.dtype == np.uint8
