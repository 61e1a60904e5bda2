"""From a stored model to a file of pairs: what is in it, and that the batch does not matter."""

import hashlib

import pytest
import torch

from medsci.core.denoise import Denoiser, Guided
from medsci.core.rng import Rng
from medsci.core.solve import auto, sample
from medsci.data.pairs import PairFile
from medsci.errors import InvalidInputError, OutputExistsError, UsageError, WeightsError
from medsci.models import ModelConfig, build_path, load_denoiser, save_denoiser
from medsci.nets import UNet2dConfig, build_network
from medsci.pipelines.pairs import PairSettings, make_pairs


def store(folder, *, n_labels=0, weight=None, **fields):
    network = UNet2dConfig(channels=(8, 32), res_blocks=(1, 1), norm_groups=8, n_labels=n_labels)
    given = {
        "name": "tiny", "network": network, "path": {"kind": "vp_linear"}, "sigma_data": 0.3,
        "training_size": (16, 12), "weights_dtype": "float32",
    }  # fmt: skip
    config = ModelConfig.model_validate(given | fields)
    net = build_network(network, seed=0)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in net.parameters():
            if not parameter.any():
                parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
            if weight is not None:
                parameter.mul_(weight)
    denoiser = Denoiser(net, path=build_path(config.path), sigma_data=config.sigma_data)
    save_denoiser(denoiser, folder, config=config, card="# tiny")
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return store(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
    return store(tmp_path_factory.mktemp("models") / "labelled", n_labels=3)


QUICK = {"n": 5, "steps": 3, "device": "cpu", "precision": "float32", "dtype": "float32"}


def items(path):
    source = PairFile(path)
    return source, [source.draw(i, 0) for i in range(source.n_items)]


def test_pairs_are_what_the_model_makes_of_their_noise(model, tmp_path):
    said = []
    report = make_pairs(
        model, tmp_path / "p.h5", settings=PairSettings(**QUICK, seed=7, batch=2),
        progress=lambda *line: said.append(line),
    )  # fmt: skip
    source, drawn = items(tmp_path / "p.h5")
    assert report.status == "done"
    assert report.result == {
        "pairs": 5, "shape": [2, 16, 12], "steps": 3, "seed": 7, "guidance": 1.0
    }  # fmt: skip
    assert said == [(2, 5, "pairs"), (4, 5, "pairs"), (5, 5, "pairs")]
    assert (source.info.model, source.info.seed, source.info.steps) == ("tiny", 7, 3)
    weights = (model / "model.safetensors").read_bytes()
    assert source.info.sha256 == hashlib.sha256(weights).hexdigest()
    assert "Multistep" in source.info.solver
    denoiser = load_denoiser(model, precision="float32")
    expected = sample(denoiser, (5, 2, 16, 12), steps=3, seed=7)
    x0 = torch.stack([item["x0"] for item in drawn])
    z = torch.stack([item["noise"] for item in drawn])
    torch.testing.assert_close(x0, expected, rtol=1e-4, atol=1e-4)
    assert torch.equal(z, Rng(7, range(5)).normal(z.shape, step=-1))
    walked = sample(denoiser, x0.shape, steps=3, x=float(denoiser.path.sigma(1.0)) * z)
    torch.testing.assert_close(x0, walked, rtol=1e-4, atol=1e-4)  # the pair itself
    assert (x0 - walked.roll(1, 0)).abs().mean() > 0.1  # the control: another one


def test_the_batch_does_not_matter_and_the_seed_does(model, tmp_path):
    found = {}
    for name, batch, seed in (("one", 1, 7), ("four", 4, 7), ("other", 4, 8)):
        settings = PairSettings(**QUICK, batch=batch, seed=seed)
        make_pairs(model, tmp_path / f"{name}.h5", settings=settings)
        drawn = items(tmp_path / f"{name}.h5")[1]
        found[name] = {k: torch.stack([item[k] for item in drawn]) for k in ("x0", "noise")}
    assert torch.equal(found["one"]["noise"], found["four"]["noise"])
    torch.testing.assert_close(found["one"]["x0"], found["four"]["x0"], rtol=1e-4, atol=1e-4)
    assert not torch.equal(found["other"]["noise"], found["four"]["noise"])


def test_labels_and_guidance_go_into_the_pairs(labelled, tmp_path):
    make_pairs(
        labelled, tmp_path / "p.h5", settings=PairSettings(**QUICK, labels=3, guidance=2.0, batch=3)
    )
    source, drawn = items(tmp_path / "p.h5")
    label = torch.stack([item["label"] for item in drawn])
    assert label.tolist() == [0, 1, 2, 0, 1]
    assert source.info.guidance == 2.0
    denoiser = load_denoiser(labelled, precision="float32")
    guided = Guided(denoiser, scale=2.0, null={"label": torch.tensor([3])})
    x0 = torch.stack([item["x0"] for item in drawn])
    solver, grid = auto(denoiser.path, 3, sigma_data=0.3)
    walk = {"solver": solver, "grid": grid, "cond": {"label": label}}
    expected = sample(guided, x0.shape, **walk)
    torch.testing.assert_close(x0, expected, rtol=1e-4, atol=1e-4)
    plain = sample(denoiser, x0.shape, **walk)
    assert (x0 - plain).abs().max() > 1e-3  # the control: without guidance
    make_pairs(labelled, tmp_path / "q.h5", settings=PairSettings(**QUICK, label=2))
    assert {int(item["label"]) for item in items(tmp_path / "q.h5")[1]} == {2}


def test_the_size_can_be_another(model, tmp_path):
    make_pairs(model, tmp_path / "p.h5", settings=PairSettings(**(QUICK | {"n": 1}), size=(8, 8)))
    assert PairFile(tmp_path / "p.h5").item_shape == (2, 8, 8)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"label": 1}, "knows no labels"),
        ({"guidance": 2.0}, "compares a label with none"),
        ({"size": (8, 8, 8)}, "takes 2 dimensions"),
        ({"device": "tpu"}, "--device"),
    ],
)
def test_settings_that_do_not_fit_the_model(model, tmp_path, options, words):
    settings = PairSettings(**(QUICK | options))
    with pytest.raises(UsageError, match=words):
        make_pairs(model, tmp_path / "p.h5", settings=settings)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "options",
    [
        {"n": 0}, {"steps": 1}, {"batch": 0}, {"size": ()}, {"size": (0, 4)}, {"label": -1},
        {"labels": 0}, {"label": 1, "labels": 2},
    ],
    ids=str,
)  # fmt: skip
def test_settings_that_make_no_sense(options):
    with pytest.raises(UsageError, match=next(iter(options))):
        PairSettings(**options)


