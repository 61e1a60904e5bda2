"""Random numbers that depend on (seed, sample, step, tag) and on nothing else.

Every sample of a batch owns a stream, so its noise is the same alone, in a batch of eight, on
another machine or after a restart. Numbers are drawn on the CPU and moved, so that a GPU run and a
CPU run share them.
"""

__all__ = ["Rng", "mix64"]

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

_MASK = (1 << 64) - 1


def mix64(*words: int) -> int:
    """Hash integers into 64 well-mixed bits.

    Source: the finaliser of SplitMix64, Steele, Lea and Flood 2014, doi:10.1145/2660193.2660195,
    applied to each word in turn.
    """
    state = 0
    for word in words:
        state = (state + 0x9E3779B97F4A7C15 + (word & _MASK)) & _MASK
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & _MASK
        state ^= state >> 31
    return state


@final
@dataclass(frozen=True)
class Rng:
    """One independent stream per sample.

    Args:
        seed: the seed of the run.
        ids: one integer per sample of the batch; equal ids give equal noise.
    """

    seed: int
    ids: tuple[int, ...]

    def __init__(self, seed: int, ids: Sequence[int]) -> None:
        object.__setattr__(self, "seed", int(seed))
        object.__setattr__(self, "ids", tuple(int(i) for i in ids))

    def _generator(self, sample: int, step: int, tag: int) -> torch.Generator:
        return torch.Generator().manual_seed(mix64(self.seed, sample, step, tag))

    def normal(
        self,
        shape: Sequence[int],
        *,
        step: int,
        tag: int = 0,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> Tensor:
        """Draw standard normal noise; complex noise has `E|z|^2 = 1`.

        Half precision is drawn in float32 and rounded, so that it shares the stream of float32.

        Raises:
            ValueError: the leading dimension is not one per id.
        """
        if len(shape) == 0 or shape[0] != len(self.ids):
            raise ValueError(
                f"noise of shape {tuple(shape)} was asked for with {len(self.ids)} sample ids; "
                "the leading dimension must be one per id"
            )
        drawn = torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype
        noise, generator = torch.empty(tuple(shape), dtype=drawn), torch.Generator()
        for row, sample in zip(noise.unbind(), self.ids, strict=True):
            row.normal_(generator=generator.manual_seed(mix64(self.seed, sample, step, tag)))
        return noise.to(device=device, dtype=dtype, non_blocking=True)

    def uniform(self, *, step: int, tag: int = 0) -> Tensor:
        """Draw one float64 per sample, uniform in [0, 1), of shape `(len(ids),)`."""
        words = [mix64(self.seed, sample, step, tag, 0x5EED) >> 11 for sample in self.ids]
        return torch.tensor([math.ldexp(word, -53) for word in words], dtype=torch.float64)

    def log_gamma(self, shape: Sequence[float], *, step: int, tag: int = 0) -> Tensor:
        """Draw `ln G`, one float64 per sample, with `G` from the gamma law of that shape, scale 1.

        The logarithm is finite for every positive shape. Independent of `normal` of equal step and
        tag. Source: Marsaglia and Tsang 2000, doi:10.1145/358407.358414.

        Raises:
            ValueError: not one positive shape per id.
        """
        if len(shape) != len(self.ids) or not all(0.0 < a < math.inf for a in shape):
            raise ValueError(
                f"gamma shapes {list(shape)[:4]} came for {len(self.ids)} sample ids; "
                "give one positive finite number per id"
            )
        own = mix64(tag, 0x6A33A)
        draws = [
            _log_gamma(a, self._generator(sample, step, own))
            for a, sample in zip(shape, self.ids, strict=True)
        ]
        return torch.tensor(draws, dtype=torch.float64)

    def spawn(self, tag: int) -> "Rng":
        """Return an independent generator for the same samples."""
        return Rng(mix64(self.seed, tag, 0xF0E1), self.ids)


def _positive(generator: torch.Generator) -> float:
    """Draw uniformly from (0, 1]."""
    return 1.0 - torch.rand((), generator=generator, dtype=torch.float64).item()


def _log_gamma(shape: float, generator: torch.Generator) -> float:
    """Draw the logarithm of a gamma variate by rejection, from one generator."""
    d = (shape if shape >= 1.0 else shape + 1.0) - 1.0 / 3.0
    while True:
        n = torch.randn((), generator=generator, dtype=torch.float64).item()
        v = (1.0 + n / math.sqrt(9.0 * d)) ** 3
        log_u = math.log(_positive(generator))
        if v > 0.0 and log_u < 0.5 * n * n + d * (1.0 - v + math.log(v)):
            break
    lift = math.log(_positive(generator)) / shape if shape < 1.0 else 0.0
    return math.log(d * v) + lift
