"""Volumes from noise: the loop that draws them, batch by batch, and what each comes out as.

Volume k of seed S depends on (S, k) alone: its noise has a stream of its own, whatever the batch,
the order or the number of volumes. On the CPU that holds to the last bit, as the network sees one
volume at a time there, which costs no speed; on other devices a batch is one call, and the order
of its sums may differ with its size, by about 1e-6 of the range per volume in float32.
"""

__all__ = ["GenerateSettings", "Generated", "check_generator", "generate", "label_map", "regions"]

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

import numpy as np
import torch
from jaxtyping import Float32, Float64, UInt8
from torch import Tensor

from medsci.brain.conditions import standardised
from medsci.brain.frame import Frame
from medsci.brain.walk import Clipping, SolverName, clip_hooks, walk_of
from medsci.core.denoise import Guided, Slicewise
from medsci.core.solve import sample
from medsci.core.steer.hallucination import Hallucination
from medsci.core.steer.hook import Hook, StepState
from medsci.errors import MedsciError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from medsci.models import ModelConfig


@final
@dataclass(frozen=True)
class GenerateSettings:
    """How to draw; equal settings, seeds and numbers give equal volumes.

    Attributes:
        seed: of the run.
        solver: see `walk_of`.
        n_steps: network evaluations per volume; the model's own number if None.
        guidance: weight W of classifier-free guidance, `u + W (c - u)`; 1 is none.
        clip: see `clip_hooks`.
        batch: volumes drawn together; memory and speed, not results.
        maps: whether to record the hallucination map.
    """

    seed: int
    solver: SolverName = "auto"
    n_steps: int | None = None
    guidance: float = 1.0
    clip: Clipping = "consistent"
    batch: int = 1
    maps: bool = False

    def __post_init__(self) -> None:
        if not (0.0 <= self.guidance < math.inf):
            raise UsageError(f"guidance is {self.guidance}; give 0 or more, 1 is none")
        if self.batch < 1:
            raise UsageError(f"batch is {self.batch}; give 1 or more")
        if self.n_steps is not None and self.n_steps < 1:
            raise UsageError(f"steps is {self.n_steps}; give 1 or more")


@final
@dataclass(frozen=True, eq=False)
class Generated:
    """One volume, on the box of its model.

    Attributes:
        number: 1, 2, 3 ... of the seed.
        image: the first channel, its range of values mapped to [0, 1].
        fractions: the further channels as shares of the voxel in [0, 1], tissue first.
        hallucination: variance of the estimate of `image` over the end of the walk (see
            `Walk.n_settled`), in units of `image` squared; None if it was not recorded.
        overshoot: how far values of the first channel were outside [0, 1]: `(below, above)`, both
            0 with clipping.
    """

    number: int
    image: Float32[np.ndarray, "i j k"]
    fractions: Float32[np.ndarray, "c i j k"]
    hallucination: Float32[np.ndarray, "i j k"] | None = None
    overshoot: tuple[float, float] = (0.0, 0.0)


def check_generator(config: "ModelConfig") -> tuple[Frame, tuple[str, ...]]:
    """Return the box of a stored model and the names of its channels, the image first.

    Raises:
        UsageError: it is not a model of volumes whose channels are named.
    """
    frame = Frame.of(config)
    n_channels = config.network.out_channels
    if len(config.image_channels) != n_channels:
        raise UsageError(
            f"the model {config.name} draws {n_channels} channels and names "
            f"{len(config.image_channels)}; a generator names every channel, the image first"
        )
    return frame, config.image_channels


def generate(
    denoiser: "Callable[..., Tensor]",
    config: "ModelConfig",
    *,
    numbers: Sequence[int],
    settings: GenerateSettings,
    rows: Float64[np.ndarray, "n m"] | None = None,
    device: str = "cpu",
    progress: "Callable[[int, int, str], None] | None" = None,
) -> Iterator[Generated]:
    """Draw volumes, each batch as it is asked for.

    Args:
        denoiser: of the model, on the device.
        config: of the model: box, path, covariates, range of values.
        numbers: which volumes of the seed, 1 being the first.
        settings: see `GenerateSettings`.
        rows: conditions in the covariates' own units, one row per number, NaN where none is asked.
        device: where the state lives.
        progress: called as `progress(done, total, text)` after every network evaluation.

    Raises:
        UsageError: the settings do not fit each other or the model, or guidance came with no
            condition to follow.
        MedsciError: the network returned numbers that are not finite.
    """
    frame, channels = check_generator(config)
    walk = walk_of(config, solver=settings.solver, steps=settings.n_steps)
    clip_hooks(settings.clip, config.value_range, walk)
    asked = rows is not None and bool(np.isfinite(rows).any())
    if settings.guidance != 1.0 and not asked:
        raise UsageError(
            f"guidance {settings.guidance:g} came without a condition to follow; give one, or "
            "leave it out"
        )
    told = None if rows is None or not asked else standardised(config.covariates, rows)
    shape = (len(channels), *frame.shape)
    done = 0
    for start in range(0, len(numbers), settings.batch):
        part = slice(start, start + settings.batch)
        some = numbers[part]
        text = f"volume {some[0]}" + (f" to {some[-1]}" if len(some) > 1 else "")
        total = walk.n_evaluations * math.ceil(len(numbers) / settings.batch)
        maps = Hallucination(walk.n_settled(config.sigma_data)) if settings.maps else None
        hooks: list[Hook] = [*clip_hooks(settings.clip, config.value_range, walk)]
        hooks += [] if maps is None else [maps]
        hooks += [] if progress is None else [_Counting(progress, done, total, text)]
        model, cond = _told(denoiser, None if told is None else told[part], settings, device)
        x = sample(
            model,
            (len(some), *shape),
            solver=walk.solver,
            grid=walk.grid,
            path=walk.path,
            seed=settings.seed,
            ids=[number - 1 for number in some],
            cond=cond,
            hooks=hooks,
            device=device,
        )
        done += walk.n_evaluations
        variance = None if maps is None else maps.map()
        for place, number in enumerate(some):
            yield _finished(number, x[place], None if variance is None else variance[place], config)


