"""What the precision policy gains on this machine: one network, timed in both number formats."""

__all__ = ["Speed", "network_speed"]

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import final

from medsci.errors import UsageError
from medsci.pipelines.device import choose_device


@final
@dataclass(frozen=True)
class Speed:
    """Wall time of one network call, in milliseconds, and what `--precision auto` takes here."""

    device: str
    batch: int
    size: tuple[int, ...]
    float32_ms: float
    bfloat16_ms: float
    auto: str

    @property
    def speed_up(self) -> float:
        """Time in float32 over time in the format that `auto` takes; 1 where that is float32."""
        return self.float32_ms / self.bfloat16_ms if self.auto == "bfloat16" else 1.0


def network_speed(
    name: str,
    *,
    size: tuple[int, ...] | None = None,
    batch: int = 4,
    device: str = "auto",
    n_rounds: int = 5,
) -> Speed:
    """Time a stored denoiser in float32 and bfloat16, in turns, and take the medians.

    Args:
        name: name or folder of a model.
        size: of an image; the one the model was trained on if left out.
        batch: slices per call.
        device: as `choose_device` takes it.
        n_rounds: timed calls of each format, after one that warms up.

    Raises:
        UsageError: a number that is not positive, or a device that is absent.
        WeightsError: the model is missing or damaged.
    """
    if min(*(size or (1,)), batch, n_rounds) < 1:
        raise UsageError(f"size {size}, batch {batch} and n_rounds {n_rounds} must be positive")
    import torch

    from medsci.core.precision import resolve_precision
    from medsci.models import load_denoiser, verify_model

    place = choose_device(device)
    config = verify_model(name).config
    size = config.training_size if size is None else size
    if len(size) != config.network.spatial_dims:
        raise UsageError(
            f"size {size} came for a network of {config.network.spatial_dims} dimensions, and none "
            "is recorded with the model; give one number per dimension"
        )
    shape = (batch, config.network.in_channels, *size)
    x = torch.zeros(shape, device=place)
    single = load_denoiser(name, device=place, precision="float32")
    half = load_denoiser(name, device=place, precision="bfloat16")
    with torch.inference_mode():
        taken = [
            (_seconds(lambda: single(x, 0.5), place), _seconds(lambda: half(x, 0.5), place))
            for _ in range(n_rounds + 1)
        ][1:]
    singles, halves = zip(*taken, strict=True)
    return Speed(
        device=place,
        batch=batch,
        size=size,
        float32_ms=1e3 * statistics.median(singles),
        bfloat16_ms=1e3 * statistics.median(halves),
        auto=str(resolve_precision("auto", place)).removeprefix("torch."),
    )


def _seconds(call: Callable[[], object], device: str) -> float:
    import torch

    start = time.perf_counter()
    call()
    if device != "cpu":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start
