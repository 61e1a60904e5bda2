"""Malformed data, teachers and checkpoints: an exit code and one line that names the place.

Every case runs the real command in this process; none of them comes as far as a training step.
"""

import h5py
import nibabel as nib
import numpy as np
import pytest
import torch
from contracts.malformed import (
    DISTILL,
    NETWORK,
    PRIOR,
    SIZE,
    arrays,
    distill,
    of_site,
    prior,
    slices,
    train_here,
)

from medsci.core.denoise import Denoiser
from medsci.data.pairs import PairInfo, write_pair_file
from medsci.models import ModelConfig, build_path, save_denoiser
from medsci.nets.unet import build_network


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Good data, broken data, and a teacher in `store`."""
    place = tmp_path_factory.mktemp("malformed")
    rng = np.random.default_rng(0)
    image = rng.random((12, 2, *SIZE), dtype=np.float32)
    np.save(place / "good.npy", image)
    np.save(place / "one_channel.npy", image[:, :1])
    np.save(place / "volumes.npy", image[..., None].repeat(16, -1))
    np.save(place / "small.npy", image[..., :8])
    np.save(place / "flat.npy", image[:, 0, 0])
    np.save(place / "objects.npy", np.array([{}, {}]), allow_pickle=True)
    np.save(place / "broken.npy", np.full_like(image, np.nan))
    np.save(place / "complex.npy", image + 1j)
    labelled(place / "labels.h5", image, site=np.arange(12) % 3)
    labelled(place / "words.h5", image, site=[b"ab"[i % 2 : i % 2 + 1] for i in range(12)])
    labelled(place / "other_words.h5", image, site=[b"c"] * 12)
    labelled(place / "fraction.h5", image, site=np.linspace(0, 1, 12))
    labelled(place / "negative.h5", image, site=np.arange(12) % 3 - 1)
    (place / "cut.npy").write_bytes((place / "good.npy").read_bytes()[:300])
    (place / "text.h5").write_text("no HDF5")
    (place / "empty").mkdir()
    (place / "file").write_text("x")
    nib.save(nib.Nifti1Image(rng.random((16, 16, 4)), np.eye(4)), place / "head.nii.gz")
    (place / "other.nii.gz").write_bytes(b"no volume")
    (place / "no_image.csv").write_text("picture,site\nhead.nii.gz,1\n")
    (place / "no_site.csv").write_text("image,age\nhead.nii.gz,1\n")
    (place / "absent.csv").write_text("image\nnobody.nii.gz\n")
    (place / "broken.csv").write_text("image\nother.nii.gz\n")
    pairs(place / "pairs.h5", image)
    pairs(place / "thin_pairs.h5", image[:, :1])
    pairs(place / "single_pair.h5", image[:1])
    content = (place / "pairs.h5").read_bytes()
    (place / "cut_pairs.h5").write_bytes(content[: len(content) // 2])
    teach(place / "store" / "teacher", prediction="v")
    damaged = teach(place / "store" / "damaged", prediction="edm") / "model.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-7] + b"another")
    torch.save({"weights": torch.zeros(3)}, place / "foreign.ckpt")
    finish_a_run(place)
    return place


def labelled(file, image, **columns):
    with h5py.File(file, "w") as content:
        content["x0"] = image
        for name, values in columns.items():
            content[name] = values


def pairs(file, image):
    info = PairInfo("teacher", "0" * 64, seed=0, steps=2, solver="none")
    with write_pair_file(file, n_items=len(image), info=info, dtype="float32") as add:
        add(torch.from_numpy(image), torch.from_numpy(image), {})


def teach(where, *, prediction):
    config = ModelConfig.model_validate(
        {"name": where.name, "network": NETWORK, "path": {"kind": "vp_cosine"},
         "prediction": prediction, "weights_dtype": "float32"}
    )  # fmt: skip
    net = build_network(config.network, seed=0)
    denoiser = Denoiser(net, path=build_path(config.path), pred=prediction)
    save_denoiser(denoiser, where, config=config, card="# teacher\n")
    return where


def finish_a_run(place):
    """Leave what a checkpoint says about its run, without running it."""
    from medsci.training.reading import parse_recipe

    recipe = parse_recipe({**PRIOR, "seed": 9})
    run = place / "finished"
    run.mkdir()
    torch.save({"medsci": {"recipe": recipe.model_dump_json()}}, run / "last.ckpt")


@pytest.fixture
def run(folder, capfd, monkeypatch):
    """Run `medsci train` where the data are; gives the exit code and what stood on stderr."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("MEDSCI_MODELS", str(folder / "store"))

    return train_here(folder, capfd)


