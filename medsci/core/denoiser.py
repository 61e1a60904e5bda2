"""Denoisers: any network, made to answer one question: which clean sample is this?

    x0 = on_x(t) x_t + on_f(t) f,     f = net(input_scale(t) x_t, code(t))

The solver sees `x0` only. What the network predicts, how its input is scaled, how it is told the
time and in which number format it runs are settled here.
"""

__all__ = ["Denoiser", "Slicewise", "TimeCode"]

import math
from typing import Any, Literal, cast, final

import torch
from torch import Tensor, nn

from medsci.core.precision import PrecisionName, channels_last, resolve_precision
from medsci.core.process.path import Path, expand
from medsci.core.process.pred import Coefficient, Prediction, data_norm, row, x0_weights

TimeCode = Literal["angle", "time", "log_sigma_hat"]


@final
class Denoiser(nn.Module):
    """Wrap a network `f = net(x, code)` as `denoise(x_t, t) -> x0`.

    Args:
        net: takes the scaled state and one time code per sample, returns the shape of the state.
        path: the path on which the states live. `on_path` gives the same network on another one.
        pred: what the network outputs; see `medsci.core.process.pred`.
        sigma_data: standard deviation of the data, used by `edm` and by the input scale.
        time_code: `angle` feeds `1000 * atan2(sigma, alpha) / (pi / 2)`, the same for every path
            of equal SNR; `time` feeds `1000 t`; `log_sigma_hat` feeds `ln(sigma / alpha) / 4`.
        unit_input: divide the state by `sqrt(sigma^2 + sigma_data^2 alpha^2)` first.
        precision: number format of the network alone; the result has the dtype of the state.

    Source: preconditioning after Karras et al. 2022, eq. 7, arXiv:2206.00364.
    """

    def __init__(
        self,
        net: nn.Module,
        *,
        path: Path,
        pred: Prediction = "v",
        sigma_data: float = 1.0,
        time_code: TimeCode = "angle",
        unit_input: bool = True,
        precision: PrecisionName = "float32",
    ) -> None:
        super().__init__()
        if not sigma_data > 0.0:
            raise ValueError(f"sigma_data={sigma_data} came; give the positive sd of the data")
        row(pred, 0.5, 0.5)  # reject an unknown prediction now, with its own message
        self.net = net
        self.path = path
        self.pred: Prediction = pred
        self.sigma_data = float(sigma_data)
        self.time_code: TimeCode = time_code
        self.unit_input = unit_input
        self.precision: PrecisionName = precision

    def coefficients(self, t: float | Tensor) -> tuple[Coefficient, Coefficient]:
        """Return `(alpha, sigma)`: floats for a float time, tensors for one time per sample."""
        alpha, sigma = self.path.alpha(t), self.path.sigma(t)
        return (alpha, sigma) if isinstance(t, Tensor) else (float(alpha), float(sigma))

    def row(self, t: float | Tensor) -> tuple[Coefficient, Coefficient]:
        """Return `(p, q)`: the regression target of the network is `p x0 + q z`."""
        return row(self.pred, *self.coefficients(t), sigma_data=self.sigma_data)

    def code(self, t: float | Tensor) -> Coefficient:
        """Return the number that tells the network the time."""
        if self.time_code == "time":
            return 1000.0 * t
        if self.time_code == "angle":
            return self.path.angle(t) * (1000.0 / (0.5 * math.pi))
        return -0.25 * self.path.log_snr(t)

    def predict(self, x: Tensor, t: float | Tensor, **cond: Any) -> Tensor:
        """Return the network output `f`, in the state's dtype."""
        alpha, sigma = self.coefficients(t)
        scaled = x
        if self.unit_input:
            norm = data_norm(alpha, sigma, self.sigma_data)
            scaled = x * expand(1.0 / norm, x)
        code = self.code(t)
        if isinstance(code, Tensor):
            codes = code.to(device=x.device, dtype=torch.float32)
        else:
            codes = torch.full((x.shape[0],), float(code), device=x.device)
        dtype = resolve_precision(self.precision, x.device)
        if dtype == torch.float32 or x.dtype == torch.float64:
            return self.net(scaled, codes, **cond).to(x.dtype)
        with torch.autocast(x.device.type, dtype=dtype):
            return self.net(channels_last(scaled), codes, **cond).to(x.dtype).contiguous()

    def forward(self, x: Tensor, t: float | Tensor, **cond: Any) -> Tensor:
        """Return the estimate of the clean sample, `E[x0 | x_t]` for a perfect network."""
        f = self.predict(x, t, **cond)
        on_x, on_f = x0_weights(self.pred, *self.coefficients(t), sigma_data=self.sigma_data)
        return expand(on_x, x) * x + expand(on_f, x) * f

    def on_path(self, path: Path) -> "OnPath":
        """Return this denoiser for states of another path, matched at equal signal-to-noise."""
        return OnPath(self, path)


@final
class OnPath(nn.Module):
    """A denoiser moved to another path: rescale the state, look up the time of equal angle.

    Source: the VE frame of Karras et al. 2022, sec. 4; exact for every affine Gaussian path.
    """

    def __init__(self, denoiser: Denoiser, path: Path) -> None:
        super().__init__()
        self.denoiser = denoiser
        self.path = path

    def forward(self, x: Tensor, t: float, **cond: Any) -> Tensor:
        """Return x0 for a state `x` of the new path at its time `t`."""
        own_time = float(self.denoiser.path.time_at_angle(self.path.angle(t)))
        alpha, sigma = self.denoiser.coefficients(own_time)
        own_norm = math.hypot(float(alpha), float(sigma))
        norm = math.hypot(float(self.path.alpha(t)), float(self.path.sigma(t)))
        return self.denoiser(x * (own_norm / norm), own_time, **cond)


@final
class Slicewise(nn.Module):
    """Evaluate a denoiser on chunks of the leading dimension, to bound memory.

    The samples of a batch are independent, so the chunk changes memory and speed only.
    """

    def __init__(self, denoiser: nn.Module, *, chunk: int) -> None:
        super().__init__()
        if chunk < 1:
            raise ValueError(f"chunk={chunk} came; give the number of samples per network call")
        self.denoiser = denoiser
        self.path = cast(Path, denoiser.path)
        self.chunk = chunk

    def forward(self, x: Tensor, t: float, **cond: Any) -> Tensor:
        """Return x0 of the whole batch."""
        return torch.cat([self.denoiser(part, t, **cond) for part in x.split(self.chunk)])
