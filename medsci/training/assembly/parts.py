"""From recipe to objects: data source, networks, objective, sampler."""

__all__ = ["Parts", "build_denoiser", "build_parts", "build_source"]

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, final

from torch import Tensor, nn

from medsci.core.denoise import Denoiser
from medsci.core.learn import Objective
from medsci.data.source import Source
from medsci.errors import InvalidInputError, WeightsError
from medsci.models.config import build_path
from medsci.nets.unet import build_network
from medsci.training.assembly.law import build_regression
from medsci.training.assembly.sampler import Sampler
from medsci.training.recipe import DistillRecipe, PriorRecipe, TrainRecipe
from medsci.training.recipe.tasks import GanRecipe

if TYPE_CHECKING:
    from medsci.training.adversarial import BridgeSampler

Split = Literal["train", "validation"]


@final
@dataclass(frozen=True)
class Parts:
    """What a task is made of.

    Attributes:
        denoiser: is trained.
        objective: average -> objective; some hold the moving average as their target.
        sampler: how the result is to be sampled.
        discriminator: is trained against the denoiser, where the objective has one.
    """

    denoiser: Denoiser
    objective: Callable[[Denoiser], Objective]
    sampler: "Sampler | BridgeSampler"
    discriminator: nn.Module | None = None


def build_source(recipe: TrainRecipe, *, split: Split) -> Source:
    """Return the samples of one split.

    Raises:
        InvalidInputError: the data are missing or unreadable; the message names the section.
    """
    from medsci.training.assembly.data import source_of

    try:
        return source_of(recipe.data, split=split, seed=recipe.seed)
    except (InvalidInputError, ValueError) as error:
        raise InvalidInputError(f"data ({split}): {error}") from error


def build_parts(recipe: TrainRecipe) -> Parts:
    """Return what the recipe's task is made of.

    Raises:
        WeightsError: a model that the recipe names is missing or damaged.
        InvalidInputError: the network cannot be trained as `trainer` says.
    """
    parts = _parts_of(recipe)
    if recipe.trainer.checkpoint_activations:
        from medsci.nets.checkpointing import checkpoint_activations

        try:
            checkpoint_activations(parts.denoiser.net)
        except ValueError as error:
            raise InvalidInputError(f"trainer.checkpoint_activations: {error}") from error
    return parts


def _parts_of(recipe: TrainRecipe) -> Parts:
    match recipe:
        case PriorRecipe():
            regression = build_regression(recipe)
            denoiser = build_denoiser(recipe)
            return Parts(denoiser, lambda average: regression, _sampler(recipe, denoiser))
        case DistillRecipe():
            from medsci.training.assembly.distillation import build_distillation

            return build_distillation(recipe)
        case GanRecipe():
            from medsci.training.assembly.gan import build_gan

            return build_gan(recipe)
    raise TypeError(f"{type(recipe).__name__} describes no training")


def _sampler(recipe: PriorRecipe, denoiser: Denoiser) -> Sampler:
    samples = recipe.samples
    n_labels = int(getattr(recipe.network, "n_labels", 0))
    return Sampler(count=samples.count, steps=samples.steps, seed=samples.seed, n_labels=n_labels)


def build_denoiser(recipe: PriorRecipe) -> Denoiser:
    """Return the denoiser a run starts from: weights drawn from the seed, or those of `init`."""
    denoiser = Denoiser(
        build_network(recipe.network, seed=recipe.seed),
        path=build_path(recipe.path),
        pred=recipe.prediction,
        sigma_data=recipe.sigma_data,
        time_code=recipe.time_code,
        unit_input=recipe.unit_input,
        precision=recipe.trainer.precision,
    )
    if recipe.init is not None:
        _start_from(denoiser, recipe.init)
    return denoiser


def _start_from(denoiser: Denoiser, name: str) -> None:
    from medsci.models.store import load_denoiser

    weights: dict[str, Tensor] = load_denoiser(name).net.state_dict()
    try:
        denoiser.net.load_state_dict(weights)
    except RuntimeError as error:
        raise WeightsError(
            f"init: the network of {name!r} is not the one of the recipe "
            f"({str(error).splitlines()[-1].strip()}); copy its network section"
        ) from error
