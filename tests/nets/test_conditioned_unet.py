"""Covariates and condition images: NaN is "not known", entry by entry; old weights stay theirs."""

import pytest
import torch

from medsci.core.denoise import Denoiser, Guided
from medsci.core.process.path import Path
from medsci.models.config import CovariateConfig, ModelConfig, VpLinearConfig
from medsci.nets import UNet2dConfig, UNet3dConfig, build_network

SMALL = {"channels": (8, 32), "res_blocks": (1, 1), "norm_groups": 8, "stem_factor": 2}
KINDS = {"unet_2d": (UNet2dConfig, (8, 9)), "unet_3d": (UNet3dConfig, (4, 6, 5))}
NAN = float("nan")


def config_of(kind, **fields):
    return KINDS[kind][0](in_channels=2, out_channels=2, **SMALL, **fields)


def awake(config, seed=1):
    """Build a network whose zero layers are drawn."""
    network = build_network(config, seed=seed)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            if not parameter.any():
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    return network


def inputs(kind, n=3, n_image=1):
    draw, space = torch.Generator().manual_seed(2), KINDS[kind][1]
    x = torch.randn(n, 2, *space, generator=draw)
    covariates = torch.randn(n, 4, generator=draw)
    image = torch.randn(n, n_image, *space, generator=draw)
    return x, torch.linspace(10.0, 900.0, n), {"covariates": covariates, "image": image}


def per_sample(difference):
    return difference.abs().flatten(1).amax(1)


@pytest.mark.parametrize("kind", KINDS)
def test_all_nan_and_left_out_are_the_same_bits(kind):
    network = awake(config_of(kind, n_covariates=4, condition_channels=1))
    x, code, cond = inputs(kind)
    none = network(x, code)
    unknown = {name: torch.full_like(rows, NAN) for name, rows in cond.items()}
    assert none.isfinite().all()
    assert torch.equal(network(x, code, **unknown), none)
    for name, rows in cond.items():
        known = network(x, code, **{name: rows})
        assert torch.equal(network(x, code, **(unknown | {name: rows})), known)
        assert per_sample(known - none).min() > 1e-3, f"{name} is heard"


@pytest.mark.parametrize("kind", KINDS)
def test_a_covariate_at_its_mean_is_not_one_that_is_not_known(kind):
    network = awake(config_of(kind, n_covariates=4, condition_channels=1))
    x, code, cond = inputs(kind)
    for name, rows in cond.items():
        mean = network(x, code, **{name: torch.zeros_like(rows)})
        assert per_sample(mean - network(x, code)).min() > 1e-3, name


