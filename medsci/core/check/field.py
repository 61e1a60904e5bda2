"""Vector fields: divergence, conservativity, and the part of a field that changes no density.

Every field f on a law p splits into `f = grad phi + r` with `div(p r) = 0`, and the two parts are
orthogonal in L2(p). Adding such an r to a score changes neither the densities nor the marginals of
the probability flow, only who goes where: that is the gauge freedom of diffusion models. It does
change Jacobians, and with them dimension estimates and normal directions.

Derivatives are taken backwards, so any network that can be trained can be diagnosed. The probed
conservativity takes two backward passes, which flash attention lacks: run it under
`torch.nn.attention.sdpa_kernel(SDPBackend.MATH)`. Divergences may be trained on. Fields are real,
and the rows of a batch must not depend on one another.

Source: Horvat and Pfister 2024, arXiv:2402.03845; trace estimation after Hutchinson 1990,
doi:10.1080/03610919008812866.
"""

__all__ = [
    "FieldFn",
    "GaugeSplit",
    "conservativity",
    "divergence",
    "gauge_decomposition",
    "jacobian",
    "linear_gauge_split",
    "quadratic_potentials",
    "radial_potentials",
    "value_and_divergence",
]

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, final

import torch
from jaxtyping import Float
from torch import Tensor

from medsci.core.rng import Rng

FieldFn = Callable[[Tensor], Tensor]
Method = Literal["exact", "hutchinson"]
_TAG_PROBES = 0x4D


def divergence(
    field: FieldFn,
    x: Float[Tensor, " b *d"],
    *,
    method: Method = "exact",
    rng: Rng | None = None,
    probes: int = 1,
) -> Float[Tensor, " b"]:
    """Return `div f` at every sample.

    Args:
        field: `f(x)`, of the shape of x.
        x: where to take it.
        method: `exact` costs one backward pass per coordinate; `hutchinson` one per probe, and is
            unbiased: `E v^T J v` over random signs v.
        rng: streams of the samples, for `hutchinson`.
        probes: random directions per sample.
    """
    signs = None if method == "exact" else _checked_probes(x, method, rng, probes)
    return value_and_divergence(field, x, probes=signs)[1]


def value_and_divergence(
    field: FieldFn, x: Float[Tensor, " b *d"], *, probes: Float[Tensor, " b m *d"] | None = None
) -> tuple[Float[Tensor, " b *d"], Float[Tensor, " b"]]:
    """Return `f(x)` and its divergence: exact, or along given probes if there are any."""
    if probes is None:
        value, rows = _rows(field, x)
        return value, torch.stack([row[:, i] for i, row in enumerate(rows)]).sum(0)
    value, pull = _vjp(field, x)
    parts = [(v * pull(v)).flatten(1).sum(1) for v in probes.unbind(1)]
    return value, torch.stack(parts).mean(0)


def jacobian(field: FieldFn, x: Float[Tensor, " b *d"]) -> Float[Tensor, "b n n"]:
    """Return the Jacobian `df_i / dx_j` of the flattened field at every sample."""
    return torch.stack(list(_rows(field, x)[1]), 1)


def random_signs(x: Tensor, rng: Rng, probes: int) -> Float[Tensor, " b m *d"]:
    """Draw probes of random signs, `E v v^T = I`, from the streams of the samples."""
    shape = (x.shape[0], probes, *x.shape[1:])
    noise = rng.normal(shape, step=0, tag=_TAG_PROBES, dtype=x.dtype, device=x.device)
    return torch.where(noise < 0.0, -1.0, 1.0).to(x.dtype)


def conservativity(
    field: FieldFn,
    x: Float[Tensor, " b *d"],
    *,
    method: Method = "exact",
    rng: Rng | None = None,
    probes: int = 8,
) -> Float[Tensor, ""]:
    """Return `|J - J^T|^2 / (4 |J|^2)`: 0 for a gradient field, 1 for an antisymmetric Jacobian.

    Both squares are summed over the batch; pass one sample for the index at a point. `hutchinson`
    compares `J v` with `J^T v` along random signs instead of forming J; the ratio is then
    consistent, not unbiased.
    """
    with torch.no_grad():  # towards parameters; derivatives by x are taken all the same
        if method == "exact":
            full = jacobian(field, x)
            difference, size = full - full.mT, full
        else:
            signs = _checked_probes(x, method, rng, probes)
            pairs = [_both_ways(field, x, v) for v in signs.unbind(1)]
            difference = torch.stack([forwards - backwards for forwards, backwards in pairs])
            size = torch.stack([forwards for forwards, _ in pairs])
    return difference.square().sum() / (4.0 * size.square().sum())


