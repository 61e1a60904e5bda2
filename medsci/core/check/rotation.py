"""The rotation picture: how a Gaussian's sample turns from noise into data, mode by mode.

On principal component k of variance l, the state of the probability flow is a fixed number times a
vector in the plane of data and noise,

    x_k(t) - alpha mean_k = u_k r_k(t),     (alpha sqrt(l), sigma) = r_k (sin theta_k, cos theta_k)

so theta turns from 0 (noise) to pi / 2 (data), and one angle says everything about the mode:

    sin^2 theta    share of the state that the denoiser already takes for data
    sin theta      gain by which a perturbation now reaches the clean sample
    pi / 4         the mode appears: sigma / alpha = sqrt(l), so large variances come first

Source: Wang and Vastola 2023, sec. 4, arXiv:2303.02490; the angle per mode is our form of it.
"""

__all__ = ["Rotation", "appearance_times", "in_plane", "perturbation_gain", "rotation"]

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from medsci.core.check.gaussian import GaussianOracle
from medsci.core.check.oracle import coefficients


@final
@dataclass(frozen=True, eq=False)
class Rotation:
    """Angle and amplitude of every mode at every time, both of shape (times, modes).

    Attributes:
        angle: theta in [0, pi / 2], 0 at pure noise.
        amplitude: r, the standard deviation of the mode at that time. On a variance-preserving
            path a mode of unit variance keeps r = 1: it only turns.
    """

    angle: Float[Tensor, "n k"]
    amplitude: Float[Tensor, "n k"]


def rotation(gaussian: GaussianOracle, times: Sequence[float] | np.ndarray) -> Rotation:
    """Return how every mode of a Gaussian has turned at the given times.

    Args:
        gaussian: whose `variances` are the modes, in their order; its floor is none of them.
        times: any times of its path.
    """
    pairs = [coefficients(gaussian.path, float(t)) for t in times]
    parts = torch.as_tensor(pairs, dtype=gaussian.variances.dtype).to(gaussian.variances.device)
    data = parts[:, :1] * gaussian.variances.sqrt()
    noise = parts[:, 1:].expand_as(data)
    return Rotation(torch.atan2(data, noise), torch.hypot(data, noise))


def appearance_times(gaussian: GaussianOracle) -> np.ndarray:
    """Return the time at which every mode appears, `sigma / alpha = sqrt(variance)`.

    A mode that stands out at `t = 1` already gets 1, one that the path's own noise hides to the
    end gets 0.
    """
    wanted = np.arctan(gaussian.variances.sqrt().cpu().double().numpy())
    ends = gaussian.path.angle(np.array([0.0, 1.0]))
    return gaussian.path.time_at_angle(np.clip(wanted, ends[0], ends[1]))


def perturbation_gain(gaussian: GaussianOracle, t: float) -> Float[Tensor, " k"]:
    """Return by what a small push along each mode at `t` is multiplied in the clean sample.

    The push is measured in the frame `x / alpha`: `sqrt(l / (l + h^2))` with `h = sigma / alpha`.
    Early pushes move large modes only; late ones move every mode fully.
    """
    return torch.sin(rotation(gaussian, [t]).angle[0])


def in_plane(
    state: Shaped[Tensor, " b *d"],
    *,
    start: Shaped[Tensor, " b *d"],
    end: Shaped[Tensor, " b *d"],
) -> tuple[Float[Tensor, " b"], Float[Tensor, " b"]]:
    """Return angle and share of a state in the plane of the first and the last state of its walk.

    The closest point `a end + b start` has the angle `atan2(a, b)`: 0 at the start and pi / 2 at
    the end. The share is the part of `|state|^2` in the plane; near 1 all along, the walk is a
    rotation in two dimensions, as it nearly is for images on a variance-preserving path.
    """
    x, first, last = (part.flatten(1) for part in (state, start, end))
    if x.is_complex():
        x, first, last = (torch.view_as_real(part).flatten(1) for part in (x, first, last))
    plane = torch.stack([first, last], 2)
    gram = torch.linalg.pinv(plane.mT @ plane, hermitian=True)  # the two may be parallel
    fit = gram @ (plane.mT @ x[..., None])
    left = (x[..., None] - plane @ fit).square().sum((1, 2))
    return torch.atan2(fit[:, 1, 0], fit[:, 0, 0]), 1.0 - left / x.square().sum(1)