def label_map(fractions: Float32[np.ndarray, "c i j k"]) -> UInt8[np.ndarray, "i j k"]:
    """Return 1, 2 ... where that fraction is the largest share of the voxel, 0 where the rest is.

    The rest, `1 - sum of fractions`, is background and all that is not named.
    """
    rest = 1.0 - fractions.sum(axis=0, keepdims=True)
    return np.concatenate([rest, fractions]).argmax(axis=0).astype(np.uint8)


def regions(
    fractions: Float32[np.ndarray, "c i j k"], names: Sequence[str], *, voxel_ml: float
) -> dict[str, float]:
    """Return what a volume came out as: ml of every tissue, of all, and their shares of it.

    A voxel counts with its fraction where the tissues together are most of the voxel or its
    neighbour, so that small errors in the air do not add up. The names are those of the conditions:
    `brain_ml`, and `NAME_fraction` for every tissue.
    """
    from scipy import ndimage

    near = ndimage.binary_dilation(fractions.sum(axis=0) > 0.5, np.ones((3, 3, 3)))
    each = (fractions * near).sum(axis=(1, 2, 3), dtype=np.float64) * voxel_ml
    total = float(each.sum())
    found = {"brain_ml": total}
    found |= {f"{name}_ml": float(ml) for name, ml in zip(names, each, strict=True)}
    if total > 0.0:
        found |= {f"{name}_fraction": float(ml) / total for name, ml in zip(names, each)}  # noqa: B905
    return {name: round(value, 4) for name, value in found.items()}


def _told(
    denoiser: "Callable[..., Tensor]",
    told: Float32[np.ndarray, "n m"] | None,
    settings: GenerateSettings,
    device: str,
) -> "tuple[Callable[..., Tensor], dict[str, Any]]":
    """Return the denoiser, guided if asked, and the conditions of its calls."""
    if torch.device(device).type == "cpu":
        denoiser = Slicewise(denoiser, chunk=1)
    if told is None:
        return denoiser, {}
    covariates = torch.from_numpy(told).to(device)
    cond = {"covariates": covariates}
    if settings.guidance == 1.0:
        return denoiser, cond
    null = {"covariates": torch.full_like(covariates, math.nan)}
    return Guided(denoiser, scale=settings.guidance, null=null, batched=False), cond


def _finished(number: int, x: Tensor, variance: Tensor | None, config: "ModelConfig") -> Generated:
    values = x.float().cpu().numpy()
    if not np.isfinite(values).all():
        raise MedsciError(
            f"volume {number} has {int((~np.isfinite(values)).sum())} values that are not finite; "
            "try --precision fp32, more steps, or another solver"
        )
    low, high = config.value_range or (float(values[0].min()), float(values[0].max()))
    width = high - low if high > low else 1.0
    image = (values[0] - low) / width
    below, above = max(0.0, -float(image.min())), max(0.0, float(image.max()) - 1.0)
    image = image.clip(0.0, 1.0).astype(np.float32)
    shares = ((values[1:] - low) / width).clip(0.0, 1.0).astype(np.float32)
    found = None if variance is None else (variance[0].float().cpu().numpy() / width**2)
    return Generated(number, image, shares, found, (round(below, 6), round(above, 6)))


@final
class _Counting(Hook):
    """Tell about every network evaluation."""

    def __init__(
        self, progress: "Callable[[int, int, str], None]", done: int, total: int, text: str
    ) -> None:
        self.progress, self.done, self.total, self.text = progress, done, total, text

    def denoised(self, state: StepState) -> None:
        """Count one."""
        self.done += 1
        self.progress(self.done, self.total, self.text)
