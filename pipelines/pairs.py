"""A model in, pairs of noise and its samples out: the training data of few-step models."""

__all__ = ["PairSettings", "make_pairs"]

import logging
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, final

from medsci.errors import InvalidInputError, UsageError
from medsci.pipelines import Progress
from medsci.pipelines.cases import CaseReport
from medsci.pipelines.device import choose_device

if TYPE_CHECKING:
    import numpy as np
    import torch

    from medsci.core.denoise import Denoiser
    from medsci.core.solve import AbstractSolver
    from medsci.models import ModelInfo

_log = logging.getLogger(__name__)


@final
@dataclass(frozen=True)
class PairSettings:
    """How pairs are made.

    Args:
        n: number of pairs.
        steps: network evaluations of each walk; solver and grid follow from it.
        size: of the samples, in voxels; the model's training size if left out.
        seed: of the noise.
        batch: samples at a time: memory and speed, not results.
        device: `auto`, `cpu`, `cuda` or `cuda:n`.
        precision: numbers of the network.
        guidance: scale of classifier-free guidance, 1 for none; needs a model with labels.
        label: the one label of all pairs.
        labels: this many labels, 0 and up, dealt out in turn.
        dtype: of the pairs on disk.
    """

    n: int = 4096
    steps: int = 20
    size: tuple[int, ...] | None = None
    seed: int = 0
    batch: int = 16
    device: str = "auto"
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    guidance: float = 1.0
    label: int | None = None
    labels: int | None = None
    dtype: Literal["float16", "float32"] = "float16"

    def __post_init__(self) -> None:
        for name, least in (("n", 1), ("steps", 2), ("batch", 1)):
            if getattr(self, name) < least:
                raise UsageError(f"{name} is {getattr(self, name)}; give {least} or more")
        if self.size is not None and (not self.size or min(self.size) < 1):
            raise UsageError(f"size is {self.size}; give one positive number per dimension")
        if self.label is not None and self.labels is not None:
            raise UsageError("label and labels contradict each other; give one")
        if (self.label or 0) < 0 or (self.labels is not None and self.labels < 1):
            raise UsageError(
                f"label is {self.label} and labels {self.labels}; labels count from 0, and there "
                "must be one"
            )

    def label_of(self, item: int) -> int | None:
        """Return the label of a pair, None for pairs without one."""
        return self.label if self.labels is None else item % self.labels


