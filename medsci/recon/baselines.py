"""Classical reconstructions: what a learned prior has to beat.

All take measured data y and any operator A of medsci, CT or MRI, and return an image in the
operator's domain, real or complex, `(n_slices, rows, columns)`. The data term is `|A x - y|^2 / 2`;
`weighted` gives every datum a statistical weight. Weights of l1 terms are relative to
`max |A^H y|`, so they depend neither on the units of the data nor on the norm of A. The step of the
iterations is the norm's, which is at most 1 for Cartesian MRI and measured for other operators.
Where an operator gives its `slices`, they are solved one by one (but not in 3-D total variation).

Defaults are those of `bench/baseline_tuning.py` on a simulated head; PSNR in dB at R = 4 / R = 8:
zero-filled 17.7 / 14.6; SENSE, 30 steps, ridge 0.0003, 22.1 / 18.4; L1-wavelet, weight 0.001, haar
27.1 / 20.2 (db4 26.7 / 20.4); TV, weight 0.0005, in 2-D 27.9 / 21.2, in 3-D 26.7 / 21.7.
"""

__all__ = [
    "l1_wavelet",
    "least_squares_cg",
    "sense_cg",
    "total_variation",
    "weighted",
    "zero_filled",
]

from typing import Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Shaped
from torch import Tensor
from torch.nn.functional import pad

from medsci.errors import UsageError
from medsci.operators import CartesianMriOp, LinearOp, conjugate_gradient
from medsci.operators.diagonal import DiagonalOp
from medsci.recon.proximal import Prox, TotalVariationProx, WaveletProx, fista

_NORM_STEPS = 40
_NORM_MARGIN = 1.01  # power iteration comes from below, and FISTA needs a bound


@runtime_checkable
class _BySlice(Protocol):
    """An operator that gives those of its slices, which do not interact."""

    def slices(self, start: int, stop: int) -> LinearOp: ...


def zero_filled(
    y: Shaped[Tensor, "n_slices ..."], op: LinearOp
) -> Shaped[Tensor, "n_slices rows columns"]:
    """Return the adjoint `A^H y`; in MRI: missing samples are taken as zero, coils combined.

    There is no density compensation: in MRI the sampled centre comes out at full strength, what
    lies further out is attenuated by the sampling and aliased; in CT it is the plain, unscaled
    backprojection.
    """
    return op.adjoint(y)


def least_squares_cg(
    y: Shaped[Tensor, "n_slices ..."],
    op: LinearOp,
    *,
    n_iter: int = 30,
    ridge: float = 0.0003,
    norm: float | None = None,
) -> Shaped[Tensor, "n_slices rows columns"]:
    """Minimise `|A x - y|^2 / 2 + ridge |A|^2 |x|^2 / 2` by conjugate gradients.

    Few iterations regularise as well: the badly conditioned part is then still near zero.

    Args:
        y: Measured data.
        op: Its operator.
        n_iter: Most iterations.
        ridge: Tikhonov weight, relative to the square of the operator's norm.
        norm: The operator's norm; measured if left out, and 1 for Cartesian MRI.

    Source: Hestenes and Stiefel 1952, doi:10.6028/jres.049.044.
    """
    right_side = op.adjoint(y)
    absolute = ridge and ridge * _norm(op, right_side, norm) ** 2
    return conjugate_gradient(
        lambda x: torch.add(op.normal(x), x, alpha=absolute),
        right_side,
        n_iter=n_iter,
        batched=isinstance(op, _BySlice),
    )


def sense_cg(
    y: Shaped[Tensor, "n_slices ..."],
    op: LinearOp,
    *,
    n_iter: int = 30,
    ridge: float = 0.0003,
) -> Shaped[Tensor, "n_slices rows columns"]:
    """Return `least_squares_cg` under its name in MRI: iterative SENSE.

    Args:
        y: Measured k-space.
        op: Its operator.
        n_iter: Most iterations.
        ridge: Tikhonov weight.

    Source: Pruessmann et al. 2001, doi:10.1002/mrm.1241.
    """
    return least_squares_cg(y, op, n_iter=n_iter, ridge=ridge)


def l1_wavelet(
    y: Shaped[Tensor, "n_slices ..."],
    op: LinearOp,
    *,
    weight: float = 0.001,
    n_iter: int = 100,
    wavelet: str = "haar",
    level: int = 4,
    seed: int | None = 0,
    norm: float | None = None,
) -> Shaped[Tensor, "n_slices rows columns"]:
    """Minimise `|A x - y|^2 / 2 + weight max|A^H y| |W x|_1` by FISTA.

    W is an orthonormal wavelet transform of each slice, zero-extended to multiples of `2^level`;
    its coarse approximation is not penalised. Every iteration shifts the image cyclically by a
    random amount before W, which makes the result translation-invariant in effect, as practical
    toolboxes do. It runs on the CPU.

    Args:
        y: Measured data.
        op: Its operator.
        weight: Threshold relative to `max |A^H y|` of the whole volume.
        n_iter: Iterations.
        wavelet: Name of an orthogonal wavelet of PyWavelets.
        level: Depth of the transform.
        seed: Seed of the shifts, the same for each slice; None for no shifts.
        norm: The operator's norm; measured if left out, and 1 for Cartesian MRI.

    Source: Lustig et al. 2007, doi:10.1002/mrm.21391; Beck and Teboulle 2009,
    doi:10.1137/080716542; Figueiredo and Nowak 2003 (shifts), doi:10.1109/TIP.2003.814255.
    """
    right_side, scale = _normalised(y, op, norm)
    threshold = weight * float(right_side.abs().max())
    prox = WaveletProx(threshold, wavelet=wavelet, level=level, seed=seed)
    n_rows, n_columns = right_side.shape[-2:]
    extra = [(-n) % 2**level for n in (n_rows, n_columns)]
    result = torch.empty_like(right_side)
    for rows, part in _parts(op, len(right_side)):

        def normal(x: Tensor, part: LinearOp = part) -> Tensor:
            inside = part.normal(x[:, :n_rows, :n_columns]) * scale
            return pad(inside, (0, extra[1], 0, extra[0]))

        start = pad(right_side[rows], (0, extra[1], 0, extra[0]))
        result[rows] = fista(normal, start, prox, n_iter=n_iter)[:, :n_rows, :n_columns]
    return result


