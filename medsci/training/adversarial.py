"""A generator against a discriminator as one objective, one backward pass and one optimiser.

    loss = G(theta; phi held) + D(phi; theta held)

Each term is blind to the other player's weights, so the gradient of the sum is, for each player,
the gradient of its own loss; an optimiser with two parameter groups then moves both. The moves are
simultaneous, not in turn: both gradients are taken at the weights of the step before. Turns would
need two backward passes and two optimisers per step, which a loop that counts, accumulates, resumes
and shares every step over processes by one backward pass has no place for; and processes wait for a
gradient of every weight in every pass. The price is that a player answers the opponent of one step
ago, which is what the learning rates bound in either scheme.

Source: gradient descent in GANs, simultaneous and in turn, both stable near the equilibrium with
the penalty R1 and small rates: Mescheder et al. 2018, arXiv:1801.04406. Energy score: Gneiting and
Raftery 2007, sec. 4.3, doi:10.1198/016214506000001437.
"""

__all__ = ["Adversarial", "BridgeSampler", "Judge"]

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from medsci.core.denoise import Denoiser
from medsci.core.learn import BridgeGan, Condition
from medsci.core.rng import Rng
from medsci.nets.space import pad_to_multiple

_TAG_DRAW = 0xAD7


@final
@dataclass(frozen=True, eq=False)
class Adversarial:
    """Train generator and discriminator of a `BridgeGan` at once; measure the generator alone.

    Where gradients are wanted, the sum of the two losses. What is logged per sample is the
    generator's loss at its noise level; it says how the game stands, not how good the samples are.

    Where none are wanted (validation), the energy score of what the generator draws at every step
    of the walk, per element:

        (|x - x0| + |x' - x0| - |x - x'|) / (2 sqrt(d)),     x, x' = G(x_t, t, w), G(x_t, t, w')

    Its mean is least for the law of `x0 | x_t` itself. A squared error would be least for a
    generator that always returns the mean, which is what an adversarial loss is there to prevent.

    Args:
        gan: process, walk, and losses of both.
        discriminator: `D(x_s, x_t, t, **cond) -> (b,)`; trained by the same optimiser.
    """

    gan: BridgeGan
    discriminator: nn.Module

    def __call__(
        self,
        denoiser: Denoiser,
        x0: Tensor,
        *,
        rng: Rng,
        step: int,
        noise: Tensor | None = None,
        cond: Condition | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss and what to log; without gradients, the energy score at every step.

        Raises:
            ValueError: samples came with the noise they are paired with.
        """
        if noise is not None:
            raise ValueError(
                "samples came paired with noise; a bridge draws its own, so give them alone"
            )
        if not torch.is_grad_enabled():
            return self._energy_score(denoiser, x0, rng=rng, cond=cond)
        turn: dict[str, Any] = {"rng": rng, "step": step, "cond": cond}
        held = {name: value.detach() for name, value in self.discriminator.named_parameters()}

        def judge(*states: Tensor, **known: Any) -> Tensor:
            verdict: Tensor = functional_call(self.discriminator, held, states, known)
            return verdict

        ours, seen = self.gan.generator_loss(denoiser, x0, discriminator=judge, **turn)
        theirs, judged = self.gan.discriminator_loss(
            self.discriminator, x0, generator=denoiser, **turn
        )
        seen |= {"discriminator": judged["loss"], "penalty": judged["penalty"]}
        return ours + theirs, seen

    def _energy_score(
        self, denoiser: Denoiser, x0: Tensor, *, rng: Rng, cond: Condition | None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        clean, own = self.gan.process.encode(x0), rng.spawn(_TAG_DRAW)
        losses, times = [], []
        for k, time in enumerate(self.gan.times[:-1]):
            t = torch.full((len(x0),), float(time), dtype=torch.float64, device=x0.device)
            x_t, _ = self.gan.process.perturb(x0, t, own, step=k, cond=cond)
            draws = [
                denoiser(x_t, t, latent=self._latent(x_t, own, step=2 * k + i), **(cond or {}))
                for i in range(2)
            ]
            errors = [_distance(draw, clean) for draw in draws]
            losses.append(0.5 * (sum(errors) - _distance(*draws)))
            times.append(t)
        loss = torch.cat(losses)
        return loss.mean(), {"loss": loss, "t": torch.cat(times)}

    def _latent(self, like: Tensor, rng: Rng, *, step: int) -> Tensor:
        shape, kind = (len(like), self.gan.latent_dim), like.real.dtype
        return rng.normal(shape, step=step, tag=_TAG_DRAW, dtype=kind, device=like.device)


def _distance(a: Tensor, b: Tensor) -> Tensor:
    """Return the root mean square of the difference, one per sample."""
    return torch.linalg.vector_norm((a - b).flatten(1), dim=1) / math.sqrt(a[0].numel())


@final
class Judge(nn.Module):
    """A discriminator for images of any size, with or without labels.

    Images are lengthened to a multiple of the stem by reflection, and a label becomes the
    discriminator's context, one entry per label; the label that means "none" is all zeros.

    Args:
        discriminator: built with `context_dim=n_labels`.
        n_labels: how many labels there are, 0 for none.
    """

    def __init__(self, discriminator: nn.Module, *, n_labels: int = 0) -> None:
        super().__init__()
        self.discriminator = discriminator
        self.n_labels = n_labels

    def forward(
        self,
        x_s: Float[Tensor, "b c *d"],
        x_t: Float[Tensor, "b c *d"],
        t: Float[Tensor, " b"],
        *,
        label: Int[Tensor, " b"] | None = None,
    ) -> Float[Tensor, " b"]:
        """Return the verdict, large for what looks real."""
        multiple = int(getattr(self.discriminator, "stem_factor", 1))
        states = [pad_to_multiple(x, multiple) for x in (x_s, x_t)]
        if not self.n_labels:
            verdict: Tensor = self.discriminator(*states, t)
            return verdict
        if label is None:
            label = torch.full((len(x_s),), self.n_labels, device=x_s.device)
        one_hot = functional.one_hot(label, self.n_labels + 1)[:, :-1].to(x_s.dtype)
        verdict = self.discriminator(*states, t, context=one_hot)
        return verdict


@final
@dataclass(frozen=True)
class BridgeSampler:
    """Draw `count` samples down the walk of a `BridgeGan`; see `medsci.training.assembly.Sampler`.

    Args:
        gan: with the walk.
        count: how many; labels, if the network takes any, are dealt out in turn.
        seed: of noise and latents.
        n_labels: how many labels the network knows.
        shape: of one sample (c, *spatial); set before the first call.
    """

    gan: BridgeGan
    count: int = 8
    seed: int = 0
    n_labels: int = 0
    shape: Sequence[int] = ()

    def __call__(self, denoiser: Denoiser, *, device: torch.device | str) -> Tensor:
        """Return samples (count, c, *spatial)."""
        cond = None
        if self.n_labels:
            cond = {"label": torch.arange(self.count, device=device) % self.n_labels}
        return self.gan.sample(
            denoiser,
            (self.count, *self.shape),
            rng=Rng(self.seed, range(self.count)),
            cond=cond,
            dtype=next(denoiser.parameters()).dtype,
            device=device,
        )
