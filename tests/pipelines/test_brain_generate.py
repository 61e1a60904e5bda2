"""Folders of generated volumes: bytes, grids, labels, records, and nothing half done."""

import json

import nibabel as nib
import numpy as np
import pytest
import torch
from brain.tiny_generator import (
    SIZE,
    Normal,
    TwoModes,
    area_under_curve,
    config,
    published,
    record_of,
    run,
    stored,
)

import medsci.pipelines.brain_generate as jobs
from medsci.brain.frame import Frame
from medsci.errors import (
    ExitCode,
    InvalidInputError,
    MedsciError,
    OutputExistsError,
    UsageError,
    WeightsError,
)
from medsci.imaging import Volume, read_nifti, write_nifti


@pytest.fixture(autouse=True)
def store(tmp_path, monkeypatch):
    monkeypatch.setenv("MEDSCI_MODELS", str(tmp_path / "models"))
    monkeypatch.setattr(jobs, "warn_if_busy", lambda: None)
    return tmp_path / "models"


@pytest.fixture
def tiny(store):
    stored(store)
    return "tiny-head"


@pytest.fixture
def oracle(store, monkeypatch):
    """Put a closed form in the place of the stored network, whose description stays."""

    def put(denoiser, description):
        stored(store, description)
        load = jobs.load_generator

        def instead(name, *, device, precision):
            found = load(name, device=device, precision=precision)
            return type(found)(found.name, found.sha256, found.config, denoiser)

        monkeypatch.setattr(jobs, "load_generator", instead)
        return description.name

    return put


