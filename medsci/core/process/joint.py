"""Joint processes: an image, its mask, its views ... noised and denoised together."""

__all__ = ["Joint"]

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from medsci.core.process.process import Process
from medsci.core.rng import Rng, mix64


@final
@dataclass(frozen=True, eq=False)
class Joint:
    """Several processes at one time: every state is a dict with one entry per part.

    The parts are noised independently and denoised by one call, `denoise(x, t) -> {name: x0}`, so
    they meet in the network only. The noise of a part depends on its name, not on its place.

    Conditions go to every part. Where `cond["mu"]` is itself a dict, each part gets its own entry.

    Args:
        parts: a process per name, for instance `{"img": Linear(path), "mask": Bernoulli(path)}`.
    """

    parts: Mapping[str, Process]

    def __post_init__(self) -> None:
        if not self.parts:
            raise ValueError("no parts came; give at least one process by name")

    def prior(
        self,
        shape: Mapping[str, Sequence[int]],
        rng: Rng,
        *,
        dtype: torch.dtype = torch.float32,
        cond: Mapping[str, Any] | None = None,
    ) -> dict[str, Tensor]:
        """Draw every part at `t = 1`; one shape per name."""
        self._check(shape)
        return {
            name: part.prior(shape[name], _stream(rng, name), dtype=dtype, cond=_own(cond, name))
            for name, part in self.parts.items()
        }

    def perturb(
        self,
        x0: Mapping[str, Tensor],
        t: float | Tensor,
        rng: Rng,
        *,
        step: int = 0,
        cond: Mapping[str, Any] | None = None,
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Draw every part at `t`, the same time for all; return states and noises."""
        self._check(x0)
        pairs = {
            name: part.perturb(x0[name], t, _stream(rng, name), step=step, cond=_own(cond, name))
            for name, part in self.parts.items()
        }
        return {n: pair[0] for n, pair in pairs.items()}, {n: pair[1] for n, pair in pairs.items()}

    def bridge(
        self,
        x_t: Mapping[str, Tensor],
        x0: Mapping[str, Tensor],
        *,
        t: float,
        s: float,
        rng: Rng,
        step: int,
        eta: float = 1.0,
        cond: Mapping[str, Any] | None = None,
    ) -> dict[str, Tensor]:
        """Draw every part at `s`.

        Raises:
            ValueError: the states or the estimates do not have the names of the parts.
        """
        self._check(x_t)
        self._check(x0)
        return {
            name: part.bridge(
                x_t[name],
                x0[name],
                t=t,
                s=s,
                rng=_stream(rng, name),
                step=step,
                eta=eta,
                cond=_own(cond, name),
            )
            for name, part in self.parts.items()
        }

    def _check(self, given: Mapping[str, Any]) -> None:
        if set(given) != set(self.parts):
            raise ValueError(
                f"entries {sorted(given)} came, but the parts are {sorted(self.parts)}; "
                "give one entry per part"
            )


def _stream(rng: Rng, name: str) -> Rng:
    return rng.spawn(mix64(*name.encode()))


def _own(cond: Mapping[str, Any] | None, name: str) -> Mapping[str, Any] | None:
    """Return the conditions of one part: its own conditional mean, where there is one per part."""
    if cond is None or not isinstance(cond.get("mu"), Mapping):
        return cond
    means = cond["mu"]
    rest = {key: value for key, value in cond.items() if key != "mu"}
    return {**rest, "mu": means[name]} if name in means else rest
