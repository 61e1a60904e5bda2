"""Prepared files: type, grid and codes, sidecars, masks, batches, and nothing half done."""

import json

import nibabel as nib
import numpy as np
import pytest
from contracts.toy_head import toy_head

from medsci.brain.prep_settings import PrepSettings
from medsci.errors import ExitCode, InvalidInputError, OutputExistsError, UsageError
from medsci.imaging import Volume, read_nifti, write_nifti
from medsci.pipelines.brain_prep import PrepWork, prep_cases, prep_file
from medsci.pipelines.brain_prep_results import PrepJob
from medsci.pipelines.cases import Case

SMALL = PrepSettings(spacing_mm=6, fov_mm=(192, 224, 192))


@pytest.fixture(scope="module")
def head():
    """A head of 4 mm voxels with code 4, and its brain."""
    image, brain = toy_head(spacing_mm=4.0)
    image = Volume(image.array, image.affine, sform_code=4)
    return image, brain.with_array(brain.array.astype(np.uint8))


@pytest.fixture
def files(head, tmp_path):
    """Paths of the head and of its mask."""
    image, mask = head
    return write_nifti(image, tmp_path / "t1.nii.gz"), write_nifti(mask, tmp_path / "m.nii.gz")


def masked(files, **more):
    return PrepJob(settings=SMALL, mask=files[1], **more)


def test_writes_image_mask_and_sidecar(files, head, tmp_path):
    out = tmp_path / "o.nii.gz"
    report = prep_file(files[0], out, job=masked(files, save_mask=True))
    assert report.status == "done"
    found, mask = read_nifti(out), read_nifti(tmp_path / "o_mask.nii.gz")
    assert found.array.dtype == np.uint16
    assert found.array.max() == 65535
    assert found.shape == (32, 37, 32)
    assert found.orientation == ("L", "P", "S")
    assert mask.same_geometry(found)
    header = nib.load(out).header
    assert (int(header["sform_code"]), int(header["qform_code"])) == (4, 4)
    np.testing.assert_allclose(header.get_sform(), header.get_qform(), atol=1e-4)
    np.testing.assert_allclose(header.get_sform(), found.affine, atol=1e-4)
    assert header.get_slope_inter() in ((None, None), (1.0, 0.0))
    record = json.loads((tmp_path / "o.json").read_text())
    done = record["Preparation"]
    assert done["mask"]["method"] == "given"
    assert done["mask"]["name"] == "m.nii.gz"
    assert len(done["mask"]["sha256"]) == 64
    assert done["intensity"]["full_scale"] == 65535
    low, high = np.percentile(head[0].array, (0.1, 99.9))
    assert done["intensity"]["low"] >= float(head[0].array.min())
    assert done["intensity"]["high"] == pytest.approx(high, rel=0.1), (
        "smoothed by the larger voxels"
    )
    assert done["grid"]["orientation"] == "LPS"
    assert done["input_grid"]["spacing_mm"] == [4.0, 4.0, 4.0]
    assert done["remarks"] == []
    assert record["MedsciProvenance"]["Command"].startswith("medsci brain prep -i t1.nii.gz")
    assert low < high


def test_the_centre_of_the_brain_is_where_it_was(files, head, tmp_path):
    prep_file(files[0], tmp_path / "o.nii.gz", job=masked(files, save_mask=True))
    image, brain = head
    mask = read_nifti(tmp_path / "o_mask.nii.gz")
    before, after = (
        np.argwhere(v.array).mean(axis=0) @ v.affine[:3, :3].T + v.affine[:3, 3]
        for v in (brain, mask)
    )
    assert np.linalg.norm(before - after) < 1.0
    cropped = json.loads((tmp_path / "o.json").read_text())["Preparation"]["crop_start"]
    control = after - mask.affine[:3, :3] @ cropped
    assert np.linalg.norm(before - control) > 4.0, "control: the affine from before the crop"
    assert image.same_geometry(brain)


