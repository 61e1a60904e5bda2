"""From recipe to objects: data source, denoiser, objective."""

__all__ = ["build_denoiser", "build_objective", "build_source"]

from typing import Literal

from medsci.core.denoise import Denoiser
from medsci.core.learn import LogitNormal, PseudoHuber, Regression, SquaredError, Uniform
from medsci.core.learn.metric import Metric
from medsci.core.learn.time_law import TimeLaw
from medsci.data.source import SliceSource
from medsci.models.config import build_path
from medsci.nets.unet import build_network
from medsci.training.recipe import (
    NiftiSlicesConfig,
    PseudoHuberConfig,
    SimulatedHeadsConfig,
    TrainRecipe,
    UniformConfig,
)


def build_source(recipe: TrainRecipe, *, split: Literal["train", "validation"]) -> SliceSource:
    """Return the slices of one split."""
    data = recipe.data
    match data:
        case SimulatedHeadsConfig():
            from medsci.data.heads import SimulatedHeads

            return SimulatedHeads(
                n_heads=data.n_heads if split == "train" else data.n_validation_heads,
                size=data.size,
                seed=recipe.seed,
                split=split,
                slices=data.slices,
                cache_dir=data.cache_dir,
            )
        case NiftiSlicesConfig():
            from medsci.data.nifti_slices import NiftiSlices

            return NiftiSlices(
                data.train if split == "train" else data.validation,
                axis=data.axis,
                size=data.size,
                channels=data.channels,
                min_signal=data.min_signal,
            )
    raise TypeError(f"{type(data).__name__} describes no data source")


def build_denoiser(recipe: TrainRecipe) -> Denoiser:
    """Return the untrained denoiser, with weights drawn from the recipe's seed."""
    return Denoiser(
        build_network(recipe.network, seed=recipe.seed),
        path=build_path(recipe.path),
        pred=recipe.prediction,
        sigma_data=recipe.sigma_data,
        time_code=recipe.time_code,
        unit_input=recipe.unit_input,
        precision=recipe.trainer.precision,
    )


def build_objective(recipe: TrainRecipe) -> Regression:
    """Return the loss."""
    law, metric = recipe.time_law, recipe.metric
    time_law: TimeLaw
    if isinstance(law, UniformConfig):
        time_law = Uniform(on=law.axis, sigma_data=recipe.sigma_data, margin=law.margin)
    else:
        time_law = LogitNormal(
            mean=law.mean,
            sd=law.sd,
            on=law.axis,
            sigma_data=recipe.sigma_data,
            margin=law.margin,
        )
    error: Metric = SquaredError()
    if isinstance(metric, PseudoHuberConfig):
        error = PseudoHuber(width=metric.width)
    return Regression(time_law=time_law, metric=error)
