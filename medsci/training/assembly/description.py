"""From recipe to the configuration that is stored beside the weights."""

__all__ = ["own_config", "stored_config"]

from typing import Any

from medsci.models.config import CovariateConfig, ModelConfig
from medsci.training.recipe import DistillRecipe, GanRecipe, PriorRecipe, TrainRecipe
from medsci.training.recipe.data import NiftiVolumesConfig, SimulatedHeadVolumesConfig


def stored_config(recipe: TrainRecipe) -> ModelConfig:
    """Return what the stored model says about itself, all but the facts of the run."""
    match recipe:
        case PriorRecipe():
            return own_config(recipe)
        case DistillRecipe():
            from medsci.training.assembly.distillation import student_config

            return student_config(recipe)
        case GanRecipe():
            from medsci.training.assembly.gan import gan_config

            return gan_config(recipe)
    raise TypeError(f"{type(recipe).__name__} describes no stored model")


def own_config(recipe: PriorRecipe | GanRecipe, **more: Any) -> ModelConfig:
    """Return the configuration of a network that the recipe itself describes."""
    return ModelConfig(
        name=recipe.name,
        network=recipe.network,
        path=recipe.path,
        prediction=recipe.prediction,
        sigma_data=recipe.sigma_data,
        time_code=recipe.time_code,
        unit_input=recipe.unit_input,
        image_channels=recipe.card.image_channels,
        intensity=recipe.card.intensity,
        window_hu=recipe.card.window_hu,
        orientation=recipe.card.orientation,
        value_range=recipe.card.value_range,
        covariates=_covariates(recipe),
        training_size=tuple(getattr(recipe.data, "size", ())),
        voxel_size_mm=recipe.card.voxel_size_mm,
        licence=recipe.card.licence,
        data=recipe.card.data,
        **more,
    )


def _covariates(recipe: PriorRecipe | GanRecipe) -> tuple[CovariateConfig, ...]:
    """Return what data or card say of them, or else what simulated volumes know."""
    match recipe.data:
        case NiftiVolumesConfig(covariates=named) if named:
            return named
        case (
            NiftiVolumesConfig(tissue_covariates=known)
            | SimulatedHeadVolumesConfig(covariates=known)
        ):
            counted = known and not recipe.card.covariates
        case _:
            counted = False
    if not counted:
        return recipe.card.covariates
    from medsci.data.head_volumes import CORRELATION, COVARIATES

    known_law = CORRELATION if isinstance(recipe.data, SimulatedHeadVolumesConfig) else ((),) * 4
    return tuple(
        CovariateConfig(
            name=name, unit=unit, mean=mean, std=std, low=low, high=high, correlation=row
        )
        for (name, unit, mean, std, low, high), row in zip(COVARIATES, known_law, strict=True)
    )
