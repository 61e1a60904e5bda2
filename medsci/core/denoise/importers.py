"""Importers: networks trained elsewhere, as denoisers. Nothing here imports their libraries.

    from_monai      a network of 1000 rows, `net(x, timesteps, context=...)`
    from_diffusers  a network that answers with `.sample`, described by its scheduler's settings
    from_edm        a raw or preconditioned network of Karras et al., on the VE path
    from_callable   anything else

Row `i = 0 .. T - 1` of a schedule sits at `t = (i + 1) / T`, and `t = 0` is clean data; the network
is told `i`. Give samplers `grid.indices(T, n)` to visit rows only.
"""

__all__ = [
    "from_callable",
    "from_diffusers",
    "from_edm",
    "from_monai",
]

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, get_args

import numpy as np
from torch import Tensor, nn

from medsci.core.denoise.denoiser import Denoiser, TimeCode
from medsci.core.denoise.on_path import OnPath
from medsci.core.denoise.schedules import alphas_bar_of, zero_terminal_snr
from medsci.core.precision import PrecisionName
from medsci.core.process.path import Path
from medsci.core.process.pred import Prediction

RowCode = Literal["float", "round"]

_PREDICTIONS: dict[str, Prediction] = {
    "epsilon": "eps",
    "sample": "x0",
    "v_prediction": "v",
    "flow_prediction": "flow",
}


def from_monai(
    net: nn.Module,
    *,
    pred: Prediction = "eps",
    schedule: str = "linear_beta",
    n_rows: int = 1000,
    beta_start: float = 1e-4,
    beta_end: float = 2e-2,
    alphas_bar: Sequence[float] | np.ndarray | Tensor | None = None,
    index: RowCode = "float",
    precision: PrecisionName = "float32",
) -> Denoiser:
    """Wrap a network called as `net(x, timesteps, context=..., class_labels=...)`.

    Args:
        net: for instance MONAI's DiffusionModelUNet; conditions go to it by keyword.
        pred: `eps`, `x0` or `v`, as it was trained.
        schedule: of the training, see `alphas_bar_of`.
        n_rows: training steps; must agree with `alphas_bar` if that is given.
        beta_start: see `alphas_bar_of`.
        beta_end: see `alphas_bar_of`.
        alphas_bar: the cumulative products of the training, in place of a schedule and its betas; a
            scheduler holds them as `alphas_cumprod`.
        index: `float` feeds the row between two rows as it is; `round` feeds the nearest one, as an
            integer, for networks that look it up in a table.
        precision: number format of the network.

    Raises:
        ValueError: the table does not decrease or has another length.
    """
    if alphas_bar is None:
        table = alphas_bar_of(schedule, n_rows, beta_start=beta_start, beta_end=beta_end)
    else:
        given = alphas_bar.detach().cpu() if isinstance(alphas_bar, Tensor) else alphas_bar
        table = np.asarray(given, dtype=np.float64)
        if table.shape != (n_rows,):
            raise ValueError(
                f"alphas_bar has shape {table.shape} but n_rows={n_rows}; give one value per "
                "training step, and their number"
            )
    if index not in get_args(RowCode):
        raise ValueError(f"index {index!r} came; choose float or round")
    return Denoiser(
        net,
        path=Path.tabulated(table),
        pred=pred,
        time_code="row" if index == "float" else "nearest_row",
        unit_input=False,
        precision=precision,
    )