def test_equal_jobs_give_equal_bytes(files, tmp_path):
    found = {}
    for name in "ab":
        (tmp_path / name).mkdir()
        prep_file(files[0], tmp_path / name / "o.nii.gz", job=PrepJob(SMALL, save_mask=True))
        found[name] = [f.read_bytes() for f in sorted((tmp_path / name).iterdir())]
    assert len(found["a"]) == 3
    assert found["a"] == found["b"]
    record = json.loads((tmp_path / "a" / "o.json").read_text())
    assert record["Preparation"]["mask"] == {"method": "surface"}
    other = PrepJob(PrepSettings(spacing_mm=6, percentiles=(1, 99)), mask=files[1])
    prep_file(files[0], tmp_path / "c.nii.gz", job=other)
    assert (tmp_path / "c.nii.gz").read_bytes() != (tmp_path / "a" / "o.nii.gz").read_bytes()


def test_a_batch_reports_goes_on_and_leaves_masks_out(files, head, tmp_path, caplog):
    folder, masks = tmp_path / "in", tmp_path / "masks"
    folder.mkdir(), masks.mkdir()
    image, mask = head
    write_nifti(image, folder / "a.nii.gz")
    write_nifti(mask, folder / "a_mask.nii.gz")
    broken = np.where(image.array > 100, np.nan, image.array).astype(np.float32)
    write_nifti(image.with_array(broken), folder / "b.nii.gz")
    write_nifti(image, folder / "c.nii.gz")
    for name in "abc":
        write_nifti(mask, masks / f"{name}.nii.gz")
    told = []
    caplog.set_level("INFO")
    job = PrepJob(SMALL, mask=masks)
    code = prep_cases(folder, None, job=job, tell=told.append)
    assert code == ExitCode.SOME_CASES_FAILED
    assert [(r.case, r.status) for r in told] == [
        ("a.nii.gz", "done"), ("b.nii.gz", "failed"), ("c.nii.gz", "done")
    ]  # fmt: skip
    assert "1 files are named as masks are" in caplog.text
    assert sorted(p.name for p in (tmp_path / "in_prep").glob("*.nii.gz")) == [
        "a.nii.gz", "c.nii.gz"
    ]  # fmt: skip
    with pytest.raises(OutputExistsError):
        prep_cases(folder, None, job=job, tell=told.append)
    again = []
    skipping = PrepJob(SMALL, mask=masks, existing="skip")
    prep_cases(str(folder / "[ac].nii.gz"), tmp_path / "in_prep", job=skipping, tell=again.append)
    assert [r.status for r in again] == ["skipped", "skipped"]
    with pytest.raises(UsageError, match="name a folder"):
        prep_cases(folder, tmp_path / "x", job=PrepJob(SMALL, mask=files[1]), tell=told.append)
    with pytest.raises(UsageError, match="name the output"):
        prep_cases(str(folder / "*.nii.gz"), None, job=job, tell=told.append)


def test_work_survives_a_dead_worker(files, tmp_path):
    work = PrepWork(masked(files, save_mask=True), batch=False)
    case = Case(files[0], tmp_path / "o.nii.gz")
    first = work(case)
    assert work.finished(case).result == first.result
    (tmp_path / "o.nii.gz").unlink()
    with pytest.raises(OutputExistsError):
        work(case)
    assert work.again(case).status == "done"


def test_names_of_outputs(files, tmp_path):
    report = prep_file(files[0], job=masked(files))
    assert report.outputs["prepared"] == tmp_path / "t1_prep.nii.gz"
    assert sorted(p.name for p in tmp_path.glob("t1_prep*")) == ["t1_prep.json", "t1_prep.nii.gz"]
    with pytest.raises(UsageError, match="replace the input"):
        prep_file(files[0], files[0], job=masked(files, existing="overwrite"))
    with pytest.raises(UsageError, match=r"\*\.nii\.gz"):
        prep_file(files[0], tmp_path / "o.png", job=masked(files))


def test_a_failure_leaves_nothing(files, tmp_path, monkeypatch):
    def fail(*_args, **_more):
        raise InvalidInputError("no; give another")

    monkeypatch.setattr("medsci.brain.prep.prepare", fail)
    before = set(tmp_path.iterdir())
    with pytest.raises(InvalidInputError):
        prep_file(files[0], tmp_path / "o.nii.gz", job=masked(files))
    assert set(tmp_path.iterdir()) == before
