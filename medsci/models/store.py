"""The model store: a folder of `config.json`, `model.safetensors` and `MODEL_CARD.md`.

A model is looked for, in this order, as a path to a folder; in the folders of the environment
variable `MEDSCI_MODELS`; in the user's data folder; and among the models packaged with medsci.
Weights are safetensors only, and their SHA-256 is checked on every load.
"""

__all__ = [
    "ModelInfo",
    "digest_of",
    "find_model",
    "fresh_denoiser",
    "install_folder",
    "list_models",
    "load_denoiser",
    "read_config",
    "save_denoiser",
    "search_folders",
    "untrained_like",
    "verify_model",
    "write_atomic",
]

import hashlib
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, final

from pydantic import ValidationError

from medsci.errors import OutputExistsError, WeightsError
from medsci.models.config import ModelConfig, build_path

if TYPE_CHECKING:
    import torch

    from medsci.core.denoise import Denoiser

CONFIG_FILE, WEIGHTS_FILE, CARD_FILE = "config.json", "model.safetensors", "MODEL_CARD.md"


@final
@dataclass(frozen=True)
class ModelInfo:
    """One line of a listing: where a model lies and what it says about itself."""

    name: str
    folder: Path
    config: ModelConfig
    size_bytes: int

    @property
    def kind(self) -> str:
        """Return the kind of the network."""
        return self.config.network.kind

    @property
    def task(self) -> str:
        """Return what the model is for, in a word."""
        return self.config.task


def search_folders() -> tuple[Path, ...]:
    """Return the folders that hold models by name, first match wins."""
    named = os.environ.get("MEDSCI_MODELS", "")
    listed = [Path(part).expanduser() for part in named.split(os.pathsep) if part]
    user = Path.home() / ".local" / "share" / "medsci" / "models"
    return (*listed, user, Path(__file__).parent / "weights")


def install_folder() -> Path:
    """Return the folder that new models go to: the first of `MEDSCI_MODELS`, or the user's own."""
    return search_folders()[0]


def list_models() -> list[ModelInfo]:
    """Return every model that can be loaded by name, without importing torch.

    A name that occurs in two folders is listed once, as it would be loaded. Folders whose
    `config.json` cannot be read are left out; `verify_model` says what is wrong with them.
    """
    found: dict[str, ModelInfo] = {}
    for root in search_folders():
        if not root.is_dir():
            continue
        for folder in sorted(path for path in root.iterdir() if (path / CONFIG_FILE).is_file()):
            try:
                config = read_config(folder)
            except WeightsError:
                continue
            weights = folder / WEIGHTS_FILE
            size = weights.stat().st_size if weights.is_file() else 0
            found.setdefault(folder.name, ModelInfo(folder.name, folder, config, size))
    return list(found.values())


def find_model(name_or_path: str | os.PathLike[str]) -> Path:
    """Return the folder of a model.

    Raises:
        WeightsError: there is none; the message lists the folders searched and the names there.
    """
    direct = Path(name_or_path).expanduser()
    if (direct / CONFIG_FILE).is_file():
        return direct
    plain = direct.name == str(name_or_path)
    if plain:
        for root in search_folders():
            if (root / direct.name / CONFIG_FILE).is_file():
                return root / direct.name
    searched = ", ".join(str(root) for root in ([*search_folders()] if plain else [direct]))
    names = ", ".join(sorted(info.name for info in list_models())) or "none"
    raise WeightsError(
        f"no model {str(name_or_path)!r}: searched {searched}; available by name: {names}. "
        f"Give one of these names or the path of a folder with {CONFIG_FILE}"
    )


def read_config(folder: Path) -> ModelConfig:
    """Read `config.json` of a model's folder.

    Raises:
        WeightsError: it is missing or is not the description of a model.
    """
    try:
        return ModelConfig.model_validate_json((folder / CONFIG_FILE).read_bytes())
    except (OSError, ValidationError) as error:
        first = str(error).splitlines()
        raise WeightsError(
            f"{folder / CONFIG_FILE} cannot be read: {' '.join(first[:3])}; "
            "restore the file or export the model again"
        ) from error