def from_diffusers(
    unet: nn.Module,
    config: Mapping[str, Any],
    *,
    index: RowCode = "float",
    precision: PrecisionName = "float32",
) -> Denoiser:
    """Wrap a network that answers with `.sample`, described by its scheduler's settings.

    Args:
        unet: called as `unet(x, timestep, **cond)`.
        config: the scheduler's settings, as in `scheduler_config.json`. Read are
            `num_train_timesteps`, `beta_schedule`, `beta_start`, `beta_end`, `trained_betas`,
            `prediction_type` and `rescale_betas_zero_snr`; a flow-matching scheduler, known by its
            `_class_name`, gives the rectified path. What belongs to sampling is left to the grid.
        index: see `from_monai`.
        precision: number format of the network.

    Raises:
        ValueError: a setting is unknown.
    """
    net = _Sample(unet)
    if str(config.get("_class_name", "")).startswith("FlowMatch"):
        return Denoiser(
            net,
            path=Path.rectified(),
            pred="flow",
            time_code="time",
            unit_input=False,
            precision=precision,
        )
    name = config.get("prediction_type", "epsilon")
    if name not in _PREDICTIONS:
        raise ValueError(f"prediction_type {name!r} came; choose one of {tuple(_PREDICTIONS)}")
    if config.get("trained_betas") is not None:
        table = np.cumprod(1.0 - np.asarray(config["trained_betas"], dtype=np.float64))
    else:
        table = alphas_bar_of(
            config.get("beta_schedule", "linear"),
            int(config.get("num_train_timesteps", 1000)),
            beta_start=float(config.get("beta_start", 1e-4)),
            beta_end=float(config.get("beta_end", 2e-2)),
        )
    if config.get("rescale_betas_zero_snr", False):
        table = zero_terminal_snr(table)
    return from_monai(
        net,
        pred=_PREDICTIONS[name],
        n_rows=len(table),
        alphas_bar=table,
        index=index,
        precision=precision,
    )


def from_edm(
    net: nn.Module | Callable[..., Tensor],
    *,
    preconditioned: bool = True,
    sigma_data: float = 0.5,
    sigma_max: float = 80.0,
    precision: PrecisionName = "float32",
) -> Denoiser:
    """Wrap a network of Karras et al. 2022, on the variance-exploding path up to `sigma_max`.

    `on_path` moves it to any other path, for instance `from_edm(net).on_path(Path.rectified())`.

    Args:
        net: the denoiser `D(x, sigma, **cond)`, or with `preconditioned=False` the raw network
            `F(c_in x, ln(sigma) / 4, **cond)` of `D = c_skip x + c_out F`.
        preconditioned: whether it is D.
        sigma_data: standard deviation of the training data; used by F only.
        sigma_max: highest noise level, at `t = 1`.
        precision: number format of the network.

    Source: Karras et al. 2022, eq. 7 and table 1, arXiv:2206.00364.
    """
    return Denoiser(
        _module(net),
        path=Path.ve(sigma_max),
        pred="x0" if preconditioned else "edm",
        sigma_data=sigma_data,
        time_code="sigma_hat" if preconditioned else "log_sigma_hat",
        unit_input=not preconditioned,
        precision=precision,
    )


def from_callable(
    fn: Callable[..., Tensor],
    *,
    path: Path,
    pred: Prediction = "x0",
    time_code: TimeCode = "unit_time",
    frame: Path | None = None,
    sigma_data: float = 1.0,
) -> Denoiser | OnPath:
    """Wrap `fn(x, code, **cond)`, with one time code per sample, whatever it predicts.

    Args:
        fn: any callable; a module keeps its parameters.
        path: the path of the states to come.
        pred: what `fn` returns.
        time_code: how it is told the time; see `Denoiser`.
        frame: the path on whose states `fn` works, if that is another one: the state is rescaled
            and the time looked up at equal signal-to-noise.
        sigma_data: used by the prediction `edm`.
    """
    own = Denoiser(
        _module(fn),
        path=path if frame is None else frame,
        pred=pred,
        sigma_data=sigma_data,
        time_code=time_code,
        unit_input=False,
    )
    return own if frame is None else own.on_path(path)


class _Sample(nn.Module):
    """A network whose answer is the attribute `sample`, or the first entry of a tuple."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor, code: Tensor, **cond: Any) -> Tensor:
        answer = self.net(x, code, **cond)
        if isinstance(answer, Tensor):
            return answer
        return answer[0] if isinstance(answer, tuple) else answer.sample


class _Call(nn.Module):
    """A plain function in the place of a network."""

    def __init__(self, fn: Callable[..., Tensor]) -> None:
        super().__init__()
        self.fn = fn

    def forward(self, x: Tensor, code: Tensor, **cond: Any) -> Tensor:
        return self.fn(x, code, **cond)


def _module(fn: nn.Module | Callable[..., Tensor]) -> nn.Module:
    return fn if isinstance(fn, nn.Module) else _Call(fn)
