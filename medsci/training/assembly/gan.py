"""From an adversarial recipe to generator, discriminator, objective and stored configuration."""

__all__ = ["build_gan", "gan_config"]

import torch
from torch import nn

from medsci.core.denoise import Denoiser
from medsci.core.learn import BridgeGan
from medsci.core.process import Linear
from medsci.core.rng import mix64
from medsci.core.solve import grid
from medsci.models.config import ModelConfig, SamplerHint, build_path
from medsci.nets.discriminator import ConvDiscriminator, MlpDiscriminator
from medsci.nets.unet import build_network
from medsci.training.adversarial import Adversarial, BridgeSampler, Judge
from medsci.training.assembly.description import own_config
from medsci.training.assembly.law import build_metric
from medsci.training.assembly.parts import Parts
from medsci.training.recipe.tasks import GanRecipe

_TAG_DISCRIMINATOR = 0xD15C


def gan_config(recipe: GanRecipe) -> ModelConfig:
    """Return what the stored generator says about itself, all but the facts of the run."""
    hint = SamplerHint(steps=recipe.steps, solver="ancestral_latent")
    return own_config(recipe, objective="gan", sampler=hint)


def build_gan(recipe: GanRecipe) -> Parts:
    """Return both players, the objective that trains them at once, and the sampler."""
    path = build_path(recipe.path)
    denoiser = Denoiser(
        build_network(recipe.network, seed=recipe.seed),
        path=path,
        pred=recipe.prediction,
        sigma_data=recipe.sigma_data,
        time_code=recipe.time_code,
        unit_input=recipe.unit_input,
        precision=recipe.trainer.precision,
    )
    said = recipe.reconstruction
    gan = BridgeGan(
        Linear(path),
        times=tuple(grid.uniform(recipe.steps).tolist()),
        latent_dim=recipe.latent_dim,
        terms=((said.weight, build_metric(said.metric)),) if said.weight else (),
        gamma=recipe.r1,
        penalty_every=recipe.r1_every,
    )
    judge = _judge(recipe)
    objective = Adversarial(gan, judge)
    sampler = BridgeSampler(
        gan,
        count=recipe.samples.count,
        seed=recipe.samples.seed,
        n_labels=recipe.network.n_labels,
    )
    return Parts(denoiser, lambda average: objective, sampler, judge)


def _judge(recipe: GanRecipe) -> nn.Module:
    """Return the discriminator with weights drawn from the seed, apart from the generator's."""
    network, config = recipe.network, recipe.discriminator
    n_labels, channels = network.n_labels, network.out_channels
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(mix64(recipe.seed, _TAG_DISCRIMINATOR))
        judge: nn.Module
        if network.spatial_dims == 0:
            width, depth = config.channels[0], len(config.channels)
            judge = MlpDiscriminator(channels, width=width, depth=depth, context_dim=n_labels)
        else:
            judge = ConvDiscriminator(
                spatial_dims=network.spatial_dims,
                in_channels=channels,
                channels=config.channels,
                stem_factor=config.stem_factor,
                context_dim=n_labels,
            )
    return Judge(judge, n_labels=n_labels)