def all_bytes(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_writes_what_it_says(tiny, tmp_path):
    reports = run(tmp_path / "out", n=2, labels=True, maps=True)
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    each = ["T1w.json", "T1w.nii.gz", "dseg.nii.gz", "hallucination.nii.gz"]
    assert names == ["dseg.tsv", *[f"sub-gen{k:04d}_{x}" for k in (1, 2) for x in each]]
    image = nib.load(tmp_path / "out" / "sub-gen0001_T1w.nii.gz")
    assert image.get_data_dtype() == np.float32
    assert 0.0 <= image.get_fdata().min() < image.get_fdata().max() <= 1.0
    assert image.header["descrip"].item() == b"Synthetic image"
    frame = Frame.of(config())
    for kind, code in (image.get_sform(coded=True), image.get_qform(coded=True)):
        np.testing.assert_allclose(kind, frame.affine, atol=1e-4)
        assert int(code) == 1
    labels = nib.load(tmp_path / "out" / "sub-gen0001_dseg.nii.gz")
    assert labels.get_data_dtype() == np.uint8
    assert set(np.unique(labels.dataobj)) <= {0, 1, 2, 3}
    table = (tmp_path / "out" / "dseg.tsv").read_text().splitlines()
    assert [line.split("\t")[:2] for line in table[1:]] == [
        ["0", "background"], ["1", "fluid"], ["2", "grey"], ["3", "white"],
    ]  # fmt: skip
    doubt = read_nifti(tmp_path / "out" / "sub-gen0001_hallucination.nii.gz").array
    assert doubt.dtype == np.float32
    assert doubt.max() > 0.0
    assert [(r.case, r.status) for r in reports] == [
        ("sub-gen0001", "done"),
        ("sub-gen0002", "done"),
    ]
    assert reports[0].result["achieved"]["brain_ml"] > 0.0


def test_the_record_says_how_and_holds_nothing_of_the_machine(tiny, store, tmp_path):
    run(tmp_path / "out", conditions={"brain_ml": 1400.0}, guidance=2.0, maps=True)
    record = record_of(tmp_path / "out")
    sha256 = json.loads((store / tiny / "config.json").read_text())["sha256"]
    assert record["MedsciProvenance"]["Model"] == {"Name": tiny, "Sha256": sha256}
    assert record["MedsciProvenance"]["Seed"] == 3
    assert record["Conditions"] == {"brain_ml": 1400.0}
    assert set(record["Achieved"]) >= {"brain_ml", "fluid_fraction", "grey_ml"}
    made = record["Generation"]
    assert (made["SampleNumber"], made["NetworkEvaluations"], made["Solver"]) == (1, 3, "auto")
    assert (made["Guidance"], made["Clip"]) == (2.0, "consistent")
    assert made["HallucinationMean"] > 0.0
    assert record["Synthetic"] is True
    assert str(tmp_path) not in (tmp_path / "out" / "sub-gen0001_T1w.json").read_text()


# Bytes


def test_twice_the_same_bytes_and_another_seed_others(tiny, tmp_path):
    options = {"n": 2, "labels": True, "maps": True}
    for name in "ab":
        run(tmp_path / name / "out", **options)
    assert all_bytes(tmp_path / "a" / "out") == all_bytes(tmp_path / "b" / "out")
    run(tmp_path / "c" / "out", **options, seed=4)
    first, other = (all_bytes(tmp_path / x / "out") for x in "ac")
    assert all(first[name] != other[name] for name in first if name != "dseg.tsv")


def test_a_volume_has_the_same_bytes_in_any_batch_and_number(tiny, tmp_path):
    """Records as well: they hold the command for that volume alone."""
    wanted = {"n": 3, "batch": 2, "labels": True}
    run(tmp_path / "a" / "out", **wanted)
    for name, more in {"b": {"batch": 1}, "c": {"n": 5, "batch": 5}}.items():
        run(tmp_path / name / "out", **wanted | more)
        other = all_bytes(tmp_path / name / "out")
        assert all(other[file] == data for file, data in all_bytes(tmp_path / "a" / "out").items())
    run(tmp_path / "d" / "out", n=1, first=3, labels=True)
    alone = all_bytes(tmp_path / "d" / "out")
    assert set(alone) == {"dseg.tsv", *(n for n in other if n.startswith("sub-gen0003"))}
    assert all(other[file] == data for file, data in alone.items())


def test_conditions_of_a_table_go_to_their_volumes(tiny, tmp_path):
    table = tmp_path / "wanted.csv"
    table.write_text("brain_ml,fluid_fraction\n1200,\n1500,0.3\nn/a,n/a\n")
    run(tmp_path / "out", condition_file=table)
    asked = [record_of(tmp_path / "out", k)["Conditions"] for k in (1, 2, 3)]
    assert asked == [{"brain_ml": 1200.0}, {"brain_ml": 1500.0, "fluid_fraction": 0.3}, {}]
    run(tmp_path / "one", first=2, conditions={"brain_ml": 1500.0, "fluid_fraction": 0.3})
    run(tmp_path / "plain", first=3)
    for number, folder in ((2, "one"), (3, "plain")):
        name = f"sub-gen{number:04d}_T1w.nii.gz"
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / folder / name).read_bytes()
    run(tmp_path / "strict", condition_file=table, guidance=2.0)
    weights = [record_of(tmp_path / "strict", k)["Generation"]["Guidance"] for k in (1, 2, 3)]
    assert weights == [2.0, 2.0, 1.0], "who is asked nothing follows nothing"
    inputs = record_of(tmp_path / "out")["MedsciProvenance"]["Inputs"]
    assert inputs[0]["Name"] == "wanted.csv"


def test_conditions_beyond_training_are_warned_of(tiny, tmp_path, caplog):
    run(tmp_path / "out", conditions={"brain_ml": 2500.0})
    warned = [r.message for r in caplog.records if r.levelname == "WARNING"]
    assert len(warned) == 1
    assert "1000 to 1700 ml" in warned[0]
    caplog.clear()
    run(tmp_path / "in", conditions={"brain_ml": 1500.0})
    assert not [r for r in caplog.records if r.levelname == "WARNING"]


# Closed forms through the files


def test_written_voxels_have_the_mean_and_spread_of_the_data(oracle, tmp_path):
    description = config()
    name = oracle(Normal.of(description, mean=0.2, sd=0.1), description)
    run(tmp_path / "out", model=name, n=4, n_steps=40)
    voxels = np.concatenate(
        [read_nifti(path).array.ravel() for path in (tmp_path / "out").glob("*.nii.gz")]
    ).astype(np.float64)
    assert voxels.size == 4 * np.prod(SIZE)
    error = 0.05 / np.sqrt(voxels.size)
    assert abs(voxels.mean() - 0.6) < 4.5 * error + 1e-4
    assert abs(voxels.std() - 0.05) < 4.5 * error / np.sqrt(2.0) + 5e-4