@final
@dataclass(frozen=True)
class GaugeSplit:
    """A sampled field as gradient plus remainder.

    Attributes:
        gradient: the part in the span of the potentials' gradients, at the samples.
        remainder: what is left; orthogonal to every gradient of the basis in L2 of the samples, so
            `div(p r) = 0` in the weak sense, tested against the basis and nothing finer.
        coefficients: of the potentials.
        share: `E |r|^2 / E |f|^2`. Samples n and potentials k leave about `k / (n d)` of a
            remainder unseen.
    """

    gradient: Float[Tensor, "n d"]
    remainder: Float[Tensor, "n d"]
    coefficients: Float[Tensor, " k"]
    share: float


def gauge_decomposition(
    field: FieldFn,
    x: Float[Tensor, "n d"],
    *,
    potentials: Callable[[Tensor], Tensor],
) -> GaugeSplit:
    """Split a field on samples of p into a gradient and a part that moves no density.

    The gradient part is the projection in L2(p): least squares over the potentials' gradients.
    The answer is as fine as the basis; gradients that it cannot express stay in the remainder.

    Args:
        field: `f(x)`.
        x: samples of the law p; their number times d should exceed the potentials tenfold.
        potentials: `phi(x)` of shape (n, k); `quadratic_potentials` is exact for linear fields on
            Gaussians, `radial_potentials` bends where the samples are.
    """
    with torch.no_grad():
        f = field(x)
        values, pull = _vjp(potentials, x)
        picks = torch.eye(values.shape[1], dtype=x.dtype, device=x.device)
        design = torch.stack([pull(pick.expand_as(values)) for pick in picks], -1)  # (n, d, k)
    flat = design.flatten(0, 1).cpu().double()
    wanted = f.flatten().cpu().double()
    fit = torch.linalg.lstsq(flat, wanted[:, None], driver="gelsd").solution[:, 0]
    gradient = (flat @ fit).reshape(f.shape).to(f)
    remainder = f - gradient
    share = (remainder.square().sum() / f.square().sum()).item()
    return GaugeSplit(gradient, remainder, fit.to(f), share)


def linear_gauge_split(
    matrix: Float[Tensor, "d d"], covariance: Float[Tensor, "d d"]
) -> tuple[Float[Tensor, "d d"], Float[Tensor, "d d"]]:
    """Split the field `x -> M x` on `N(0, C)`: return `(G, R)` with `M = G + R`.

    G is symmetric and `R C` antisymmetric, which is `div(p R x) = 0`; hence the Lyapunov equation
    `G C + C G = M C + C M^T`, solved in the eigenbasis of C. Own derivation.
    """
    variances, vectors = torch.linalg.eigh(covariance)
    right = matrix @ covariance
    rotated = vectors.mT @ (right + right.mT) @ vectors
    gradient = vectors @ (rotated / (variances[:, None] + variances[None])) @ vectors.mT
    return gradient, matrix - gradient


def quadratic_potentials(x: Float[Tensor, "n d"]) -> Float[Tensor, "n k"]:
    """Return all `x_i` and `x_i x_j`, `i <= j`: every linear field has its potential here."""
    rows, columns = torch.triu_indices(x.shape[1], x.shape[1], device=x.device)
    return torch.cat([x, x[:, rows] * x[:, columns]], 1)


def radial_potentials(
    centres: Float[Tensor, "k d"], width: float
) -> Callable[[Float[Tensor, "n d"]], Float[Tensor, "n k"]]:
    """Return the bumps `exp(-|x - c_k|^2 / (2 width^2))` as potentials."""

    def bumps(x: Tensor) -> Tensor:
        square = (x[:, None] - centres).square().sum(-1)
        return torch.exp(-0.5 * square / width**2)

    return bumps


def _vjp(field: FieldFn, x: Tensor) -> tuple[Tensor, FieldFn]:
    """Return `f(x)` and `v -> J^T v`."""
    if x.is_complex():
        raise ValueError(f"a state of {x.dtype} came; derivatives need real states: view_as_real")
    answer: Any = torch.func.vjp(field, x)
    value, pull = answer
    return value, lambda v: pull(v)[0]


def _rows(field: FieldFn, x: Tensor) -> tuple[Tensor, Iterator[Tensor]]:
    """Return `f(x)` and the rows of its Jacobian, one (b, n) after the other."""
    value, pull = _vjp(field, x)
    picks = torch.eye(x[0].numel(), dtype=x.dtype, device=x.device)
    shaped = (pick.reshape(x.shape[1:]).expand_as(x) for pick in picks)
    return value, (pull(pick).flatten(1) for pick in shaped)


def _both_ways(field: FieldFn, x: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Return `J v` and `J^T v`; the map `u -> J^T u` is linear, and `J v` is its pull-back."""
    _, pull = _vjp(field, x)
    backwards, push = _vjp(pull, v)
    return push(v), backwards


def _checked_probes(x: Tensor, method: str, rng: Rng | None, probes: int) -> Tensor:
    if method != "hutchinson":
        raise ValueError(f"method {method!r} came; choose exact or hutchinson")
    if rng is None or probes < 1:
        raise ValueError(f"rng={rng}, probes={probes} came; pass rng=Rng(seed, ids), probes >= 1")
    return random_signs(x, rng, probes)
