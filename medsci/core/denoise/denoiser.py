"""Denoisers: any network, made to answer one question: which clean sample is this?

    x0 = on_x(t) (x_t - shift(t) mu) + on_f(t) f,     f = net(input_scale(t) x_t, code(t))

The solver sees `x0` only. What the network predicts, how its input is scaled, how it is told the
time and in which number format it runs are settled here. A float time costs one look-up: the
numbers of a (path, time) are computed once, on the host, and stay out of the network's graph.
"""

__all__ = ["Denoiser", "OnPath", "Slicewise", "TimeCode"]

import math
from functools import lru_cache
from typing import Any, Literal, NamedTuple, final, get_args

import torch
from torch import Tensor, nn

from medsci.core.denoise.on_path import OnPath
from medsci.core.denoise.wrappers import Slicewise, State
from medsci.core.precision import PrecisionName, channels_last, resolve_precision
from medsci.core.process.path import Path, Tabulated, expand
from medsci.core.process.pred import Coefficient, Prediction, data_norm, row, x0_weights

TimeCode = Literal["angle", "time", "unit_time", "sigma_hat", "log_sigma_hat", "row", "nearest_row"]


@final
class Denoiser(nn.Module):
    """Wrap a network `f = net(x, code, **cond)` as `denoise(x_t, t, **cond) -> x0`.

    To compile, compile the network in place, `denoiser.net.compile()`: its weights keep their
    names, and times reach it as tensors, so that one graph serves every step. A compiled denoiser
    would be compiled again for its float times.

    Args:
        net: takes the scaled state and one time code per sample, returns the shape of the state.
        path: the path on which the states live. `on_path` gives the same network on another one.
        pred: what the network outputs; see `medsci.core.process.pred`.
        sigma_data: standard deviation of the data, used by `edm` and by the input scale.
        time_code: what tells the network the time:

            angle           `1000 atan2(sigma, alpha) / (pi / 2)`, equal on paths of equal SNR
            time            `1000 t`
            unit_time       `t`
            sigma_hat       `sigma / alpha`
            log_sigma_hat   `ln(sigma / alpha) / 4`
            row             `T t - 1`, the row of a tabulated path of T rows, at least 0
            nearest_row     the same rounded, as an integer, for networks that look it up

        unit_input: divide the state by `sqrt(sigma^2 + sigma_data^2 alpha^2)` first.
        precision: number format of the network alone; the result has the dtype of the state.

    On a path with a conditional mean, that mean is the condition `mu`: it is used here and goes on
    to the network like every other condition.

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
        if time_code not in get_args(TimeCode):
            raise ValueError(f"time_code {time_code!r} came; choose one of {get_args(TimeCode)}")
        if time_code in ("row", "nearest_row") and not isinstance(path, Tabulated):
            raise ValueError(f"time_code {time_code!r} came with {path!r}; use Path.tabulated(...)")
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
        return _code(self.path, self.time_code, t)

    def predict(self, x: State, t: float | Tensor, **cond: Any) -> State:
        """Return the network output `f`, in the state's dtype."""
        return self._predict(x, self._numbers(t), cond)

    def forward(self, x: State, t: float | Tensor, **cond: Any) -> State:
        """Return the estimate of the clean sample, `E[x0 | x_t]` for a perfect network.

        Raises:
            ValueError: the path has a conditional mean and no `mu` came.
        """
        at = self._numbers(t)
        f = self._predict(x, at, cond)
        if isinstance(at.on_x, Tensor) or isinstance(at.on_f, Tensor):
            x0 = expand(at.on_x, x) * x + expand(at.on_f, x) * f
        elif at.on_x == 0.0:
            return f if at.on_f == 1.0 else f * at.on_f
        else:
            x0 = torch.mul(f, at.on_f).add_(x, alpha=at.on_x)
        if not at.shifted:
            return x0
        if cond.get("mu") is None:
            raise ValueError(f"{self.path!r} has a conditional mean; pass the condition mu=")
        return x0 - expand(at.on_x * at.shift, x) * cond["mu"]

    def on_path(self, path: Path, *, mu: Tensor | None = None) -> OnPath:
        """Return this denoiser for states of another path, matched at equal signal-to-noise."""
        return OnPath(self, path, mu=mu)

    def _numbers(self, t: float | Tensor) -> "_Numbers":
        numbers = _numbers if isinstance(t, Tensor) else _cached_numbers
        return numbers(self.path, self.pred, self.time_code, self.sigma_data, t)

    def _predict(self, x: Tensor, at: "_Numbers", cond: dict[str, Any]) -> Tensor:
        scaled = x * expand(at.scale, x) if self.unit_input else x
        double = x.dtype in (torch.float64, torch.complex128)
        kind = torch.float64 if double else torch.float32
        kind = torch.int64 if self.time_code == "nearest_row" else kind
        if isinstance(at.code, Tensor):
            codes = at.code.to(device=x.device, dtype=kind)
        else:
            codes = torch.full((x.shape[0],), at.code, dtype=kind, device=x.device)
        dtype = resolve_precision(self.precision, x.device)
        if dtype == torch.float32 or double:
            return self.net(scaled, codes, **cond).to(x.dtype)
        with torch.autocast(x.device.type, dtype=dtype):
            return self.net(channels_last(scaled), codes, **cond).to(x.dtype).contiguous()


class _Numbers(NamedTuple):
    """What one evaluation needs to know about its time."""

    scale: Coefficient
    code: Coefficient
    on_x: Coefficient
    on_f: Coefficient
    shift: Coefficient
    shifted: bool  # the path has a conditional mean, and x0 depends on the state


def _numbers(  # noqa: PLR0917 - a cache answers positional arguments faster
    path: Path, pred: Prediction, time_code: TimeCode, sigma_data: float, t: float | Tensor
) -> _Numbers:
    alpha: Coefficient = path.alpha(t)
    sigma: Coefficient = path.sigma(t)
    shift: Coefficient = path.shift(t)
    if not isinstance(t, Tensor):
        alpha, sigma, shift = float(alpha), float(sigma), float(shift)
    on_x, on_f = x0_weights(pred, alpha, sigma, sigma_data=sigma_data)
    return _Numbers(
        scale=1.0 / data_norm(alpha, sigma, sigma_data),
        code=_code(path, time_code, t),
        on_x=on_x,
        on_f=on_f,
        shift=shift,
        shifted=pred != "x0" and _has_mean(path),
    )


_cached_numbers = lru_cache(maxsize=4096)(_numbers)


@lru_cache(maxsize=256)
def _has_mean(path: Path) -> bool:
    return any(float(path.shift(t)) != 0.0 for t in (0.0, 0.25, 0.5, 0.75, 1.0))


def _code(path: Path, time_code: TimeCode, t: float | Tensor) -> Coefficient:
    code: Coefficient
    if time_code == "time":
        code = 1000.0 * t
    elif time_code == "unit_time":
        code = 1.0 * t
    elif time_code == "angle":
        code = path.angle(t) * (1000.0 / (0.5 * math.pi))
    elif time_code == "sigma_hat":
        code = path.sigma(t) / path.alpha(t)
    elif time_code == "log_sigma_hat":
        code = -0.25 * path.log_snr(t)
    else:
        n_rows = len(path.alphas_bar) if isinstance(path, Tabulated) else 0
        code = n_rows * t - 1.0
        code = code.clamp_min(0.0) if isinstance(code, Tensor) else max(code, 0.0)
        if time_code == "nearest_row":
            code = code.round() if isinstance(code, Tensor) else float(round(code))
    return code if isinstance(code, Tensor) else float(code)