def test_a_label_too_high_and_a_model_without_size(labelled, tmp_path):
    with pytest.raises(UsageError, match="knows 0 to 2"):
        make_pairs(labelled, tmp_path / "p.h5", settings=PairSettings(**QUICK, label=3))
    sizeless = store(tmp_path / "sizeless", training_size=())
    with pytest.raises(UsageError, match="unknown"):
        make_pairs(sizeless, tmp_path / "p.h5", settings=PairSettings(**QUICK))


def test_failures_leave_no_file_and_existing_ones_are_kept(model, tmp_path):
    target = tmp_path / "p.h5"
    wild = store(tmp_path / "wild", weight=1e30)
    with pytest.raises(InvalidInputError, match="not finite"):
        make_pairs(wild, target, settings=PairSettings(**QUICK))
    with pytest.raises(WeightsError):
        make_pairs(tmp_path / "nowhere", target, settings=PairSettings(**QUICK))

    def stop(done, total, text):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_pairs(model, target, settings=PairSettings(**QUICK, batch=2), progress=stop)
    assert [path.name for path in tmp_path.iterdir()] == ["wild"]
    target.write_bytes(b"mine")
    with pytest.raises(OutputExistsError):
        make_pairs(model, target, settings=PairSettings(**QUICK))
    assert target.read_bytes() == b"mine"
    make_pairs(model, target, settings=PairSettings(**QUICK), overwrite=True)
    assert PairFile(target).n_items == 5
