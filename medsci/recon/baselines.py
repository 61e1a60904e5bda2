"""Classical reconstructions: what a learned prior has to beat.

All take the measured k-space y and its operator A, of norm at most 1, and return the complex
image. The data term is `|A x - y|^2 / 2`. Weights of l1 terms are relative to `max |A^H y|`, so
they do not depend on the units of the data. Every slice is solved on its own (except by 3-D total
variation), so a slab gives what its slices give.

Defaults are those of `bench/baseline_tuning.py` on a simulated head; PSNR in dB at R = 4 / R = 8:
zero-filled 17.7 / 14.6; SENSE, 30 steps, ridge 0.0003, 22.1 / 18.4; L1-wavelet, weight 0.001, haar
27.1 / 20.2 (db4 26.7 / 20.4); TV, weight 0.0005, in 2-D 27.9 / 21.2, in 3-D 26.7 / 21.7.
"""

__all__ = ["l1_wavelet", "sense_cg", "total_variation", "zero_filled"]

from typing import Literal

import torch
from jaxtyping import Complex
from torch import Tensor
from torch.nn.functional import pad

from medsci.operators import CartesianMriOp, conjugate_gradient
from medsci.recon.proximal import TotalVariationProx, WaveletProx, fista


def zero_filled(
    y: Complex[Tensor, "n_slices n_coils n_readout n_phase"], op: CartesianMriOp
) -> Complex[Tensor, "n_slices n_readout n_phase"]:
    """Return the adjoint `A^H y`: missing samples are taken as zero, coils combined by their maps.

    There is no density compensation: the sampled centre comes out at full strength, what lies
    further out is attenuated by the sampling and aliased.
    """
    return op.adjoint(y)


def sense_cg(
    y: Complex[Tensor, "n_slices n_coils n_readout n_phase"],
    op: CartesianMriOp,
    *,
    n_iter: int = 30,
    ridge: float = 0.0003,
) -> Complex[Tensor, "n_slices n_readout n_phase"]:
    """Minimise `|A x - y|^2 / 2 + ridge |x|^2 / 2` by conjugate gradients.

    Few iterations regularise as well: the badly conditioned part is then still near zero.

    Args:
        y: Measured k-space.
        op: Its operator.
        n_iter: Most iterations.
        ridge: Tikhonov weight.

    Source: Pruessmann et al. 2001, doi:10.1002/mrm.1241.
    """
    return conjugate_gradient(
        lambda x: torch.add(op.normal(x), x, alpha=ridge),
        op.adjoint(y),
        n_iter=n_iter,
        batched=True,
    )


def l1_wavelet(
    y: Complex[Tensor, "n_slices n_coils n_readout n_phase"],
    op: CartesianMriOp,
    *,
    weight: float = 0.001,
    n_iter: int = 100,
    wavelet: str = "haar",
    level: int = 4,
    seed: int | None = 0,
) -> Complex[Tensor, "n_slices n_readout n_phase"]:
    """Minimise `|A x - y|^2 / 2 + weight max|A^H y| |W x|_1` by FISTA.

    W is an orthonormal wavelet transform of each slice, zero-extended to multiples of `2^level`;
    its coarse approximation is not penalised. Every iteration shifts the image cyclically by a
    random amount before W, which makes the result translation-invariant in effect, as practical
    toolboxes do. It runs on the CPU.

    Args:
        y: Measured k-space.
        op: Its operator.
        weight: Threshold relative to `max |A^H y|` of the whole volume.
        n_iter: Iterations.
        wavelet: Name of an orthogonal wavelet of PyWavelets.
        level: Depth of the transform.
        seed: Seed of the shifts, the same for each slice; None for no shifts.

    Source: Lustig et al. 2007, doi:10.1002/mrm.21391; Beck and Teboulle 2009,
    doi:10.1137/080716542; Figueiredo and Nowak 2003 (shifts), doi:10.1109/TIP.2003.814255.
    """
    right_side = op.adjoint(y)
    threshold = weight * float(right_side.abs().max())
    prox = WaveletProx(threshold, wavelet=wavelet, level=level, seed=seed)
    _, n_readout, n_phase = op.image_shape
    extra = [(-n) % 2**level for n in (n_readout, n_phase)]
    result = torch.empty_like(right_side)
    for s in range(len(result)):
        part = op.slices(s, s + 1)

        def normal(x: Tensor, part: CartesianMriOp = part) -> Tensor:
            inside = part.normal(x[:, :n_readout, :n_phase])
            return pad(inside, (0, extra[1], 0, extra[0]))

        start = pad(right_side[s : s + 1], (0, extra[1], 0, extra[0]))
        solution = fista(normal, start, prox, n_iter=n_iter)
        result[s] = solution[0, :n_readout, :n_phase]
    return result


def total_variation(
    y: Complex[Tensor, "n_slices n_coils n_readout n_phase"],
    op: CartesianMriOp,
    *,
    weight: float = 0.0005,
    n_iter: int = 150,
    n_inner: int = 4,
    dims: Literal[2, 3] = 2,
) -> Complex[Tensor, "n_slices n_readout n_phase"]:
    """Minimise `|A x - y|^2 / 2 + weight max|A^H y| TV(x)` by FISTA.

    TV is isotropic, in each slice or in the volume; see `TotalVariationProx`.

    Args:
        y: Measured k-space.
        op: Its operator.
        weight: Weight relative to `max |A^H y|` of the whole volume.
        n_iter: Iterations.
        n_inner: Iterations of each proximal step; warm starts make few suffice.
        dims: 2 for slices on their own, 3 for the volume.

    Source: Beck and Teboulle 2009, doi:10.1109/TIP.2009.2028250.
    """
    right_side = op.adjoint(y)
    threshold = weight * float(right_side.abs().max())
    prox = TotalVariationProx(threshold, n_dims=dims, n_iter=n_inner)
    if dims == 3:
        return fista(op.normal, right_side, prox, n_iter=n_iter)
    result = torch.empty_like(right_side)
    for s in range(len(result)):  # a slice at a time stays in cache
        part = op.slices(s, s + 1)
        result[s] = fista(part.normal, right_side[s : s + 1], prox, n_iter=n_iter)[0]
    return result
