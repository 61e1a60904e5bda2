"""Skip-gradient guidance: steer by a loss on x0 without going through the network."""

__all__ = ["LossFn", "SkipGradient", "loss_gradient"]

import math
from collections.abc import Callable
from typing import Literal, final

import torch
from jaxtyping import Shaped
from torch import Tensor

from medsci.core.steer.hook import Hook, StepState

LossFn = Callable[[Tensor], Tensor]
Reduce = Literal["sum", "mean"]


@final
class SkipGradient(Hook):
    """Move x and x0 together down the gradient of a loss, as if `d x0 / d x` were the identity.

        x <- x - scale g,    x0 <- x0 - scale g,    g = d loss / d x0

    The network is not differentiated: a step costs one gradient of the loss. As x and x0 move by
    the same vector, `x - x0` and with it the velocity of the rectified flow stay what they were,
    and no direction is forgotten.

    The scale refers to a loss that is a sum over entries, as a negative log-likelihood is. The step
    of an entry then depends on that entry's own residual and not on how many others there are:
    `scale = 0.5` sends an entry with loss `(x0 - y)^2` to y at once, at every resolution. A loss
    that is a mean over the m entries of a sample needs `scale_sum = scale_mean / m`, which
    `reduce="mean"` does for you; its steps shrink as the resolution grows. For `|A x0 - y|^2` and
    an A of any size, pass `curvature = 2 |A|^2`: the walk is then stable for `scale < 2`, and
    `scale = 1` is the full step along the stiffest direction.

    Args:
        loss: one real number per sample, `loss(x0) -> (b,)`, differentiable by torch. A sample may
            not enter the loss of another.
        scale: length of the step, in units of 1 / curvature of the loss.
        reduce: whether the loss is a `sum` over the entries of a sample or a `mean`, as the
            published code has it; the scale is divided by their number in the second case.
        curvature: largest second derivative of the loss; the scale is divided by it.
        until: guide at times `t > until` only; 0 guides throughout.
        skip_last: leave the last step alone, as published: what it would change is never seen by
            the network again.

    Raises:
        ValueError: a number is out of range; at the step: the loss is not one real number per
            sample, or does not depend on x0 differentiably.

    Source: Patel et al. 2024, arXiv:2412.00100.
    """

    def __init__(
        self,
        loss: LossFn,
        scale: float,
        *,
        reduce: Reduce = "sum",
        curvature: float = 1.0,
        until: float = 0.0,
        skip_last: bool = True,
    ) -> None:
        if reduce not in ("sum", "mean"):
            raise ValueError(f"reduce={reduce!r} came; choose sum or mean")
        if not (math.isfinite(scale) and 0.0 < curvature < math.inf):
            raise ValueError(
                f"scale={scale}, curvature={curvature} came; give a finite scale and a positive "
                "curvature"
            )
        if not 0.0 <= until <= 1.0:
            raise ValueError(f"until={until} came; give a time in [0, 1]")
        self.loss = loss
        self.scale = float(scale) / float(curvature)
        self.reduce: Reduce = reduce
        self.until = float(until)
        self.skip_last = skip_last

    def denoised(self, state: StepState) -> None:
        """Move x and x0."""
        if state.t <= self.until or (self.skip_last and state.i == state.n - 1):
            return
        scale = self.scale
        if self.reduce == "mean":
            scale /= math.prod(state.x0.shape[1:])
        move = loss_gradient(self.loss, state.x0) * scale
        state.x = state.x - move
        state.x0 = state.x0 - move


def loss_gradient(loss: LossFn, x0: Shaped[Tensor, " b *d"]) -> Shaped[Tensor, " b *d"]:
    """Return the gradient of per-sample losses with respect to x0, taken as a constant.

    For complex x0 it is `d loss / d Re + i d loss / d Im`, the direction of steepest ascent.

    Raises:
        ValueError: the loss is not one real number per sample, or has no gradient.
    """
    with torch.enable_grad():
        leaf = x0.detach().requires_grad_()
        value = check_losses(loss(leaf), leaf)
        (gradient,) = torch.autograd.grad(value.sum(), leaf)
    return gradient


def check_losses(value: Tensor, x0: Tensor) -> Tensor:
    """Return the losses after checking that there is one real, differentiable number per sample.

    Raises:
        ValueError: it is not so.
    """
    if value.shape != x0.shape[:1] or value.is_complex():
        raise ValueError(
            f"the loss has shape {tuple(value.shape)} and dtype {value.dtype} for {x0.shape[0]} "
            "samples; return one real number per sample, e.g. r.abs().square().flatten(1).sum(1)"
        )
    if not value.requires_grad:
        raise ValueError(
            "the loss has no gradient with respect to x0; compute it from the x0 it is given, by "
            "torch functions, without detach() or no_grad()"
        )
    return value
