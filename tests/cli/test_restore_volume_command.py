"""`medsci restore --prior` with a stored model of volumes, from the command line to the files."""

import json

import numpy as np
import pytest

from medsci.cli.main import main
from medsci.errors import ExitCode
from medsci.imaging import Volume, read_nifti, write_nifti

SIZE, VOXEL = (12, 16, 12), 16.0


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Store a tiny untrained model of volumes."""
    from medsci.models.config import ModelConfig, RectifiedConfig
    from medsci.models.store import fresh_denoiser, save_denoiser
    from medsci.nets.config import UNet3dConfig

    network = UNet3dConfig(
        in_channels=4, out_channels=4, channels=(32, 32), res_blocks=(1, 1), head_channels=32
    )
    config = ModelConfig(
        name="tiny-volumes", network=network, path=RectifiedConfig(),
        image_channels=("t1", "fluid", "grey", "white"), value_range=(-1.0, 1.0),
        training_size=SIZE, voxel_size_mm=(VOXEL,) * 3,
    )  # fmt: skip
    root = tmp_path_factory.mktemp("models")
    denoiser = fresh_denoiser(config, seed=0, precision="float32")
    save_denoiser(denoiser, root / "tiny-volumes", config=config, card="untrained")
    return root


@pytest.fixture
def run(monkeypatch, capfd, store):
    import medsci.pipelines.restore as jobs

    monkeypatch.setenv("MEDSCI_MODELS", str(store))
    monkeypatch.setattr(jobs, "warn_if_busy", lambda: None)

    def call(*words) -> tuple[int, str]:
        capfd.readouterr()
        code = main(["restore", "--prior", "tiny-volumes", "--device", "cpu", *map(str, words)])
        return code, capfd.readouterr()[1]

    return call


@pytest.fixture
def thick_file(tmp_path):
    """A ball in 8 x 8 x 32 mm voxels, axes to the left, to posterior and up."""
    affine = np.array([[-8.0, 0, 0, 92], [0, -8, 0, 124], [0, 0, 32, -80], [0, 0, 0, 1]])
    index = np.indices((24, 32, 6)).reshape(3, -1)
    place = affine[:3, :3] @ index + affine[:3, 3:]
    ball = np.where(np.linalg.norm(place, axis=0) < 75.0, 500, 0).reshape(24, 32, 6)
    return write_nifti(Volume(ball.astype(np.int16), affine, sform_code=1), tmp_path / "in.nii.gz")


def test_super_resolution_from_the_command_line(run, thick_file, tmp_path):
    out = tmp_path / "out.nii.gz"
    options = ("--task", "superres", "--steps", 3, "--seed", 1, "--samples", 2, "--labels",
               "--thickness", 30, "--centre=0,0,0", "--quiet")  # fmt: skip
    assert run("-i", thick_file, "-o", out, *options) == (0, "")
    found = read_nifti(out)
    assert found.shape == SIZE
    assert found.spacing_mm == pytest.approx((VOXEL,) * 3)
    assert found.orientation == ("R", "A", "S")
    assert found.array.dtype == np.int16
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"in.nii.gz", "out.nii.gz", "out_std.nii.gz", "out_labels.nii.gz", "out.json"}
    record = json.loads((tmp_path / "out.json").read_text())["MedsciProvenance"]
    assert record["Model"]["Name"] == "tiny-volumes"
    assert record["Options"]["thickness"] == 30.0
    kept = out.read_bytes()
    assert run("-i", thick_file, "-o", out, *options, "--overwrite") == (0, "")
    assert out.read_bytes() == kept


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--task", "superres", "--centre", "0,zero"), "three numbers X,Y,Z"),
        (("--task", "superres", "--thickness", "-3"), "thickness_mm"),
        (("--task", "denoise", "--method", "mmse"), "choose dds3d"),
        (("--task", "denoise", "--centre=5000,0,0"), "does not meet"),
        (("--task", "bias", "--labels"), "--labels came"),
    ],
)
def test_says_what_is_wrong(run, thick_file, tmp_path, options, words):
    code, said = run("-i", thick_file, "-o", tmp_path / "out.nii.gz", *options)
    assert code in (ExitCode.USAGE, ExitCode.INVALID_INPUT)
    assert words in " ".join(said.split())
    assert not (tmp_path / "out.nii.gz").exists()
