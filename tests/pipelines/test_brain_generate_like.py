"""Generated volumes on the grid of another image: never mirrored, and where its head is."""

import shlex

import nibabel as nib
import numpy as np
import pytest
import SimpleITK
from brain.tiny_generator import SIZE, Normal, config, head, record_of, run, stored

import medsci.pipelines.brain_generate as jobs
from medsci.brain.frame import Frame
from medsci.errors import UsageError
from medsci.imaging import Volume, read_nifti, write_nifti

OBLIQUE = nib.affines.from_matvec(
    nib.eulerangles.euler2mat(0.3, -0.2, 0.5) @ np.diag([-5.0, 4.0, 4.5]), [60.0, -81.0, -75.0]
)
FLIPPED = nib.affines.from_matvec(np.diag([-4.0, -4.5, -5.0]), [70.0, 100.0, 90.0])


@pytest.fixture
def known(tmp_path, monkeypatch):
    """Store a model whose network is replaced by voxels of a known mean, and give its name."""
    monkeypatch.setenv("MEDSCI_MODELS", str(tmp_path / "models"))
    monkeypatch.setattr(jobs, "warn_if_busy", lambda: None)
    load = jobs.load_generator

    def put(mean, **fields):
        description = config(**fields)
        stored(tmp_path / "models", description)

        def instead(name, *, device, precision):
            found = load(name, device=device, precision=precision)
            network = Normal.of(description, mean=mean, sd=1e-3)
            return type(found)(found.name, found.sha256, found.config, network)

        monkeypatch.setattr(jobs, "load_generator", instead)
        return description.name

    return put


@pytest.mark.parametrize("orientation", ["RAS", "LPS"])
@pytest.mark.parametrize("affine", [OBLIQUE, FLIPPED], ids=["oblique", "flipped"])
def test_like_is_what_the_resampler_of_simpleitk_makes(known, tmp_path, affine, orientation):
    """Files in, files out, on both sides; ITK reads both with its own conventions."""
    mean = np.stack([head(), *[np.full(SIZE, -1.0, np.float32)] * 3])
    name = known(mean, orientation=orientation)
    empty = Volume(np.zeros((36, 45, 38), np.float32), affine, sform_code=1, qform_code=1)
    reference = write_nifti(empty, tmp_path / "ref.nii.gz")
    run(tmp_path / "own", model=name)
    run(tmp_path / "like", model=name, like=reference)

    own = SimpleITK.ReadImage(str(tmp_path / "own" / "sub-gen0001_T1w.nii.gz"))
    grid = SimpleITK.ReadImage(str(reference))
    placement = record_of(tmp_path / "like")["Generation"]["Placement"]
    assert "centre of view" in placement["Centre"]
    shift = np.array(placement["ShiftMm"]) * [-1, -1, 1]  # world of ITK
    own.SetOrigin((np.array(own.GetOrigin()) + shift).tolist())
    peer = SimpleITK.Resample(own, grid, SimpleITK.Transform(), SimpleITK.sitkLinear, 0.0)
    found = SimpleITK.ReadImage(str(tmp_path / "like" / "sub-gen0001_T1w.nii.gz"))
    gap = np.abs(SimpleITK.GetArrayFromImage(peer) - SimpleITK.GetArrayFromImage(found))
    assert gap.max() < 2e-3
    np.testing.assert_allclose(found.GetOrigin(), grid.GetOrigin(), atol=1e-4)
    np.testing.assert_allclose(found.GetDirection(), grid.GetDirection(), atol=1e-6)
    np.testing.assert_array_equal(
        read_nifti(tmp_path / "like" / "sub-gen0001_T1w.nii.gz").affine,
        read_nifti(reference).affine,
    )
    # the control: the same voxels with left and right exchanged are far from it
    flipped = SimpleITK.Flip(own, [True, False, False])
    flipped.CopyInformation(own)
    wrong = SimpleITK.Resample(flipped, grid, SimpleITK.Transform(), SimpleITK.sitkLinear, 0.0)
    assert (
        np.abs(SimpleITK.GetArrayFromImage(wrong) - SimpleITK.GetArrayFromImage(found)).max() > 0.5
    )


def test_like_a_head_is_centred_on_it_and_labels_go_along(known, tmp_path):
    mean = np.full((4, *SIZE), -1.0, np.float32)
    mean[0], mean[2] = head(), np.where(head() > -0.9, 0.9, -1.0)
    name = known(mean)
    own = Frame((30, 33, 31), (8.0, 8.0, 8.0)).affine.copy()
    own[:3, 3] += [31.0, -12.0, 44.0]
    index = np.stack(np.meshgrid(*map(np.arange, (30, 33, 31)), indexing="ij"), -1)
    world = index @ own[:3, :3].T + own[:3, 3]
    ball = (np.linalg.norm(world - [50.0, 0.0, 30.0], axis=-1) < 50.0) * 700.0
    reference = write_nifti(Volume(ball.astype(np.int16), own, sform_code=4), tmp_path / "r.nii.gz")
    run(tmp_path / "out", model=name, like=reference, labels=True, maps=True)
    labels = read_nifti(tmp_path / "out" / "sub-gen0001_dseg.nii.gz")
    assert labels.array.dtype == np.uint8
    assert set(np.unique(labels.array)) == {0, 2}
    centre = labels.affine @ [*np.argwhere(labels.array == 2).mean(0), 1.0]
    np.testing.assert_allclose(centre[:3], [50.0, 0.0, 30.0], atol=2.0)
    record = record_of(tmp_path / "out")
    assert "centroid of head" in record["Generation"]["Placement"]["Centre"]
    assert record["MedsciProvenance"]["Inputs"][0]["Name"] == "r.nii.gz"
    assert labels.sform_code == 4
    command = shlex.split(record["MedsciProvenance"]["Command"])
    assert command[command.index("--like") + 1] == "r.nii.gz"
    with pytest.raises(UsageError, match="--like"):
        run(tmp_path / "x", model=name, centre="head")
