"""Conjugate gradients for Hermitian positive semi-definite systems."""

__all__ = ["conjugate_gradient"]

from collections.abc import Callable

import torch
from torch import Tensor

from medsci.errors import UsageError


@torch.no_grad()
def conjugate_gradient(
    normal: Callable[[Tensor], Tensor],
    b: Tensor,
    *,
    n_iter: int,
    x0: Tensor | None = None,
    tol: float = 1e-6,
    batched: bool = False,
) -> Tensor:
    """Solve `H x = b` for a Hermitian positive semi-definite H.

    A system stops, alone, when its residual is at most `tol * |b|`, or when its next direction
    has no curvature to speak of (H singular and the rest of b outside its range): the solution so
    far is then kept and stays finite however many iterations follow. Dot products are accumulated
    in float64, and the loop never waits for a GPU.

    Args:
        normal: Apply H. It must not change its argument.
        b: Right-hand side, real or complex, of any shape.
        n_iter: Most applications of H, one more if `x0` is given.
        x0: Starting point; zero if left out.
        tol: Relative residual at which to stop.
        batched: Treat every item of the leading axis as a system of its own, with its own step
            sizes, so that the result of one does not depend on which others are solved with it.

    Returns:
        The solution, a new tensor like b.

    Raises:
        UsageError: If b asks for a gradient; the loop works in place and gives none.

    Source: Hestenes and Stiefel 1952, doi:10.6028/jres.049.044.
    """
    if b.requires_grad:
        raise UsageError("conjugate_gradient gives no gradient, but b asks for one; detach b")
    if x0 is None:
        x, r = torch.zeros_like(b), b.clone()
    else:
        x, r = x0.clone(), b - normal(x0)
    p = r.clone()  # never the same storage as r: r changes in place before p has been used up
    target = tol**2 * _dot(b, b, batched=batched)
    rr = _dot(r, r, batched=batched)
    active = rr > target
    stiffest = torch.zeros_like(rr)
    noise = torch.finfo(rr.dtype if b.dtype in _DOUBLE else torch.float32).eps
    for _ in range(n_iter):
        if b.device.type == "cpu" and not bool(active.any()):
            break
        hp = normal(p)
        curvature = _dot(p, hp, batched=batched)
        pp = _dot(p, p, batched=batched)
        stiffest = torch.maximum(stiffest, curvature / pp.clamp_min(_TINY))
        active = active & (curvature > noise * stiffest * pp) & (curvature > _TINY)
        alpha = torch.where(active, rr / curvature.clamp_min(_TINY), 0.0)
        x.addcmul_(p, _broadcast(alpha, like=b))
        r.addcmul_(hp, _broadcast(alpha, like=b), value=-1)
        rr_new = _dot(r, r, batched=batched)
        beta = torch.where(active, rr_new / rr.clamp_min(_TINY), 0.0)
        p.mul_(_broadcast(beta, like=b)).add_(r)
        active, rr = active & (rr_new > target), rr_new
    return x


_DOUBLE = (torch.float64, torch.complex128)
_TINY = torch.finfo(torch.float64).tiny


def _dot(a: Tensor, b: Tensor, *, batched: bool) -> Tensor:
    """Return `Re <a, b>` in float64: one per leading item, or a scalar for all entries.

    On the CPU the items are summed one after the other: that keeps them in cache, and the rounding
    of one item cannot depend on the number of others.
    """
    one_system = a.ndim < 2 and not batched
    if a.is_complex():
        a, b = torch.view_as_real(a), torch.view_as_real(b)
    if one_system:
        return (a * b).sum(dtype=torch.float64)
    if a.device.type == "cpu":
        dots = torch.stack([(u * v).sum(dtype=torch.float64) for u, v in zip(a, b, strict=True)])
    else:
        dots = (a * b).flatten(1).sum(dim=1, dtype=torch.float64)
    return dots if batched else dots.sum()


def _broadcast(value: Tensor, *, like: Tensor) -> Tensor:
    """Return per-item (or single) float64 numbers in the shape and type of a factor of `like`."""
    return value.to(like.dtype).reshape(value.shape + (1,) * (like.ndim - value.ndim))
