"""Whether samples fit the network of a recipe: found out before anything is trained."""

__all__ = ["check_fit"]

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from medsci.data.source import Source, as_sample
from medsci.errors import InvalidInputError
from medsci.training.assembly.description import stored_config
from medsci.training.recipe import TrainRecipe


def check_fit(recipe: TrainRecipe, sources: Mapping[str, Source]) -> tuple[int, ...]:
    """Return the shape (c, *spatial) of the samples that all of `sources` draw.

    Args:
        recipe: names the network, or the teacher whose network it is.
        sources: by the name of their split.

    Raises:
        InvalidInputError: a source has no items, or samples of another number of channels or
            dimensions than the network, or labels or conditions that it does not know.
        WeightsError: the teacher is missing or damaged.
    """
    network: Any = getattr(recipe, "network", None)
    whose = "data" if network is None else "network"
    network = stored_config(recipe).network if network is None else network
    shapes = {}
    for split, source in sources.items():
        if source.n_items < 1:
            raise InvalidInputError(f"data ({split}): no samples; check its folder or its range")
        sample = _first(source, split)
        shapes[split] = tuple(sample["x0"].shape)
        _check_shape(shapes[split], network, where=f"data ({split})", whose=whose)
        if "label" in sample and not network.n_labels:
            raise InvalidInputError(
                f"{whose}.n_labels: data ({split}) have labels, the network knows none; "
                "take data without, or a network with n_labels"
            )
        _check_labels(source, int(network.n_labels), split=split)
        for key, name in (("n_covariates", "covariates"), ("condition_channels", "image")):
            _check_condition(sample.get(name), network, key=key, where=f"{whose}.{key}: {split}")
    words = {tuple(getattr(source, "labels", ())) for source in sources.values()}
    if len(words) > 1:
        listed = " and ".join(", ".join(some) or "none" for some in sorted(words))
        raise InvalidInputError(
            f"data.label: the splits have different words, {listed}; they would be numbered "
            "differently, give whole numbers instead"
        )
    if len(set(shapes.values())) > 1:
        listed = " and ".join(f"{split} {shape}" for split, shape in shapes.items())
        raise InvalidInputError(f"data: samples are {listed}; give both splits one shape")
    return next(iter(shapes.values()))


def _first(source: Source, split: str) -> dict[str, Tensor]:
    try:
        return as_sample(source.draw(0, 0))
    except (InvalidInputError, ValueError) as error:
        raise InvalidInputError(f"data ({split}): {error}") from error


def _check_shape(shape: Sequence[int], network: Any, *, where: str, whose: str) -> None:
    if len(shape) - 1 != network.spatial_dims:
        raise InvalidInputError(
            f"{whose}.kind: {where} have samples {tuple(shape)} of {len(shape) - 1} dimensions, "
            f"the network {network.kind} is for {network.spatial_dims}; change one of them"
        )
    for key in ("in_channels", "out_channels"):
        have = getattr(network, key)
        if have != shape[0]:
            raise InvalidInputError(
                f"{whose}.{key}: {where} have samples {tuple(shape)} of {shape[0]} channels, "
                f"the network {have}; change one of them"
            )


def _check_condition(given: Tensor | None, network: Any, *, key: str, where: str) -> None:
    have, wanted = 0 if given is None else len(given), int(getattr(network, key, 0))
    if have != wanted:
        raise InvalidInputError(
            f"{where} data have {have}, the network takes {wanted}; change one of them"
        )


def _check_labels(source: Source, n_labels: int, *, split: str) -> None:
    labels: Sequence[int] = getattr(source, "label_values", ())
    words: Sequence[str] = getattr(source, "labels", ())
    if not labels or (min(labels) >= 0 and max(labels) < n_labels):
        return
    named = f" ({', '.join(words[:8])})" if words else ""
    advice = f"set it to {max(labels) + 1}" if min(labels) >= 0 else "number labels from 0"
    raise InvalidInputError(
        f"network.n_labels: data.label has values {min(labels)} to {max(labels)}{named} in the "
        f"{split} data, the network knows 0 to {n_labels - 1}; {advice}"
    )