def test_fractions_become_labels_and_volumes(oracle, tmp_path):
    """Channels that are known: fluid left of grey left of white, air outside."""
    mean = np.full((4, *SIZE), -1.0, np.float32)
    for channel, part in ((1, slice(2, 4)), (2, slice(4, 7)), (3, slice(7, 10))):
        mean[channel, part, 3:11, 2:8] = 0.8  # nine tenths of the voxel
    description = config()
    name = oracle(Normal.of(description, mean=mean, sd=1e-3), description)
    run(tmp_path / "out", model=name, labels=True)
    labels = read_nifti(tmp_path / "out" / "sub-gen0001_dseg.nii.gz").array
    expected = np.zeros(SIZE, np.uint8)
    expected[2:4, 3:11, 2:8], expected[4:7, 3:11, 2:8], expected[7:10, 3:11, 2:8] = 1, 2, 3
    np.testing.assert_array_equal(labels, expected)
    achieved = record_of(tmp_path / "out")["Achieved"]
    assert achieved["brain_ml"] == pytest.approx(0.9 * 8 * 48 * 4.096, rel=2e-3)
    assert achieved["fluid_fraction"] == pytest.approx(2 / 8, abs=2e-3)
    assert achieved["white_ml"] == pytest.approx(0.9 * 3 * 48 * 4.096, rel=2e-3)


def test_the_map_of_doubt_is_written_where_voxels_wavered(oracle, tmp_path):
    description = config(training_size=(20, 25, 20), sigma_data=0.6)
    network = TwoModes(Normal.of(description, sd=1.0).path, width=0.1)
    name = oracle(network, description)
    run(tmp_path / "out", model=name, n_steps=20, maps=True)
    image, doubt = (
        read_nifti(tmp_path / "out" / f"sub-gen0001_{kind}.nii.gz").array.ravel()
        for kind in ("T1w", "hallucination")
    )
    assert area_under_curve(doubt, network.between(image)) > 0.95


def test_uint16_stretches_every_volume(tiny, tmp_path):
    run(tmp_path / "f")
    run(tmp_path / "u", dtype="uint16")
    plain = read_nifti(tmp_path / "f" / "sub-gen0001_T1w.nii.gz").array.astype(np.float64)
    whole = read_nifti(tmp_path / "u" / "sub-gen0001_T1w.nii.gz")
    assert whole.array.dtype == np.uint16
    assert (whole.array.min(), whole.array.max()) == (0, 65535)
    expected = np.rint((plain - plain.min()) / (plain.max() - plain.min()) * 65535)
    np.testing.assert_array_equal(whole.array, expected)
    assert whole.description == "Synthetic image"
    header = nib.load(tmp_path / "u" / "sub-gen0001_T1w.nii.gz").header
    assert header.get_slope_inter() in ((1.0, 0.0), (None, None))


# The published generators


def test_an_imported_generator_works_the_same_way(store, tmp_path):
    stored(store, published())
    run(tmp_path / "out", model="tiny-published", n_steps=4, dtype="uint16")
    image = nib.load(tmp_path / "out" / "sub-gen0001_T1w.nii.gz")
    assert nib.aff2axcodes(image.affine) == ("L", "P", "S")
    record = record_of(tmp_path / "out")
    assert record["Generation"]["Solver"] == "ddim"
    assert record["Achieved"] == {}
    with pytest.raises(UsageError, match="draws no tissue"):
        run(tmp_path / "l", model="tiny-published", labels=True)
    with pytest.raises(UsageError, match="takes no conditions"):
        run(tmp_path / "c", model="tiny-published", conditions={"brain_ml": 1300.0})


# What is there already


def test_existing_volumes_are_refused_skipped_or_replaced(tiny, tmp_path):
    out = tmp_path / "out"
    run(out, n=2)
    before = all_bytes(out)
    with pytest.raises(OutputExistsError, match="exists already"):
        run(out, n=3)
    assert all_bytes(out) == before, "nothing was begun"
    reports = run(out, n=3, seed=9, existing="skip")
    assert [r.status for r in reports] == ["skipped", "skipped", "done"]
    assert {n: b for n, b in all_bytes(out).items() if "0003" not in n} == before
    run(out, n=2, seed=9, existing="overwrite")
    assert all_bytes(out)["sub-gen0001_T1w.nii.gz"] != before["sub-gen0001_T1w.nii.gz"]


