"""The published 3D T1 head generators, from their file to a denoiser in one call."""

__all__ = ["MedforjPrediction", "load_medforj"]

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from medsci.models.convert import convert_checkpoint
from medsci.models.files import the_file
from medsci.models.importing import import_model
from medsci.models.store import load_denoiser
from medsci.nets.config import MonaiUNetConfig

if TYPE_CHECKING:
    import torch

    from medsci.core.denoise import Denoiser

MedforjPrediction = Literal["noise", "clean", "velocity", "flow", "rflow"]


def load_medforj(
    path: str | os.PathLike[str],
    *,
    prediction: MedforjPrediction,
    network: MonaiUNetConfig | None = None,
    device: "torch.device | str" = "cpu",
    precision: Literal["auto", "float32", "bfloat16"] = "auto",
) -> "Denoiser":
    """Return a denoiser with these weights, ready to sample from; nothing is installed.

    Every weight must be there, with its name and shape. Prefixes of wrappers (`module.`, `model.`)
    come off. The file does not say what its network predicts: its name does. To keep the model
    under a name of its own, use `import_model(path, kind="medforj", ...)`.

    Args:
        path: `.safetensors`, or a checkpoint of torch, which is read without running any code and
            may hold the weights under `model`.
        prediction: word in the file's name. `flow` is noise minus data on the variance-preserving
            path of 1000 rows; `rflow` is data minus noise on the straight path.
        network: if it is not the published one.
        device: where the network runs.
        precision: number format of the network.

    Raises:
        InvalidInputError: there is no such file.
        UsageError: the prediction is none of the five.
        WeightsError: the file asks to run code, is damaged, or does not fit the network; the
            message names the keys.

    Source: Remedios et al. 2025, arXiv:2510.26834.
    """
    file = the_file(path, wanted="a .safetensors file or a checkpoint of torch")
    shape = MonaiUNetConfig() if network is None else network
    with tempfile.TemporaryDirectory() as folder:
        room = Path(folder)
        if file.suffix != ".safetensors":
            file = convert_checkpoint(file, room / "weights.safetensors").file
        model = import_model(
            file,
            kind="medforj",
            config={
                "name": "medforj",
                "licence": "Apache-2.0",
                "prediction": prediction,
                "network": shape.model_dump(),
            },
            folder=room,
            existing="replace",
        )
        return load_denoiser(model.folder, device=device, precision=precision)
