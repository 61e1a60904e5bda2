"""A small body in Hounsfield units, its scans, and a tiny prior, for tests of jobs and commands."""

from pathlib import Path

import numpy as np

from medsci.imaging import Volume, write_nifti, write_sinogram
from medsci.recon import SimulateCtSettings, simulate_ct

SHAPE = (20, 24, 3)
SPACING = (5.0, 4.0, 6.0)
WINDOW = (-1000.0, 1000.0)


def affine() -> np.ndarray:
    """Oblique, with the first axis flipped and the second and third exchanged."""
    c, s = np.cos(0.2), np.sin(0.2)
    turn = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1.0]])
    signed = np.array([[-1, 0, 0], [0, 0, 1], [0, 1, 0]]) * SPACING
    found = np.eye(4)
    found[:3, :3], found[:3, 3] = turn @ signed, (31.0, -17.5, 240.25)
    return found


def body() -> np.ndarray:
    """Soft tissue of 40 HU, off centre, with a lung of -800 and a bone of 700, in air."""
    x, y, z = np.meshgrid(*[np.linspace(-1, 1, n) for n in SHAPE], indexing="ij")
    found = np.where((x / 0.75) ** 2 + ((y - 0.05) / 0.8) ** 2 < 1, 40.0, -1000.0)
    found[(x + 0.3) ** 2 + (y - 0.2 - 0.1 * z) ** 2 < 0.06] = -800.0
    found[(x - 0.35) ** 2 + (y + 0.3) ** 2 < 0.03] = 700.0
    return found.astype(np.float32)


def body_file(path: Path) -> Path:
    """Write the body as NIfTI."""
    return write_nifti(Volume(body(), affine(), sform_code=1), path)


def scan_file(path: Path, **settings) -> Path:
    """Write a simulated scan of the body; 24 parallel views unless told otherwise."""
    chosen = SimulateCtSettings(**{"n_views": 24, "oversampling": 1} | settings)
    path.parent.mkdir(parents=True, exist_ok=True)
    volume = Volume(body(), affine(), sform_code=1)
    return write_sinogram(simulate_ct(volume, settings=chosen), path)


def prior_folder(
    folder: Path, *, channels: int = 1, window: tuple | None = WINDOW, drawn: bool = True
) -> Path:
    """Store a tiny denoiser.

    Its network gives zero unless weights are `drawn`; its preconditioning then makes it the exact
    denoiser of white Gaussian images.
    """
    import torch

    from medsci.core.denoise.denoiser import Denoiser
    from medsci.models import ModelConfig, build_path, save_denoiser
    from medsci.nets import UNet2dConfig, build_network

    network = UNet2dConfig(
        in_channels=channels, out_channels=channels, channels=(8, 32), res_blocks=(1, 1),
        norm_groups=8,
    )  # fmt: skip
    config = ModelConfig.model_validate({
        "name": "tiny-ct", "network": network, "path": {"kind": "vp_cosine"}, "prediction": "edm",
        "sigma_data": 0.35, "training_size": (16, 16), "data": "nothing: weights are not trained",
        "window_hu": window, "weights_dtype": "float32",
    })  # fmt: skip
    net = build_network(network, seed=0)
    if drawn:
        generator = torch.Generator().manual_seed(0)
        for parameter in net.parameters():
            if not parameter.any():
                values = 0.02 * torch.randn(parameter.shape, generator=generator)
                parameter.data.copy_(values)
    denoiser = Denoiser(net, path=build_path(config.path), pred="edm", sigma_data=0.35)
    save_denoiser(denoiser, folder, config=config, card="# tiny-ct\n", existing="replace")
    return folder
