"""Velocities on the rectified path, shared by velocity matching and velocity distillation.

With `x0 = f(x, t)`, both the velocity of a denoiser and the average velocity of a flow map are
`(x - f) / t`; for a network that predicts `flow` they are its output.
"""

__all__ = ["Derivative", "check_derivative", "check_student", "total_derivative", "velocity"]

import warnings
from collections.abc import Mapping
from copy import copy
from functools import cache
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

from medsci.core.denoise import Denoiser, OnPath
from medsci.core.denoise.wrappers import DenoiseFn, path_of
from medsci.core.process.path import Rectified, expand

Derivative = Literal["jvp", "difference"]
_RECTIFIED = Rectified()


def check_derivative(derivative: str, dt: float) -> None:
    """Raise ValueError unless the rule is known and its step is inside (0, 0.5)."""
    if derivative not in get_args(Derivative):
        raise ValueError(f"derivative {derivative!r} came; choose one of {get_args(Derivative)}")
    if not 0.0 < dt < 0.5:
        raise ValueError(f"dt={dt} came; give a step of time in (0, 0.5), such as 0.01")


def check_student(student: Denoiser) -> None:
    """Raise ValueError unless the student lives on the rectified path and its time is smooth."""
    path = student.path
    if path != _RECTIFIED:
        raise ValueError(
            f"the student lives on {path!r}, but average velocities are those of straight lines; "
            "build it as Denoiser(net, path=Path.rectified(), pred='flow') (a teacher may live on "
            "any path)"
        )
    if student.time_code == "nearest_row":
        raise ValueError("time_code 'nearest_row' has no derivative in time; use 'row' or 'angle'")


def velocity(denoiser: DenoiseFn, x: Tensor, t: Tensor, *, cond: Mapping[str, Any]) -> Tensor:
    """Return `(x - f(x, t)) / t` on the rectified path, whatever path the denoiser lives on."""
    path = path_of(denoiser)
    if isinstance(denoiser, Denoiser) and denoiser.pred == "flow" and path == _RECTIFIED:
        return denoiser.predict(x, t, **cond)
    moved = denoiser if path == _RECTIFIED else OnPath(denoiser, _RECTIFIED)
    f: Tensor = moved(x, t, **cond)
    return (x - f) / expand(t, x)


def total_derivative(
    student: DenoiseFn,
    x: Tensor,
    t: Tensor,
    *,
    v: Tensor,
    cond: Mapping[str, Any],
    rule: Derivative,
    dt: float,
) -> Tensor:
    """Return `d/dt u(x, t)` of the student along `dx / dt = v`, without gradients.

    `jvp` is exact and costs about two evaluations. Attention runs without its fused kernels
    meanwhile, as these have no forward mode, so it needs memory for all pairs of positions.
    `difference` is central over `2 dt`, one-sided where that would leave (0, 1]; fast codes of the
    time need a small dt. Both run in float32 or wider, whatever the precision of the student.

    Raises:
        ValueError: a layer of the network has no forward mode.
    """
    exact = _in_full_precision(student)

    def u(state: Tensor, time: Tensor) -> Tensor:
        return velocity(exact, state, time, cond=cond)

    with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
        if rule == "difference":
            low, high = torch.maximum(t - dt, 0.5 * t), (t + dt).clamp_max(1.0)
            behind = u(x + expand(low - t, x) * v, low)
            ahead = u(x + expand(high - t, x) * v, high)
            return (ahead - behind) / expand(high - low, x)
        _load_forward_mode()
        try:
            with sdpa_kernel(SDPBackend.MATH), _PlainGroupNorm():
                derivative: Tensor = torch.func.jvp(u, (x, t), (v, torch.ones_like(t)))[1]
        except RuntimeError as error:
            if "forward" not in str(error).lower():
                raise
            raise ValueError(
                f"a layer of the network has no forward-mode derivative ({error}); "
                "use derivative='difference'"
            ) from error
        return derivative


def _in_full_precision(student: DenoiseFn) -> DenoiseFn:
    """Return a denoiser with the same weights that computes in float32."""
    if not isinstance(student, Denoiser) or student.precision == "float32":
        return student
    exact = copy(student)
    exact.precision = "float32"
    return exact


class _PlainGroupNorm(TorchFunctionMode):
    """Group norms of contiguous copies: torch's forward mode fails on channels-last states."""

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in (torch.group_norm, functional.group_norm):
            args = (args[0].contiguous(), *args[1:])
        return func(*args, **(kwargs or {}))


@cache
def _load_forward_mode() -> None:
    """Let torch load its rules of forward mode, once; loading warns of its own old parts."""
    zero = torch.zeros(())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.func.jvp(torch.sin, (zero,), (zero,))