@pytest.mark.parametrize("kind", KINDS)
def test_each_entry_is_known_or_not_by_itself(kind):
    network = awake(config_of(kind, n_covariates=4))
    x, code, cond = inputs(kind)
    values = cond["covariates"]
    masks = [m for m in torch.cartesian_prod(*[torch.tensor([False, True])] * 4)]
    outs = [network(x, code, covariates=values.masked_fill(mask, NAN)) for mask in masks]
    for i, one in enumerate(outs):
        for other in outs[:i]:
            assert per_sample(one - other).min() > 1e-4
    other = values.clone()
    other[:, 0] += 1.0
    hidden = torch.tensor([True, False, False, False])
    same = [network(x, code, covariates=v.masked_fill(hidden, NAN)) for v in (values, other)]
    assert torch.equal(*same), "what hides behind NaN is not read"
    assert per_sample(network(x, code, covariates=other) - outs[0]).min() > 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_the_image_is_known_or_not_pixel_by_pixel_and_on_its_own_place(kind):
    network = awake(config_of(kind, condition_channels=2))
    x, code, cond = inputs(kind, n_image=2)
    image = cond["image"]
    half = image.clone()
    half[..., 2:] = NAN
    one = half.clone()
    one[:, :1, ..., :2] = NAN  # a pixel is known when all its channels are
    none = network(x, code)
    assert per_sample(network(x, code, image=half) - none).min() > 1e-3
    assert torch.equal(network(x, code, image=one), none)
    moved = network(x, code, image=half.roll(1, dims=2))
    assert per_sample(moved - network(x, code, image=half)).min() > 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_conditions_are_heard_by_their_own_sample_alone(kind):
    network = awake(config_of(kind, n_covariates=4, condition_channels=1))
    x, code, cond = inputs(kind)
    whole = network(x, code, **cond)
    for name in cond:
        other = cond[name].clone()
        other[1] += 1.0
        changed = per_sample(network(x, code, **(cond | {name: other})) - whole)
        assert changed[1] > 1e-3, name
        assert changed[[0, 2]].max() < 1e-5, name
    last = network(x[2:], code[2:], **{name: rows[2:] for name, rows in cond.items()})
    torch.testing.assert_close(last, whole[2:], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("extra", [{}, {"n_labels": 2}, {"latent_dim": 5, "n_labels": 2}])
@pytest.mark.parametrize("kind", KINDS)
def test_the_gradient_reaches_every_weight_of_the_embedding(kind, extra):
    network = awake(config_of(kind, n_covariates=4, condition_channels=1, **extra))
    x, code, cond = inputs(kind)
    if "latent_dim" in extra:
        cond["latent"] = torch.ones(3, 5)
    if extra:
        cond["label"] = torch.tensor([0, 1, 2])
    cond["covariates"][1, 2] = NAN
    network(x, code, **cond).square().sum().backward()
    named = dict(network.named_parameters())
    own = [name for name in named if "class_embedding" in name]
    assert any(".covariates.0.weight" in name for name in own)
    assert all(named[name].grad.isfinite().all() and named[name].grad.any() for name in own)
    first = named["unet.class_embedding.covariates.0.weight"].grad
    assert first.abs().amax(0).min() > 0.0, "every value and every flag"


@pytest.mark.parametrize("kind", KINDS)
def test_weights_from_before_load_and_give_the_same_bits(kind):
    plain = awake(config_of(kind))
    stored = config_of(kind).model_dump(mode="json")
    for key in ("n_covariates", "condition_channels"):
        del stored[key]  # as files of earlier versions have it
    network = build_network(KINDS[kind][0].model_validate(stored), seed=9)
    network.load_state_dict(plain.state_dict())
    x, code, _ = inputs(kind)
    assert torch.equal(network(x, code), plain(x, code))
    conditioned = build_network(config_of(kind, n_covariates=4), seed=1).state_dict()
    fresh = build_network(config_of(kind), seed=1).state_dict()
    assert all(torch.equal(conditioned[name], value) for name, value in fresh.items())
    assert len(conditioned) == len(fresh) + 4


@pytest.mark.parametrize("kind", KINDS)
def test_what_does_not_fit_is_refused(kind):
    x, code, cond = inputs(kind)
    plain, taking = (
        build_network(config_of(kind, n_covariates=4 * k, condition_channels=k)) for k in (0, 1)
    )
    with pytest.raises(ValueError, match="n_covariates is 0"):
        plain(x, code, covariates=cond["covariates"])
    with pytest.raises(ValueError, match="condition_channels is 0"):
        plain(x, code, image=cond["image"])
    with pytest.raises(ValueError, match=r"\(3, 3\) came; give \(3, 4\)"):
        taking(x, code, covariates=cond["covariates"][:, :3])
    with pytest.raises(ValueError, match="condition image of shape"):
        taking(x, code, image=torch.cat([cond["image"]] * 2, dim=1))


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_guidance_compares_with_nan_and_autocast_keeps_it_finite(precision):
    network = awake(config_of("unet_3d", n_covariates=4, condition_channels=1))
    denoiser = Denoiser(network, path=Path.vp_linear(), pred="v", precision=precision)
    x, _, cond = inputs("unet_3d")
    null = {"covariates": torch.full((1, 4), NAN), "image": torch.full((1, 1, 4, 6, 5), NAN)}
    guided = Guided(denoiser, scale=2.0, null=null)(x, 0.6, **cond)
    by_hand = 2.0 * denoiser(x, 0.6, **cond) - denoiser(x, 0.6)
    assert guided.isfinite().all()
    atol = 1e-5 if precision == "float32" else 0.05
    torch.testing.assert_close(guided, by_hand, rtol=0.0, atol=atol)
    assert per_sample(guided - denoiser(x, 0.6, **cond)).min() > 1e-3


def test_a_stored_configuration_describes_its_covariates():
    age = CovariateConfig(name="age", unit="a", mean=40.0, std=12.0, low=18.0, high=90.0)
    network = UNet3dConfig(n_covariates=1)
    stored = ModelConfig(
        name="aged", network=network, path=VpLinearConfig(), covariates=(age,),
        orientation="LPS", value_range=(-1.0, 1.0),
    )  # fmt: skip
    assert ModelConfig.model_validate_json(stored.model_dump_json()) == stored
    older = stored.model_dump(mode="json")
    for key in ("covariates", "orientation", "value_range"):
        del older[key]
    read = ModelConfig.model_validate(older)
    assert (read.covariates, read.orientation, read.value_range) == ((), "RAS", None)
    with pytest.raises(ValueError, match="describes 2 and the network takes 1"):
        ModelConfig(name="a", network=network, path=VpLinearConfig(), covariates=(age, age))
    with pytest.raises(ValueError, match="low below high"):
        ModelConfig(name="a", network=network, path=VpLinearConfig(), value_range=(1.0, -1.0))
    with pytest.raises(ValueError, match="above high"):
        CovariateConfig(name="age", mean=0.0, std=1.0, low=2.0, high=1.0)
