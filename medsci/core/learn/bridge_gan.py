"""Denoising diffusion GAN: a generator that draws x0, judged one bridge step at a time.

A denoiser gives the mean of `x0 | x_t`, and a bridge from a mean is right for small steps only. A
generator with a latent `w` draws x0 instead, and the step through the bridge is then exact however
long it is:

    fake:  x_t ~ q,   x0' = G(x_t, t, w),   x_s ~ q(x_s | x_t, x0')
    real:  x_t ~ q(. | x0),                 x_s ~ q(x_s | x_t, x0)

If `x0'` follows `p(x0 | x_t)`, the two pairs have one law. A discriminator `D(x_s, x_t, t)` tells
them apart; at its optimum it is `ln q(x_s | x_t) - ln p_G(x_s | x_t)`. The real pair has the law of
adding noise twice (to `s`, then from `s` to `t`), written the other way round, so that both pairs
share `x_t` and need nothing of the process but `perturb` and `bridge`.

Source: Xiao, Kreis and Vahdat 2022, arXiv:2112.07804; Zhou et al. 2024 (EMDM), arXiv:2312.02256,
for motion.
"""

__all__ = ["BridgeGan", "BridgePairs"]

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import final

import torch
from torch import Tensor
from torch.nn import functional

from medsci.core.learn.coupling import Condition
from medsci.core.learn.metric import Metric
from medsci.core.process.path import Path
from medsci.core.process.process import Linear
from medsci.core.rng import Rng, mix64

Generator = Callable[..., Tensor]
Discriminator = Callable[..., Tensor]
_TAG_STEP, _TAG_LATENT, _TAG_GENERATOR, _TAG_DISCRIMINATOR = 0xB61, 0xB62, 0xB63, 0xB64
_PERTURB, _REAL, _FAKE = 0, 1, 2


def _ten_steps() -> tuple[float, ...]:
    return tuple(1.0 - k / 10 for k in range(11))


@final
@dataclass(frozen=True, eq=False)
class BridgePairs:
    """What the two players see: `x_t` at times `t`, and both versions of the state at `s < t`.

    Attributes:
        x_t: the noisier state.
        t: its time, one per sample.
        real: the state at `s`, from the bridge to the data.
        fake: the state at `s`, from the bridge to `x0_hat`.
        x0_hat: what the generator drew.
    """

    x_t: Tensor
    t: Tensor
    real: Tensor
    fake: Tensor
    x0_hat: Tensor


