"""Models of the store as one thing to hand on: a folder, a zip, or one safetensors file."""

__all__ = ["ExportFormat", "export_model", "read_export"]

import hashlib
import io
import os
import zipfile
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from medsci.errors import InvalidInputError, OutputExistsError, UsageError, WeightsError
from medsci.models.config import ModelConfig
from medsci.models.files import CONFIG_KEY, read_weights
from medsci.models.store import (
    CARD_FILE,
    CONFIG_FILE,
    WEIGHTS_FILE,
    verify_model,
    write_atomic,
)

ExportFormat = Literal["folder", "zip", "safetensors"]

_WHEN = (1980, 1, 1, 0, 0, 0)  # equal models give equal bytes
_PICTURES = (".png",)


def export_model(
    name: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    format: ExportFormat = "folder",
    existing: Literal["refuse", "replace"] = "refuse",
) -> Path:
    """Verify a model and write it where it can be sent from; return what was written.

    `safetensors` holds the weights by name, float16 or float32 as they are stored, and the
    configuration in the metadata; `import_model` reads all three back, bit for bit.

    Raises:
        OutputExistsError: `output` exists and `existing` is `refuse`.
        UsageError: there is no such format.
        WeightsError: the model is missing or damaged.
    """
    if format not in ("folder", "zip", "safetensors"):
        raise UsageError(f"format {format!r} came; choose folder, zip or safetensors")
    info = verify_model(name)
    target = Path(output).expanduser()
    if target.exists() and existing == "refuse":
        raise OutputExistsError(f"{target} exists; choose another output or overwrite it")
    if target.is_dir() != (format == "folder") and target.exists():
        raise UsageError(f"{target} exists and is no {format}; choose another output")
    target.parent.mkdir(parents=True, exist_ok=True)
    files = _files_of(info.folder)
    if format == "folder":
        target.mkdir(exist_ok=True)
        for file, content in files.items():
            write_atomic(target / file, content)
    elif format == "zip":
        write_atomic(target, _zipped(files, info.config.name))
    else:
        write_atomic(target, _single_file(info.folder / WEIGHTS_FILE, info.config))
    return target


def _files_of(folder: Path) -> dict[str, bytes]:
    """Return the files of a model by name, its configuration last."""
    names = [p.name for p in sorted(folder.iterdir()) if p.suffix in _PICTURES and p.is_file()]
    kept = [WEIGHTS_FILE, CARD_FILE, *names, CONFIG_FILE]
    return {name: (folder / name).read_bytes() for name in kept if (folder / name).is_file()}


def _zipped(files: dict[str, bytes], name: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for file, content in files.items():
            archive.writestr(zipfile.ZipInfo(f"{name}/{file}", date_time=_WHEN), content)
    return buffer.getvalue()


def _single_file(weights: Path, config: ModelConfig) -> bytes:
    from safetensors.torch import save

    tensors, _ = read_weights(weights)
    # One entry only: safetensors writes several in an order that changes from run to run.
    return save(tensors, metadata={CONFIG_KEY: config.model_dump_json()})


def read_export(source: str | os.PathLike[str]) -> tuple[ModelConfig, dict[str, bytes]]:
    """Return the configuration of an exported model, and its other files by name, verified.

    Raises:
        InvalidInputError: nothing is there.
        WeightsError: it is no export of a model, or damaged.
    """
    path = Path(source)
    if path.is_dir():
        info = verify_model(path)
        files = _files_of(info.folder)
        files.pop(CONFIG_FILE)
        return info.config, files
    if not path.exists():
        raise InvalidInputError(f"{path} does not exist; give an exported folder, zip or file")
    config, files = _from_zip(path) if zipfile.is_zipfile(path) else _from_single_file(path)
    digest = hashlib.sha256(files.get(WEIGHTS_FILE, b"")).hexdigest()
    if digest != config.sha256:
        raise WeightsError(
            f"the weights in {path} have sha256 {digest[:12]}..., its configuration records "
            f"{config.sha256[:12] or 'none'}...; the file is damaged or was exchanged, fetch it "
            "again"
        )
    return config, files


def _from_zip(path: Path) -> tuple[ModelConfig, dict[str, bytes]]:
    if path.suffix.lower() in (".pt", ".pth", ".ckpt"):
        read_weights(path)  # says what to do with a checkpoint of torch, which is a zip as well
    files: dict[str, bytes] = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for entry in archive.infolist():
                name = Path(entry.filename).name  # a path in an archive is not to be trusted
                if name in (CONFIG_FILE, WEIGHTS_FILE, CARD_FILE) or name.endswith(_PICTURES):
                    files[name] = archive.read(entry)
    except (zipfile.BadZipFile, OSError, EOFError, NotImplementedError, RuntimeError) as error:
        raise WeightsError(f"{path} is a damaged zip ({error}); fetch it again") from error
    if CONFIG_FILE not in files:
        raise WeightsError(f"{path} holds no {CONFIG_FILE}; give a zip that medsci exported")
    return _parsed(files.pop(CONFIG_FILE), where=path), files


def _from_single_file(path: Path) -> tuple[ModelConfig, dict[str, bytes]]:
    from safetensors.torch import save

    tensors, metadata = read_weights(path)
    if CONFIG_KEY not in metadata:
        raise WeightsError(
            f"{path} holds weights but not what they are of; it is no export of medsci, so name "
            "the kind it was published as"
        )
    config = _parsed(metadata[CONFIG_KEY].encode(), where=path)
    return config, {WEIGHTS_FILE: save(tensors, metadata={"format": "pt"})}


def _parsed(content: bytes, *, where: Path) -> ModelConfig:
    try:
        return ModelConfig.model_validate_json(content)
    except ValidationError as error:
        words = " ".join(str(error).split())[:160]
        raise WeightsError(
            f"the configuration in {where} cannot be read: {words}; export the model again"
        ) from error