DATA = {
    "folder missing": (prior(data=slices("nowhere")), ["data (train): ", "nowhere"]),
    "folder empty": (prior(data=slices("empty")), ["data (train): ", "empty"]),
    "no match": (prior(data=slices("*.mgz")), ["data (train): ", "*.mgz"]),
    "no image column": (prior(data=slices("no_image.csv")), ["data (train): ", "image"]),
    "no label column": (
        prior(data=slices("no_site.csv", label="site"), network={"n_labels": 2}),
        ["data (train): ", "site"],
    ),
    "listed file missing": (
        prior(data={**slices(None), "train": "absent.csv", "validation": "absent.csv"}),
        ["data (train): ", "nobody.nii.gz"],
    ),
    "only broken volumes": (
        prior(data={**slices(None), "train": "broken.csv", "validation": "broken.csv"}),
        ["data (train): ", "other.nii.gz"],
    ),
    "one subject": (prior(data=slices("head.nii.gz")), ["data (train): "]),
    "arrays missing": (prior(data=arrays("absent.npy")), ["data (train): ", "absent.npy"]),
    "arrays of a folder": (prior(data=arrays("empty")), ["data (train): ", "empty"]),
    "arrays cut short": (prior(data=arrays("cut.npy")), ["data (train): ", "cut.npy"]),
    "arrays of objects": (prior(data=arrays("objects.npy")), ["data (train): ", "never loaded"]),
    "arrays of NaN": (prior(data=arrays("broken.npy")), ["data (train): ", "NaN"]),
    "complex arrays": (prior(data=arrays("complex.npy")), ["data (train): ", "complex"]),
    "text for HDF5": (prior(data=arrays("text.h5")), ["data (train): ", "text.h5"]),
    "arrays without channels": (prior(data=arrays("flat.npy")), ["data (train): ", "channels"]),
    "arrays of one channel": (
        prior(data=arrays("one_channel.npy")),
        ["network.in_channels: ", "1 channels", "network 2"],
    ),
    "arrays of volumes": (prior(data=arrays("volumes.npy")), ["network.kind: ", "3 dimensions"]),
    "two outputs for one input": (
        prior(data=arrays("one_channel.npy"), network={"in_channels": 1}),
        ["network.out_channels: "],
    ),
    "splits of two shapes": (
        prior(data={"kind": "arrays", "train": "good.npy", "validation": "small.npy"}),
        ["data: samples are train (2, 16, 16) and validation (2, 16, 8)"],
    ),
    "label absent": (
        prior(data=arrays("labels.h5", label="sites"), network={"n_labels": 3}),
        ["data (train): ", "'sites'", "site"],
    ),
    "too many labels": (of_site("labels.h5", 2), ["network.n_labels: ", "0 to 2", "set it to 3"]),
    "too many words": (of_site("words.h5", 1), ["network.n_labels: ", "(a, b)", "set it to 2"]),
    "labels below zero": (of_site("negative.h5", 3), ["network.n_labels: ", "-1 to 1"]),
    "labels that are none": (of_site("fraction.h5", 3), ["data (train): data.label: "]),
    "words that differ": (
        prior(
            data={
                "kind": "arrays",
                "train": "words.h5",
                "validation": "other_words.h5",
                "label": "site",
            },
            network={"n_labels": 2},
        ),
        ["data.label: ", "different words"],
    ),
    "pairs missing": (
        distill(data={"kind": "pairs", "file": "no.h5"}),
        ["data (train): ", "no.h5"],
    ),
    "pairs cut short": (
        distill(data={"kind": "pairs", "file": "cut_pairs.h5"}),
        ["data (train): ", "cut_pairs.h5"],
    ),
    "pairs of another kind": (
        distill(data={"kind": "pairs", "file": "labels.h5"}),
        ["data (train): ", "no medsci file"],
    ),
    "one pair": (
        distill(data={"kind": "pairs", "file": "single_pair.h5"}),
        ["data (train): ", "1 pairs"],
    ),
    "pairs of another size": (
        distill(data={"kind": "pairs", "file": "thin_pairs.h5"}),
        ["data.in_channels: ", "1 channels"],
    ),
    "teacher keeps its path": (
        distill(objective={"kind": "reflow", "path": {"kind": "rectified"}}),
        ["objective: reflow", "teacher predicts v"],
    ),
    "velocities of a curved teacher": (
        distill(objective={"kind": "velocity_matching"}, data=arrays("good.npy")),
        ["objective: velocity_matching"],
    ),
}
OPTIONS = {
    "teacher missing": (["--set", "teacher=heads-65"], 6, ["heads-65"]),
    "teacher damaged": (["--set", "teacher=damaged"], 6, ["damaged"]),
    "start missing": (["--set", "init=nobody"], 6, ["nobody"]),
    "features missing": (["--set", "objective={kind: mmd, features: none}"], 6, ["none"]),
    "checkpoint missing": (["--resume", "absent.ckpt"], 2, ["absent.ckpt"]),
    "checkpoint in an empty folder": (["--resume", "empty"], 2, ["last.ckpt"]),
    "checkpoint of others": (["--resume", "foreign.ckpt"], 4, ["no checkpoint of a medsci"]),
    "checkpoint of no kind": (["--resume", "text.h5"], 4, ["no checkpoint of a medsci"]),
    "checkpoint of another recipe": (["--resume", "finished"], 4, ["seed differ"]),
    "output is a file": (["-o", "file"], 7, ["file is a file"]),
    "output holds a run": (["-o", "finished"], 7, ["holds a run already"]),
}


def the_line(err):
    """Return the only line of an error; warnings of files left out may stand before it."""
    assert "Traceback" not in err
    *before, line = err.splitlines()
    assert all(other.startswith("warning: ") for other in before)
    assert line.startswith("error: ")
    return line


@pytest.mark.parametrize("case", DATA)
def test_a_malformed_data_set_gets_one_line(case, run, folder):
    content, words = DATA[case]
    code, err = run(content)
    line = the_line(err)
    for word in words:
        assert word in line
    assert code == 4
    assert len(line) < 400 + len(str(folder))
    assert not (folder / "out").exists()


@pytest.mark.parametrize("case", OPTIONS)
def test_a_useless_model_or_checkpoint_gets_one_line(case, run):
    options, expected, words = OPTIONS[case]
    needs_teacher = any("teacher" in word or "objective" in word for word in options)
    code, err = run(DISTILL if needs_teacher else PRIOR, *options)
    line = the_line(err)
    for word in words:
        assert word in line
    assert code == expected


@pytest.mark.parametrize("recipe", [PRIOR, DISTILL, of_site("words.h5", 2)])
def test_control_what_the_cases_are_made_of_can_be_trained(recipe, run):
    code, err = run(recipe, "--dry-run")
    assert (code, err) == (0, "")