@final
@dataclass(frozen=True, eq=False)
class BridgeGan:
    """The two losses of a denoising diffusion GAN, for two optimisers that take turns.

    The generator is an ordinary `Denoiser` (`pred="x0"` is usual) whose network takes a condition
    `latent` of shape (b, latent_dim), standard normal; the discriminator is any
    `D(x_s, x_t, t, **cond) -> (b,)`.

    Args:
        process: of the states; data are encoded by its chart.
        times: decreasing; the walk of the sampler, one network call per step. Its last is data.
        latent_dim: entries of the latent.
        terms: weights and metrics of `x0_hat` against x0, added to the generator's loss: `((1.0,
            SquaredError()),)` for a reconstruction term; geometric terms are metrics too. They
            pull draws together, so leave them out where the posterior has several modes.
        gamma: weight of the penalty `gamma / 2 |dD / dx_s|^2` on real pairs.
        penalty_every: the penalty is computed at every so many steps.
        scale_penalty: multiply it by `penalty_every`, so that its mean over the steps is the
            weight `gamma` says. The released EMDM does not.

    The released EMDM draws the states of the reconstruction and of the adversarial term separately;
    here they share one draw.

    Source: EMDM defaults (10 uniform steps of the linear VP path, latent of 64, gamma .02, every
    15 steps) from Zhou et al. 2024; lazy penalty after Karras et al. 2020, arXiv:1912.04958, app.
    B; R1 is Mescheder et al. 2018, arXiv:1801.04406, eq. 9.
    """

    process: Linear = field(default_factory=lambda: Linear(Path.vp_linear()))
    times: Sequence[float] = field(default_factory=_ten_steps)
    latent_dim: int = 64
    terms: tuple[tuple[float, Metric], ...] = ()
    gamma: float = 0.02
    penalty_every: int = 15
    scale_penalty: bool = True

    def __post_init__(self) -> None:
        times = [float(t) for t in self.times]
        fall = all(t > s for t, s in pairwise(times))
        if len(times) < 2 or not fall or not (times[0] <= 1.0 and times[-1] >= 0.0):
            raise ValueError(f"times {times} came; give two or more that fall from 1 towards 0")
        if self.latent_dim < 1 or self.penalty_every < 1 or self.gamma < 0.0:
            raise ValueError(
                f"latent_dim={self.latent_dim}, penalty_every={self.penalty_every} and "
                f"gamma={self.gamma} came; give two counts of at least 1 and a weight >= 0"
            )

    def generator_loss(
        self,
        generator: Generator,
        x0: Tensor,
        *,
        discriminator: Discriminator,
        rng: Rng,
        step: int,
        cond: Condition | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return `mean softplus(-D(fake))` plus the terms, and what to log about each sample.

        Gradients also reach the discriminator's weights: do not step its optimiser on them.
        """
        own = Rng(mix64(rng.seed, step, _TAG_GENERATOR), rng.ids)
        pairs = self.pairs(generator, x0, rng=own, cond=cond)
        verdict = discriminator(pairs.fake, pairs.x_t, pairs.t, **(cond or {}))
        adversarial = functional.softplus(-_one_each(verdict, x0))
        losses = adversarial
        clean = self.process.encode(x0)
        for weight, metric in self.terms:
            losses = losses + weight * metric(pairs.x0_hat, clean)
        parts = {"loss": losses.detach(), "adversarial": adversarial.detach(), "t": pairs.t}
        return losses.mean(), parts

    def discriminator_loss(
        self,
        discriminator: Discriminator,
        x0: Tensor,
        *,
        generator: Generator,
        rng: Rng,
        step: int,
        cond: Condition | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return `mean softplus(-D(real)) + softplus(D(fake))`, with the penalty when it is due.

        No gradient reaches the generator. `penalty` in the dict is zero where it was not due.
        """
        own, known = Rng(mix64(rng.seed, step, _TAG_DISCRIMINATOR), rng.ids), cond or {}
        with torch.no_grad():
            pairs = self.pairs(generator, x0, rng=own, cond=cond)
        due = self.gamma > 0.0 and step % self.penalty_every == 0
        x_s = pairs.real.requires_grad_(due)
        real = _one_each(discriminator(x_s, pairs.x_t, pairs.t, **known), x0)
        fake = _one_each(discriminator(pairs.fake, pairs.x_t, pairs.t, **known), x0)
        losses = functional.softplus(-real) + functional.softplus(fake)
        penalty = torch.zeros_like(losses)
        if due:
            (slope,) = torch.autograd.grad(real.sum(), x_s, create_graph=True)
            often = self.penalty_every if self.scale_penalty else 1
            penalty = 0.5 * self.gamma * often * slope.abs().square().flatten(1).sum(1)
            losses = losses + penalty
        parts = {"loss": losses.detach(), "penalty": penalty.detach(), "t": pairs.t}
        return losses.mean(), parts

    def pairs(
        self, generator: Generator, x0: Tensor, *, rng: Rng, cond: Condition | None = None
    ) -> BridgePairs:
        """Draw one step of the walk for every sample, and its real and its fake pair."""
        n = len(self.times) - 1
        steps = [min(int(n * u), n - 1) for u in rng.uniform(step=0, tag=_TAG_STEP).tolist()]
        t = torch.tensor([self.times[k] for k in steps], dtype=torch.float64).to(x0.device)
        clean, known = self.process.encode(x0), cond or {}
        x_t, _ = self.process.perturb(x0, t, rng, step=_PERTURB, cond=cond)
        real = self._bridge(x_t, clean, steps=steps, rng=rng, draw=_REAL, cond=known)
        latent = self._latent(x_t, rng, step=_FAKE)
        x0_hat = generator(x_t, t, latent=latent, **known)
        fake = self._bridge(x_t, x0_hat, steps=steps, rng=rng, draw=_FAKE, cond=known)
        return BridgePairs(x_t=x_t, t=t, real=real, fake=fake, x0_hat=x0_hat)

    @torch.no_grad()
    def sample(
        self,
        generator: Generator,
        shape: Sequence[int],
        *,
        rng: Rng,
        cond: Condition | None = None,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> Tensor:
        """Walk down `times` with a fresh latent at every step, and return data.

        A generator that ignores the latent makes this `Ancestral(eta=1)`, noise included.

        Raises:
            ValueError: the walk does not begin at `t = 1`.
        """
        if self.times[0] != 1.0:
            raise ValueError(f"the walk begins at t={self.times[0]}; samples need times[0] = 1")
        x = self.process.prior(shape, rng, dtype=dtype, cond=cond).to(device)
        for k, (t, s) in enumerate(pairwise(float(t) for t in self.times)):
            x0 = generator(x, t, latent=self._latent(x, rng, step=k), **(cond or {}))
            x = self.process.bridge(x, x0, t=t, s=s, rng=rng, step=k, cond=cond)
        return self.process.decode(x)

    def _latent(self, like: Tensor, rng: Rng, *, step: int) -> Tensor:
        shape, kind = (len(like), self.latent_dim), like.real.dtype
        return rng.normal(shape, step=step, tag=_TAG_LATENT, dtype=kind, device=like.device)

    def _bridge(
        self, x_t: Tensor, x0: Tensor, *, steps: list[int], rng: Rng, draw: int, cond: Condition
    ) -> Tensor:
        """Draw the next state of every sample; samples at equal times go together."""
        order = sorted(range(len(steps)), key=steps.__getitem__)
        parts = []
        for k in sorted(set(steps)):
            rows = [i for i in order if steps[i] == k]
            here = Rng(rng.seed, [rng.ids[i] for i in rows])
            known = {name: value[rows] for name, value in cond.items() if name == "mu"}
            t, s = float(self.times[k]), float(self.times[k + 1])
            part = self.process.bridge(
                x_t[rows], x0[rows], t=t, s=s, rng=here, step=draw, cond=known
            )
            parts.append(part)
        back = sorted(range(len(order)), key=order.__getitem__)
        return torch.cat(parts)[back]


def _one_each(verdict: Tensor, x0: Tensor) -> Tensor:
    """Return one verdict per sample."""
    if verdict.shape not in ((len(x0),), (len(x0), 1)):
        raise ValueError(
            f"the discriminator returned shape {tuple(verdict.shape)} for {len(x0)} samples; "
            "return one number per sample"
        )
    return verdict.reshape(len(x0))
