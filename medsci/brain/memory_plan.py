"""One way to run a model of volumes: in which mode, in how much memory, in plain words."""

__all__ = ["GIB", "SPARE", "MemoryMode", "MemoryPlan", "TooLargeError", "in_words"]

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, final

from medsci.errors import ExitCode, MedsciError

if TYPE_CHECKING:
    from medsci.core.denoise import DenoiseFn

MemoryMode = Literal["plain", "sliced", "tiled", "checkpointed"]

GIB = 2.0**30
SPARE = 0.9  # of what is available: the rest is for files, previews and other programs
_DONE = {
    "plain": "the network runs whole",
    "sliced": "residual blocks run in slabs: the same result, about a fifth more time",
    "checkpointed": "residual blocks run again on the way back: the same result, about a third "
    "more time",
}


@final
class TooLargeError(MedsciError):
    """No mode fits into the memory there is."""

    exit_code = ExitCode.OUT_OF_MEMORY


@final
@dataclass(frozen=True)
class MemoryPlan:
    """One way to run a model, and the memory it takes.

    Attributes:
        name: of the model.
        size: voxels of a volume.
        batch: volumes in one evaluation of the network, at most as many as were asked for.
        asked: volumes that were asked for.
        precision: number format of the arithmetic.
        mode: see the module.
        training: a training step rather than sampling.
        weights_gib: parameters, with moments and average if it is training.
        activations_gib: what the network makes, at the worst moment, with gradients.
        states_gib: what the solver keeps; 0 in training.
        available_gib: memory there is.
        tile: voxels of a tile, for the mode `tiled`.
    """

    name: str
    size: tuple[int, ...]
    batch: int
    asked: int
    precision: Literal["float32", "bfloat16"]
    mode: MemoryMode
    training: bool
    weights_gib: float
    activations_gib: float
    states_gib: float
    available_gib: float
    tile: tuple[int, ...] | None = None

    @property
    def peak_gib(self) -> float:
        """Return the predicted peak."""
        return self.weights_gib + self.activations_gib + self.states_gib

    @property
    def fits(self) -> bool:
        """Tell whether the peak stays below nine tenths of what is available."""
        return self.peak_gib <= SPARE * self.available_gib

    def lines(self) -> tuple[str, ...]:
        """Return the plan in plain words."""
        what = "training" if self.training else "sampling"
        words = _DONE.get(self.mode) or (
            f"tiles of {in_words(self.tile or ())} voxels, blended: an approximation, as the "
            "network sees no more than a tile"
        )
        fewer = f" (of {self.asked} asked for)" if self.batch < self.asked else ""
        states = "" if self.training else f", states {self.states_gib:.2f}"
        return (
            f"{self.name}, {what} at {in_words(self.size)} voxels, batch {self.batch}{fewer}, "
            f"{self.precision}: {words}",
            f"memory: {self.peak_gib:.2f} GiB of {self.available_gib:.1f} GiB available "
            f"(weights {self.weights_gib:.2f}, activations {self.activations_gib:.2f}{states})",
        )

    def prepare(self, denoiser: "DenoiseFn") -> "DenoiseFn":
        """Put a denoiser into the mode of this plan; its network is changed in place.

        For training, pass the network's denoiser as well: its blocks are checkpointed if the plan
        says so.
        """
        from medsci.core.denoise import Tiled
        from medsci.nets.checkpointing import checkpoint_activations
        from medsci.nets.sliced import slice_activations

        net: Any = getattr(denoiser, "net", denoiser)
        if self.mode == "sliced":
            slice_activations(net)
        elif self.mode == "checkpointed":
            checkpoint_activations(net)
        elif self.tile is not None:
            return Tiled(denoiser, tile=self.tile, overlap=_overlap(self.tile), chunk=1)
        return denoiser


def in_words(sides: Sequence[int]) -> str:
    """Return `192 x 224 x 192`."""
    return " x ".join(str(side) for side in sides)


def _overlap(tile: Sequence[int]) -> tuple[int, ...]:
    return tuple(side // 4 for side in tile)