def digest_of(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal digits."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def verify_model(name_or_path: str | os.PathLike[str]) -> ModelInfo:
    """Check that a model is complete and its weights are those recorded; return its entry.

    Raises:
        WeightsError: something is missing, unreadable, or the hash differs.
    """
    folder = find_model(name_or_path)
    config = read_config(folder)
    weights = folder / WEIGHTS_FILE
    if not weights.is_file():
        raise WeightsError(
            f"{folder} has {CONFIG_FILE} but no {WEIGHTS_FILE}; copy the whole folder again"
        )
    digest = digest_of(weights)
    if digest != config.sha256:
        raise WeightsError(
            f"{weights} has sha256 {digest[:12]}..., but {CONFIG_FILE} records "
            f"{config.sha256[:12] or 'none'}...; the file is damaged or was exchanged, "
            "fetch the folder again"
        )
    return ModelInfo(folder.name, folder, config, weights.stat().st_size)


def write_atomic(path: Path, content: bytes) -> None:
    """Write under a temporary name and rename: a reader sees the old file or the whole new one."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    finally:
        Path(temporary).unlink(missing_ok=True)


def save_denoiser(
    denoiser: "Denoiser",
    folder: str | os.PathLike[str],
    *,
    config: ModelConfig,
    card: str,
    attachments: Mapping[str, bytes] | None = None,
    existing: Literal["refuse", "replace"] = "refuse",
) -> ModelConfig:
    """Write a model folder and return its configuration with hash and parameter count filled in.

    Each file is written under a temporary name and renamed, `config.json` last, so that a
    reader never sees a new configuration with old weights unnoticed: the hash would differ.

    Args:
        denoiser: the network of it is stored; path and prediction come from `config`.
        folder: is made if it is missing.
        config: must describe `denoiser`.
        card: text of the model card.
        attachments: more files by name, such as the picture of the loss curve.
        existing: what to do when `folder` already holds a model.

    Raises:
        OutputExistsError: the folder holds a model and `existing` is `refuse`.
        ValueError: `config` does not describe `denoiser`, or weights overflow float16.
    """
    import torch
    from safetensors.torch import save

    target = Path(folder)
    if (target / CONFIG_FILE).exists() and existing == "refuse":
        raise OutputExistsError(f"{target} already holds a model; choose another or overwrite it")
    _check_description(denoiser, config)
    dtype = torch.float16 if config.weights_dtype == "float16" else torch.float32
    tensors = {
        name: value.detach().to("cpu", dtype).contiguous()
        for name, value in denoiser.net.state_dict().items()
    }
    broken = [name for name, value in tensors.items() if not bool(value.isfinite().all())]
    if broken:
        raise ValueError(
            f"{len(broken)} weights are not finite as {config.weights_dtype}, first {broken[0]}; "
            "store float32, or look for the training step that diverged"
        )
    content = save(tensors, metadata={"format": "pt"})
    filled = config.model_copy(
        update={
            "sha256": hashlib.sha256(content).hexdigest(),
            "n_parameters": sum(value.numel() for value in tensors.values()),
        }
    )
    target.mkdir(parents=True, exist_ok=True)
    files = {WEIGHTS_FILE: content, CARD_FILE: card.encode(), **(attachments or {})}
    for name, data in files.items():
        write_atomic(target / name, data)
    write_atomic(target / CONFIG_FILE, (filled.model_dump_json(indent=2) + "\n").encode())
    return filled


def _check_description(denoiser: "Denoiser", config: ModelConfig) -> None:
    pairs = {
        "path": (denoiser.path, build_path(config.path)),
        "prediction": (denoiser.pred, config.prediction),
        "sigma_data": (denoiser.sigma_data, config.sigma_data),
        "time_code": (denoiser.time_code, config.time_code),
        "unit_input": (denoiser.unit_input, config.unit_input),
    }
    for name, (actual, described) in pairs.items():
        if actual != described:
            raise ValueError(f"the denoiser has {name} {actual!r}, its config says {described!r}")


def load_denoiser(
    name_or_path: str | os.PathLike[str],
    *,
    device: "torch.device | str" = "cpu",
    precision: Literal["auto", "float32", "bfloat16"] = "auto",
) -> "Denoiser":
    """Load a denoiser for inference: float32 weights, no gradients, network in `precision`.

    Raises:
        WeightsError: no such model, or its weights are missing, damaged or do not fit.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    info = verify_model(name_or_path)
    denoiser = fresh_denoiser(info.config, seed=0, precision=precision)
    try:
        tensors = load_file(info.folder / WEIGHTS_FILE)
        denoiser.net.load_state_dict({name: value.float() for name, value in tensors.items()})
    except (SafetensorError, RuntimeError) as error:
        raise WeightsError(
            f"{info.folder / WEIGHTS_FILE} does not fit the network in {CONFIG_FILE}: "
            f"{str(error).splitlines()[0]}; the folder mixes two models, fetch it again"
        ) from error
    return denoiser.to(device).eval().requires_grad_(requires_grad=False)


def fresh_denoiser(
    config: ModelConfig, *, seed: int, precision: Literal["auto", "float32", "bfloat16"]
) -> "Denoiser":
    """Build the untrained denoiser that `config` describes."""
    from medsci.core.denoise import Denoiser
    from medsci.nets.unet import build_network

    return Denoiser(
        build_network(config.network, seed=seed),
        path=build_path(config.path),
        pred=config.prediction,
        sigma_data=config.sigma_data,
        time_code=config.time_code,
        unit_input=config.unit_input,
        precision=precision,
    )


def untrained_like(denoiser: "Denoiser", *, seed: int = 0) -> "Denoiser":
    """Return a denoiser of the same shape with freshly drawn weights: the control of a claim.

    The last layer, which starts at zero, is drawn as well, so that the control really computes
    something rather than returning a multiple of its input.
    """
    import copy

    import torch
    from torch import nn

    control = copy.deepcopy(denoiser)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in control.net.modules():
            weight = getattr(module, "weight", None)
            if isinstance(module, nn.GroupNorm | nn.LayerNorm):
                module.reset_parameters()
            elif isinstance(weight, torch.Tensor):
                fan_in = max(1, weight[0].numel())
                drawn = torch.randn(weight.shape, generator=generator) * fan_in**-0.5
                weight.copy_(drawn)
                bias = getattr(module, "bias", None)
                if isinstance(bias, torch.Tensor):
                    bias.zero_()
    return control