def total_variation(
    y: Shaped[Tensor, "n_slices ..."],
    op: LinearOp,
    *,
    weight: float = 0.0005,
    n_iter: int = 150,
    n_inner: int = 4,
    dims: Literal[2, 3] = 2,
    non_negative: bool = False,
    norm: float | None = None,
) -> Shaped[Tensor, "n_slices rows columns"]:
    """Minimise `|A x - y|^2 / 2 + weight max|A^H y| TV(x)` by FISTA.

    TV is isotropic, in each slice or in the volume; see `TotalVariationProx`.

    Args:
        y: Measured data.
        op: Its operator.
        weight: Weight relative to `max |A^H y|` of the whole volume.
        n_iter: Iterations.
        n_inner: Iterations of each proximal step; warm starts make few suffice.
        dims: 2 for slices on their own, 3 for the volume.
        non_negative: Forbid values below zero, as attenuation cannot have; for real images.
        norm: The operator's norm; measured if left out, and 1 for Cartesian MRI.

    Raises:
        UsageError: If a complex image is to be non-negative.

    Source: Beck and Teboulle 2009, doi:10.1109/TIP.2009.2028250.
    """
    right_side, scale = _normalised(y, op, norm)
    if non_negative and right_side.is_complex():
        raise UsageError(
            "non_negative came with a complex image, which has no sign; leave it out, or measure "
            "real images"
        )
    threshold = weight * float(right_side.abs().max())
    lower = 0.0 if non_negative else None
    prox = TotalVariationProx(threshold, n_dims=dims, n_iter=n_inner, lower=lower)
    if dims == 3:
        return _solve(op, right_side, prox, scale=scale, n_iter=n_iter)
    result = torch.empty_like(right_side)
    for rows, part in _parts(op, len(right_side)):
        result[rows] = _solve(part, right_side[rows], prox, scale=scale, n_iter=n_iter)
    return result


def weighted(
    y: Shaped[Tensor, "n_slices ..."], op: LinearOp, *, weights: Float[Tensor, "..."]
) -> tuple[Shaped[Tensor, "n_slices ..."], LinearOp]:
    """Return `sqrt(W) y` and `sqrt(W) A`, whose least squares are weighted ones.

    For transmission data of I0 photons, `W = I0 exp(-y)` up to a factor, the inverse variance.

    Args:
        y: Measured data.
        op: Its operator.
        weights: Of every datum, not negative; must broadcast against y.

    Raises:
        UsageError: If a weight is negative or not finite.

    Source: Sauer and Bouman 1993, doi:10.1109/78.193196.
    """
    if not bool((weights >= 0.0).all() and weights.isfinite().all()):
        raise UsageError(
            f"weights from {float(weights.min()):g} to {float(weights.max()):g} came; give finite "
            "numbers that are not negative"
        )
    root = DiagonalOp(weights.sqrt())
    return root(y), root @ op


def _norm(op: LinearOp, like: Tensor, given: float | None) -> float:
    if given is not None:
        return given
    if isinstance(op, CartesianMriOp):
        return 1.0
    norm = op.norm(like, n_iter=_NORM_STEPS) * _NORM_MARGIN
    if not norm > 0.0:
        raise UsageError("the operator is zero; there is nothing to reconstruct from")
    return norm


def _normalised(y: Tensor, op: LinearOp, norm: float | None) -> tuple[Tensor, float]:
    """Return `A^H y / |A|^2` and `1 / |A|^2`."""
    right_side = op.adjoint(y)
    scale = 1.0 / _norm(op, right_side, norm) ** 2
    return right_side * scale, scale


def _parts(op: LinearOp, n_slices: int) -> list[tuple[slice, LinearOp]]:
    """Return the operator of every slice if it has them: a slice at a time stays in cache."""
    if not isinstance(op, _BySlice):
        return [(slice(0, n_slices), op)]
    return [(slice(s, s + 1), op.slices(s, s + 1)) for s in range(n_slices)]


def _solve(op: LinearOp, right_side: Tensor, prox: Prox, *, scale: float, n_iter: int) -> Tensor:
    return fista(lambda x: op.normal(x) * scale, right_side, prox, n_iter=n_iter)
