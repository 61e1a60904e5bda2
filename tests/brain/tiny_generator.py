"""Generators of a second: a small network as a stored model would hold it, and closed forms."""

import json
import math

import numpy as np
import torch
from torch import Tensor, nn

from medsci.brain.generation import GenerateSettings
from medsci.core import Path
from medsci.models import ModelConfig, build_path, save_denoiser, untrained_like
from medsci.models.store import fresh_denoiser

SIZE = (12, 14, 10)
COVARIATES = (
    {"name": "brain_ml", "unit": "ml", "mean": 1300.0, "std": 100.0, "low": 1000.0, "high": 1700.0},
    {"name": "fluid_fraction", "mean": 0.2, "std": 0.05, "low": 0.1, "high": 0.4},
)
NETWORK = {
    "kind": "unet_3d",
    "in_channels": 4,
    "out_channels": 4,
    "channels": (8, 32),
    "res_blocks": (1, 1),
    "norm_groups": 4,
}


def config(**fields) -> ModelConfig:
    """A model of four channels with two covariates; `fields` replace what they name."""
    network = {**NETWORK, "n_covariates": len(fields.get("covariates", COVARIATES))}
    given = {
        "name": "tiny-head", "network": network, "path": {"kind": "vp_cosine"}, "prediction": "v",
        "sigma_data": 0.5, "image_channels": ("t1", "fluid", "grey", "white"),
        "covariates": COVARIATES, "value_range": (-1.0, 1.0), "training_size": SIZE,
        "voxel_size_mm": (16.0, 16.0, 16.0), "weights_dtype": "float32", "data": "noise",
    }  # fmt: skip
    return ModelConfig.model_validate(given | fields)


def published(**fields) -> ModelConfig:
    """What an imported head generator says of itself, on a small grid."""
    network = {
        "kind": "monai_unet", "channels": (8, 16), "res_blocks": (1, 1), "attention_levels": (1,),
        "head_channels": 8, "norm_groups": 4,
    }  # fmt: skip
    given = {
        "name": "tiny-published", "network": network, "path": {"kind": "tabulated"},
        "prediction": "flow", "time_code": "row", "unit_input": False, "sigma_data": 1.0,
        "image_channels": ("intensity",), "covariates": (), "orientation": "LPS",
        "training": {"imported_from": "medforj"},
    }  # fmt: skip
    return config(**(given | fields))


def stored(folder, description: ModelConfig | None = None):
    """Save a network with drawn weights under its name in a folder of models."""
    described = config() if description is None else description
    drawn = untrained_like(fresh_denoiser(described, seed=0, precision="float32"), seed=1)
    save_denoiser(drawn, folder / described.name, config=described, card="# tiny\n")
    return drawn


class Normal(nn.Module):
    """Independent voxels `N(mean, sd^2)`, whose mean may follow the covariates; exact.

    Covariate j adds `push[j]` times its standardised value; one that is NaN adds nothing.
    """

    def __init__(self, path: Path, mean: Tensor, sd: float, *, push: tuple[float, ...] = ()):
        super().__init__()
        self.path, self.mean, self.sd, self.push = path, mean, sd, push
        self.sigma_data = sd

    @classmethod
    def of(cls, description: ModelConfig, *, mean=0.0, sd: float, push=()) -> "Normal":
        shape = (len(description.image_channels), *description.training_size)
        full = torch.as_tensor(mean, dtype=torch.float32).expand(shape)
        return cls(build_path(description.path), full, sd, push=push)

    def forward(self, x: Tensor, t: float, *, covariates: Tensor | None = None) -> Tensor:
        mean = self.mean
        if covariates is not None and self.push:
            known = torch.nan_to_num(covariates)
            moved = (known * torch.tensor(self.push, dtype=known.dtype)).sum(1)
            mean = mean + moved[:, None, None, None, None]
        alpha, sigma = float(self.path.alpha(t)), float(self.path.sigma(t))
        gain = self.sd**2 * alpha / (alpha**2 * self.sd**2 + sigma**2)
        return mean + gain * (x - alpha * mean)


class TwoModes(nn.Module):
    """Voxels at +-0.6, sd 0.05, through a denoiser smoothed over `width`: it makes values between.

    The average over the neighbourhood is a quadrature; voxels are looked up in a table of it.
    """

    MODE, SD = 0.6, 0.05

    def __init__(self, path: Path, *, width: float) -> None:
        super().__init__()
        self.path, self.width = path, width
        nodes, weights = np.polynomial.hermite_e.hermegauss(65)
        self.nodes, self.weights = torch.tensor(nodes), torch.tensor(weights / weights.sum())

    def sharp(self, x: Tensor, t: float) -> Tensor:
        alpha, sigma = float(self.path.alpha(t)), float(self.path.sigma(t))
        spread = alpha**2 * self.SD**2 + sigma**2
        side = torch.tanh(alpha * self.MODE * x / spread)
        gain = alpha * self.SD**2 / spread
        return self.MODE * side + gain * (x - alpha * self.MODE * side)

    def forward(self, x: Tensor, t: float) -> Tensor:
        end, n = 1.001 * float(x.abs().max()), 2000
        points = torch.linspace(-end, end, n + 1, dtype=torch.float64)
        near = points[:, None] + float(self.path.alpha(t)) * self.width * self.nodes
        table = (self.sharp(near, t) * self.weights).sum(-1).to(x.dtype)
        place = (x + end) * (n / (2.0 * end))
        left = place.long().clamp(0, n - 1)
        return torch.lerp(table[left], table[left + 1], place - left)

    def between(self, image: np.ndarray) -> np.ndarray:
        """Say which voxels of an image in [0, 1] ended more than four sd from either mode."""
        return np.abs(np.abs(2.0 * image - 1.0) - self.MODE) > 4.0 * self.SD


def head(shape=SIZE) -> np.ndarray:
    """An ellipsoid in air with one bright corner: low i, high j, high k; values in [-1, 1]."""
    grid = np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij")
    body = sum((x / 0.8) ** 2 for x in grid) < 1.0
    spot = sum(((x - c) / 0.3) ** 2 for x, c in zip(grid, (-0.45, 0.4, 0.3), strict=True)) < 1.0
    return np.where(spot, 1.0, np.where(body, -0.2, -1.0)).astype(np.float32)


def area_under_curve(score: np.ndarray, positive: np.ndarray) -> float:
    """How often a positive scores above a negative."""
    rank = np.argsort(np.argsort(score)) + 1.0
    n, m = int(positive.sum()), int((~positive).sum())
    return float((rank[positive].sum() - n * (n + 1) / 2) / (n * m)) if n and m else math.nan


def run(folder, *, model="tiny-head", **more):
    """Generate into a folder; `more` are of the settings where those have such a name."""
    from medsci.pipelines.brain_generate import generate_volumes
    from medsci.pipelines.brain_generate_files import GenerateJob

    names = {"seed", "solver", "n_steps", "guidance", "clip", "batch", "maps"}
    settings = {"seed": 3, "n_steps": 3} | {k: more.pop(k) for k in names & set(more)}
    job = GenerateJob(
        GenerateSettings(**settings), model=model, device="cpu", precision="float32", **more
    )
    reports = []
    code = generate_volumes(folder, job=job, tell=reports.append)
    assert code == 0
    return reports


def record_of(folder, number=1):
    """What the sidecar of a volume says."""
    return json.loads((folder / f"sub-gen{number:04d}_T1w.json").read_text())
