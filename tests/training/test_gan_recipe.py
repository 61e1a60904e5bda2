"""A GAN by recipe: each player follows its own loss, runs resume, and modes are kept apart."""

import dataclasses
import functools
import math
import os
import runpy
import subprocess
import sys
from pathlib import Path as File

import numpy as np
import pytest
import torch
from torch import nn

from medsci.core.check.distribution import energy_distance
from medsci.core.check.mixture import GaussianMixtureOracle
from medsci.core.denoise import Denoiser
from medsci.core.learn import BridgeGan, Objective, SquaredError
from medsci.core.process import Linear, Path
from medsci.core.rng import Rng
from medsci.core.solve import grid
from medsci.errors import InvalidInputError
from medsci.models import load_denoiser
from medsci.models.config import ModelConfig
from medsci.models.sampling import sampling_of
from medsci.nets import MlpConfig, build_network
from medsci.nets.discriminator import MlpDiscriminator
from medsci.training import run
from medsci.training.adversarial import Adversarial, Judge
from medsci.training.assembly import build_parts
from medsci.training.reading import parse_recipe
from medsci.training.run import train

PATH = Path.vp_linear()
WALK = tuple(grid.uniform(4).tolist())


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def players(seed=0):
    """Return generator and discriminator of pairs of numbers, neither of them silent."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = build_network(MlpConfig(width=16, n_layers=1, latent_dim=3), seed=seed).double()
        nn.init.normal_(net.last.weight, std=0.3)
        judge = Judge(MlpDiscriminator(2, width=16, depth=2)).double()
    return Denoiser(net, path=PATH, pred="x0"), judge


def gradients(network):
    found = [parameter.grad for parameter in network.parameters()]
    assert not [grad for grad in found if grad is None], "processes would wait for it forever"
    for parameter in network.parameters():
        parameter.grad = None
    return torch.cat([grad.flatten() for grad in found])


@pytest.mark.parametrize("step", [0, 1])
def test_each_player_gets_the_gradient_of_its_own_loss_from_one_backward_pass(step):
    """With the penalty (step 0) and without (step 1), for every weight."""
    generator, judge = players()
    gan = BridgeGan(
        Linear(PATH), WALK, latent_dim=3, gamma=0.5, penalty_every=2, terms=((0.7, SquaredError()),)
    )
    x0 = torch.randn(6, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    turn = {"rng": Rng(5, range(6)), "step": step}
    objective = Adversarial(gan, judge)
    assert isinstance(objective, Objective)
    loss, seen = objective(generator, x0, **turn)
    loss.backward()
    together = [gradients(network) for network in (generator, judge)]

    ours, _ = gan.generator_loss(generator, x0, discriminator=judge, **turn)
    ours.backward()
    own = gradients(generator)
    leaked = gradients(judge)
    theirs, parts = gan.discriminator_loss(judge, x0, generator=generator, **turn)
    theirs.backward()
    assert generator.net.last.weight.grad is None
    apart = gradients(judge)
    torch.testing.assert_close(together[0], own, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(together[1], apart, rtol=1e-10, atol=1e-12)
    assert leaked.norm() > 0.05 * apart.norm(), "control: the plain sum would move the judge too"
    torch.testing.assert_close(loss, ours + theirs)
    assert seen["loss"].shape == seen["t"].shape == (6,)
    assert not any(value.requires_grad for value in seen.values())
    assert bool(parts["penalty"].any()) == (step == 0) == bool(seen["penalty"].any())


def mixture():
    return GaussianMixtureOracle(
        PATH,
        torch.tensor([0.5, 0.5], dtype=torch.float64),
        means=torch.tensor([[-1.0], [1.0]], dtype=torch.float64),
        covariances=torch.tensor([[0.02], [0.02]], dtype=torch.float64),
    )


def drawing(x_t, t, latent):
    """Draw from the law of x0 given x_t; the latent is what the draw is made of."""
    rng = Rng(int(latent.abs().sum() * 1e12), range(len(x_t)))
    return mixture().posterior_sample(x_t, t, rng=rng)


def averaging(x_t, t, latent):
    return mixture()(x_t, t)


def scattering(x_t, t, latent):
    return drawing(x_t, t, latent) + latent[:, :1]


class Known(nn.Module):
    """A network that knows the data; its time code is the time."""

    def __init__(self, rule):
        super().__init__()
        self.rule = rule

    def forward(self, x, code, *, latent):
        return self.rule(x, code[0].item(), latent)


def test_validation_is_least_for_the_right_law_where_a_squared_error_prefers_the_mean():
    n, options = 1500, {"path": PATH, "pred": "x0", "unit_input": False, "time_code": "unit_time"}
    x0 = mixture().sample(n, 0.0, generator=torch.Generator().manual_seed(0))
    objective = Adversarial(BridgeGan(Linear(PATH), WALK, latent_dim=1), nn.Identity())
    rules = (drawing, averaging, scattering)
    right, mean, wide = (Denoiser(Known(rule), **options) for rule in rules)
    with torch.no_grad():
        seen = [objective(g, x0, rng=Rng(0, range(n)), step=0)[1] for g in (right, mean, wide)]
    scores = [found["loss"].reshape(4, n)[:2].mean() for found in seen]
    assert seen[0]["t"].unique().tolist() == sorted(WALK[:-1])
    assert scores[0] < 0.8 * scores[1]
    assert scores[0] + 0.03 < scores[2]
    t, latent = torch.ones(n, dtype=torch.float64), torch.ones(n, 1, dtype=torch.float64)
    x_t, _ = Linear(PATH).perturb(x0, t, Rng(1, range(n)))
    squared = [(g(x_t, t, latent=latent) - x0).square().mean() for g in (mean, right)]
    assert squared[0] < 0.6 * squared[1], "control: a squared error is blind to a lost mode"


def test_a_judge_takes_any_size_and_listens_to_labels():
    class Mean(nn.Module):
        stem_factor = 4

        def forward(self, x_s, x_t, t, *, context):
            assert x_s.shape[2:] == x_t.shape[2:] == (8, 4)
            return context @ torch.tensor([1.0, 2.0])

    judge, x = Judge(Mean(), n_labels=2), torch.zeros(3, 1, 7, 4)
    verdict = judge(x, x, torch.ones(3), label=torch.tensor([0, 1, 2]))
    assert verdict.tolist() == [1.0, 2.0, 0.0]
    assert judge(x, x, torch.ones(3)).tolist() == [0.0, 0.0, 0.0]


IMAGES = {
    "name": "tiny",
    "task": "gan",
    "seed": 3,
    "network": {
        "channels": [8, 32], "res_blocks": [1, 1], "norm_groups": 8, "latent_dim": 4,
        "in_channels": 1, "out_channels": 1,
    },
    "steps": 3,
    "r1_every": 2,
    "discriminator": {"channels": [8, 16], "stem_factor": 2, "learning_rate": 1e-3},
    "optimiser": {"learning_rate": 1e-3, "warmup_steps": 2, "betas": [0.5, 0.9]},
    "trainer": {
        "max_steps": 5, "batch_size": 4, "precision": "float32", "ema_decay": 0.9,
        "log_every_steps": 2, "val_every_steps": 3, "val_samples": 4,
        "checkpoint_every_steps": 2, "threads": 1, "tensorboard": False,
    },
    "samples": {"every_steps": 4, "count": 3},
    "card": {"image_channels": ["magnitude"]},
}  # fmt: skip


def recipe_of(base, *overrides, file):
    return parse_recipe(
        {**base, "data": {"kind": "arrays", "files": str(file)}}, overrides=overrides
    )


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    file = tmp_path_factory.mktemp("images") / "x.npy"
    rng = np.random.default_rng(0)
    np.save(file, rng.standard_normal((20, 1, 10, 12)).astype(np.float32))
    return file


@pytest.fixture(scope="module")
def whole(images, tmp_path_factory):
    out = tmp_path_factory.mktemp("whole") / "run"
    return train(recipe_of(IMAGES, file=images), output=out, device="cpu")


def weights(result):
    return torch.load(result.folder / "last.ckpt", weights_only=True)["state_dict"]


def differences(one, other):
    a, b = weights(one), weights(other)
    assert a.keys() == b.keys()
    return {name: float((a[name] - b[name]).abs().max()) for name in a}


def test_both_players_train_and_the_generator_is_stored(images, whole):
    recipe = recipe_of(IMAGES, file=images)
    parts, state = build_parts(recipe), weights(whole)
    for who, start in (("denoiser", parts.denoiser), ("discriminator", parts.discriminator)):
        for name, value in start.state_dict().items():
            if not name.endswith("class_embedding.weight"):
                assert not torch.equal(state[f"{who}.{name}"], value), (who, name)
    assert [row["step"] for row in whole.metrics if "val_loss" in row] == [3, 5]
    assert all(math.isfinite(row["val_loss"]) for row in whole.metrics if "val_loss" in row)
    assert (whole.folder / "samples" / "0000004.png").is_file()
    stored = load_denoiser(whole.model, precision="float32")
    x = torch.randn(2, 1, 10, 12)
    assert stored(x, 0.5, latent=torch.randn(2, 4)).shape == x.shape
    with pytest.raises(ValueError, match="no latent came"):
        stored(x, 0.5)
    assert "objective: gan" in (whole.model / "MODEL_CARD.md").read_text()


def test_the_card_says_how_to_draw_and_it_is_how_the_run_drew(images, whole, tmp_path):
    card = (whole.model / "MODEL_CARD.md").read_text()
    lines = card.partition("It draws with a latent")[2].split("```")[1].removeprefix("python")
    stored = load_denoiser(whole.model, precision="float32")
    known = {"denoiser": stored, "shape": (3, 1, 10, 12)}
    script = tmp_path / "from_the_card.py"  # what a reader of the card would paste
    script.write_text(lines)
    known = runpy.run_path(str(script), known)
    sampler = build_parts(recipe_of(IMAGES, file=images)).sampler
    expected = dataclasses.replace(sampler, shape=(1, 10, 12))(stored, device="cpu")
    torch.testing.assert_close(known["samples"], expected, rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match=r"use BridgeGan\.sample"):
        sampling_of(ModelConfig.model_validate_json((whole.model / "config.json").read_text()))


def test_a_resumed_game_equals_an_uninterrupted_one_bit_for_bit(images, whole, tmp_path):
    short = recipe_of(IMAGES, "trainer.max_minutes=1e-6", file=images)
    first = train(short, output=tmp_path / "run", device="cpu")
    assert (first.steps, first.reason) == (1, "max_minutes")
    file = first.folder / "last.ckpt"
    content = torch.load(file, weights_only=True)
    recipe = recipe_of(IMAGES, file=images)
    resumed = train(recipe, output=tmp_path / "run", device="cpu", resume="auto")
    assert max(differences(resumed, whole).values()) == 0.0
    for name, value in content["state_dict"].items():  # control: a judge that forgot its step
        if name.startswith("discriminator.") and name.endswith("bias"):
            value += 0.1
    torch.save(content, tmp_path / "other.ckpt")
    other = train(recipe, output=tmp_path / "else", device="cpu", resume=tmp_path / "other.ckpt")
    moved = differences(other, whole)
    assert max(gap for name, gap in moved.items() if name.startswith("denoiser.")) > 0.0


def test_parts_of_a_step_add_up_to_the_step(images, tmp_path, monkeypatch):
    """The penalty falls due for all parts of a step or for none; in double precision."""
    monkeypatch.setattr(run, "Trainer", functools.partial(run.Trainer, precision="64-true"))
    changes = ("trainer.accumulate=1", "trainer.accumulate=2", "trainer.batch_size=2")
    whole, parts, half = (
        run.train(recipe_of(IMAGES, change, file=images), output=tmp_path / change, device="cpu")
        for change in changes
    )
    assert max(differences(parts, whole).values()) < 1e-6
    assert max(differences(half, whole).values()) > 2e-3


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("network.latent_dim=0", "network.latent_dim: the generator of a gan draws"),
        ("network={kind: adm, in_channels: 1, out_channels: 1}", "network.kind: adm takes no lat"),
        ("network.out_channels=2", "network.out_channels: 2 came with in_channels 1"),
        ("prediction=eps", "prediction: .*'eps' came"),
        ("trainer.strategy=fsdp", "trainer.strategy: fsdp shards"),
        ("network.n_labels=3", "data.label: the network has labels"),
        ("discriminator.rate=1", "discriminator.rate: unknown key"),
        ("time_code=row", "time_code: row came with the path vp_linear"),
        ("data={kind: pairs, file: pairs.h5}", "data.kind: pairs hold the noise"),
        ("steps=0", "steps: .*greater than"),
    ],
)
def test_an_impossible_game_is_refused_in_one_line(override, words, images):
    with pytest.raises(InvalidInputError, match=words) as caught:
        recipe_of(IMAGES, override, file=images)
    assert "\n" not in str(caught.value)


def test_a_prior_with_a_latent_is_refused(images):
    prior = {key: IMAGES[key] for key in ("name", "network", "trainer", "card")}
    with pytest.raises(InvalidInputError, match="a prior draws no latent"):
        recipe_of(prior, file=images)


def test_the_packaged_recipe_describes_both_players():
    from medsci.training.reading import load_recipe
    from pipelines.train import packaged_recipe

    recipe = load_recipe(packaged_recipe("gan_smoke"))
    parts = build_parts(recipe)
    x0 = torch.randn(2, 2, 64, 64)
    loss, _ = parts.objective(parts.denoiser)(parts.denoiser, x0, rng=Rng(0, range(2)), step=0)
    loss.backward()
    for player in (parts.denoiser, parts.discriminator):
        assert all(p.grad is not None for p in player.parameters())


VECTORS = {
    "name": "two-modes",
    "task": "gan",
    "network": {"kind": "mlp", "width": 64, "n_layers": 2, "latent_dim": 4},
    "steps": 2,
    "r1": 0.1,
    "r1_every": 1,
    "reconstruction": {"weight": 0.3},
    "discriminator": {"channels": [64, 64], "learning_rate": 3e-3},
    "optimiser": {
        "learning_rate": 1e-3, "betas": [0.5, 0.9], "warmup_steps": 0, "weight_decay": 0,
        "final_fraction": 0.5,
    },
    "trainer": {
        "max_steps": 1000, "batch_size": 64, "precision": "float32", "ema_decay": 0.98,
        "log_every_steps": 250, "val_every_steps": 1000, "val_samples": 256,
        "checkpoint_every_steps": 1000, "threads": 1, "tensorboard": False,
    },
    "samples": {"count": 1000},
    "card": {"image_channels": ["x", "y"]},
}  # fmt: skip


class TwoModes:
    """Points about (1, .5) and about (-1, -.5)."""

    n_items = 4000

    def __init__(self, seed):
        rng = np.random.default_rng(seed)
        sides = rng.choice([-1.0, 1.0], size=(self.n_items, 1)) * np.array([1.0, 0.5])
        points = sides + 0.14 * rng.standard_normal((self.n_items, 2))
        self.points = torch.from_numpy(points.astype(np.float32))

    def draw(self, item, seed):
        return self.points[item]


@pytest.mark.slow
def test_two_steps_of_a_trained_gan_keep_modes_apart_that_regression_smears(tmp_path, monkeypatch):
    """Same recipe, same network; where the reconstruction is all that counts, it draws the mean."""
    sources = {"train": TwoModes(0), "validation": TwoModes(1)}
    monkeypatch.setattr(run, "build_source", lambda recipe, split: sources[split])
    far, fresh = {}, sources["validation"].points[:1000]
    for name, override in {"gan": "steps=2", "mean": "reconstruction.weight=1e3"}.items():
        recipe = recipe_of(VECTORS, override, file="unused.npy")
        result = run.train(recipe, output=tmp_path / name, device="cpu")
        generator = load_denoiser(result.model, precision="float32")
        sampler = dataclasses.replace(build_parts(recipe).sampler, shape=(2,))
        drawn = sampler(generator, device="cpu")
        far[name] = energy_distance(drawn, fresh).item(), result.metrics[-1]["val_loss"]

    assert far["gan"][0] < 0.5 * far["mean"][0]
    assert far["gan"][1] < far["mean"][1]


@pytest.mark.slow
def test_two_processes_play_as_one_does(images, tmp_path):
    recipe = tmp_path / "recipe.json"  # YAML includes it
    recipe.write_text(recipe_of(IMAGES, file=images).model_dump_json())
    double = str(File(__file__).with_name("train_in_double.py"))
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    states = []
    for name, start in (("one", []), ("two", launcher)):
        out = tmp_path / name
        words = [sys.executable, *start, double, "train", str(recipe), "-o", str(out)]
        done = subprocess.run(
            [*words, "--device", "cpu", "--quiet"],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            capture_output=True, text=True, timeout=240, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-2000:]
        states.append(torch.load(out / "last.ckpt", weights_only=True)["state_dict"])
    gaps = [float((states[0][name] - states[1][name]).abs().max()) for name in states[0]]
    assert max(gaps) < 1e-6