def test_labels_of_another_meaning_are_not_mixed_in(tiny, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "dseg.tsv").write_text("index\tname\n1\tbone\n")
    with pytest.raises(OutputExistsError, match="something else"):
        run(tmp_path / "out", labels=True)
    run(tmp_path / "out", labels=True, existing="overwrite")
    assert "fluid" in (tmp_path / "out" / "dseg.tsv").read_text()


# Memory


def test_the_plan_is_told_before_work_starts_and_recorded(tiny, tmp_path, caplog, monkeypatch):
    caplog.set_level("INFO", logger="medsci")
    run(tmp_path / "out", n=2, batch=2)
    lines = [record.message for record in caplog.records]
    assert "sampling at 12 x 14 x 10 voxels, batch 1" in lines[0], "one by one on the CPU"
    assert "GiB available" in lines[1]
    assert record_of(tmp_path / "out")["Generation"]["MemoryMode"] == "plain"
    monkeypatch.setattr(jobs, "_free_gib", lambda device: 1e-4)
    with pytest.raises(MedsciError, match="are available; use") as caught:
        run(tmp_path / "small")
    assert caught.value.exit_code == ExitCode.OUT_OF_MEMORY
    assert not (tmp_path / "small").exists()


def test_slabs_change_nothing_and_tiles_are_recorded(tiny, tmp_path):
    conditions = {"brain_ml": 1400.0}
    for mode in ("plain", "sliced", "tiled"):
        run(tmp_path / mode, memory=mode, conditions=conditions, guidance=2.0)
    images = {
        mode: read_nifti(tmp_path / mode / "sub-gen0001_T1w.nii.gz").array
        for mode in ("plain", "sliced", "tiled")
    }
    np.testing.assert_allclose(images["sliced"], images["plain"], atol=1e-4)
    assert record_of(tmp_path / "sliced")["Generation"]["MemoryMode"] == "sliced"
    made = record_of(tmp_path / "tiled")["Generation"]
    assert len(made["Tile"]) == 3
    assert np.abs(images["tiled"] - images["plain"]).max() > 1e-3


# Failures


def test_out_of_memory_says_what_to_do(oracle, tmp_path):
    class Hungry(Normal):
        def forward(self, x, t):
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB")

    description = config()
    name = oracle(Hungry.of(description, sd=1.0), description)
    with pytest.raises(MedsciError, match="use --memory sliced, --precision bf16") as caught:
        run(tmp_path / "out", model=name, n=2, batch=2)
    assert caught.value.exit_code == ExitCode.OUT_OF_MEMORY
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())


def test_a_failure_leaves_the_finished_volumes_and_nothing_half_done(oracle, tmp_path):
    class Tired(Normal):
        calls = 0

        def forward(self, x, t):
            Tired.calls += 1
            return super().forward(x, t) * (np.nan if Tired.calls > 4 else 1.0)

    description = config()
    name = oracle(Tired.of(description, sd=1.0), description)
    with pytest.raises(MedsciError, match="volume 2 has"):
        run(tmp_path / "out", model=name, n=3)
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["sub-gen0001_T1w.json", "sub-gen0001_T1w.nii.gz"]


def test_what_cannot_be_done_is_refused_before_weights_are_read(tiny, store, tmp_path, monkeypatch):
    monkeypatch.setattr(jobs, "load_generator", lambda *_, **__: pytest.fail("weights were read"))
    (tmp_path / "file").write_text("x")
    series = Volume(np.ones((4, 4, 4, 2), np.float32), np.eye(4))
    write_nifti(series, tmp_path / "4d.nii.gz")
    for more, kind in (
        ({"model": "absent"}, WeightsError),
        ({"like": tmp_path / "absent.nii.gz"}, InvalidInputError),
        ({"like": tmp_path / "4d.nii.gz"}, InvalidInputError),
        ({"condition_file": tmp_path / "absent.csv"}, InvalidInputError),
        ({"conditions": {"age": 40.0}}, UsageError),
        ({"guidance": 3.0}, UsageError),
        ({"clip": "ddim"}, UsageError),
        ({"n": 0}, UsageError),
        ({"first": 0}, UsageError),
        ({"maps": True, "n_steps": 1}, UsageError),
    ):
        with pytest.raises(kind):
            run(tmp_path / "out", **more)
    with pytest.raises(UsageError, match="names a file"):
        run(tmp_path / "file")
    assert not (tmp_path / "out").exists()