def make_pairs(
    model: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    settings: PairSettings | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> CaseReport:
    """Walk a stored model from fresh noise and write noise and samples as HDF5.

    Pair `i` depends on the model, the seed and `i`, not on the batch it was made in, up to the
    rounding of batched arithmetic. The file appears whole at the end, or not at all.

    Args:
        model: name or folder of a stored model.
        output: the file, `.h5` or `.hdf5`; see `medsci.data.pairs`.
        settings: see `PairSettings`.
        overwrite: replace a file that is there.
        progress: called as `progress(done, total, text)`.

    Raises:
        WeightsError: no such model, or it is damaged.
        UsageError: the settings do not fit the model.
        OutputExistsError: the output exists and `overwrite` is False.
        InvalidInputError: the model's samples are not finite.
    """
    began = time.perf_counter()
    settings = PairSettings() if settings is None else settings
    target, device = Path(output), choose_device(settings.device)

    from medsci.data.pairs import PairInfo, write_pair_file
    from medsci.models import load_denoiser, verify_model

    stored = verify_model(model)
    denoiser = load_denoiser(model, device=device, precision=settings.precision)
    shape = _shape(stored, settings)
    teacher = _teacher(denoiser, stored, settings)
    solver, grid = _walk(denoiser, settings.steps, rank=len(shape) + 1)
    info = PairInfo(
        model=stored.config.name,
        sha256=stored.config.sha256,
        seed=settings.seed,
        steps=settings.steps,
        solver=repr(solver),
        guidance=settings.guidance,
    )
    with write_pair_file(
        target, n_items=settings.n, info=info, dtype=settings.dtype, overwrite=overwrite
    ) as add:
        for first in range(0, settings.n, settings.batch):
            ids = range(first, min(first + settings.batch, settings.n))
            add(*_batch(teacher, ids, shape, settings=settings, walk=(solver, grid), device=device))
            if progress is not None:
                progress(ids.stop, settings.n, "pairs")
    _log.info("wrote %d pairs to %s", settings.n, target)
    return CaseReport(
        stored.name,
        "done",
        outputs={"pairs": target},
        result={"pairs": settings.n, "shape": list(shape), "steps": settings.steps,
                "seed": settings.seed, "guidance": settings.guidance},
        seconds=time.perf_counter() - began,
    )  # fmt: skip


def _batch(
    teacher: Any,
    ids: range,
    shape: tuple[int, ...],
    *,
    settings: PairSettings,
    walk: "tuple[AbstractSolver, np.ndarray]",
    device: str,
) -> "tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]":
    """Return the samples, the noise and the conditions of some pairs."""
    import torch

    from medsci.core import Rng
    from medsci.core.learn.reflow import reflow_pairs

    labels = [settings.label_of(i) for i in ids]
    cond = {} if labels[0] is None else {"label": torch.tensor(labels, device=device)}
    x0, z = reflow_pairs(
        teacher,
        (len(ids), *shape),
        rng=Rng(settings.seed, ids),
        solver=walk[0],
        grid=walk[1],
        cond=cond,
        device=device,
    )
    if not bool(x0.isfinite().all()):
        raise InvalidInputError(
            f"a sample among pairs {ids.start} to {ids.stop - 1} is not finite; try --precision "
            "float32 or less guidance, and 'medsci models verify'"
        )
    return x0, z, cond


def _walk(denoiser: "Denoiser", steps: int, *, rank: int) -> "tuple[AbstractSolver, np.ndarray]":
    """Return the solver and the grid that `sample` would take for so many evaluations."""
    from medsci.core.solve import auto
    from medsci.core.solve.sample import IMAGE_RANK

    spectrum: Literal["long", "short"] = "long" if rank >= IMAGE_RANK else "short"
    return auto(denoiser.path, steps, sigma_data=denoiser.sigma_data, spectrum=spectrum)


def _shape(stored: "ModelInfo", settings: PairSettings) -> tuple[int, ...]:
    """Return the shape of one sample, channels first."""
    network, size = stored.config.network, settings.size
    size = stored.config.training_size if size is None else size
    if len(size) != network.spatial_dims:
        came = "of training" if settings.size is None else "asked for"
        raise UsageError(
            f"the size {came} is {size or 'unknown'}, and the network of {stored.name} takes "
            f"{network.spatial_dims} dimensions; give --size"
        )
    return (network.in_channels, *size)


def _teacher(denoiser: "Denoiser", stored: "ModelInfo", settings: PairSettings) -> Any:
    """Return the denoiser, guided if it is to be, after a look at what labels it takes."""
    network = stored.config.network
    known = network.n_labels
    highest = settings.label if settings.labels is None else settings.labels - 1
    if highest is not None and not known:
        raise UsageError(f"the model {stored.name} knows no labels; leave --label and --labels out")
    if highest is not None and highest >= known:
        raise UsageError(f"label {highest} came, but {stored.name} knows 0 to {known - 1}")
    if settings.guidance == 1.0:
        return denoiser
    if highest is None or not getattr(network, "null_label", True):
        raise UsageError(
            "guidance compares a label with none; give --label or --labels and a model that was "
            "trained with and without labels, or leave --guidance out"
        )
    import torch

    from medsci.core import Guided

    device = next(denoiser.parameters()).device
    none = torch.tensor([known], device=device)  # the row after the last label stands for none
    return Guided(denoiser, scale=settings.guidance, null={"label": none})
