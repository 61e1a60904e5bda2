"""Models from elsewhere into the store: our own exports, and published weights by key map.

medsci              a folder, a zip or a safetensors file that `export_model` wrote
monai               weights of MONAI's DiffusionModelUNet
medforj             the same for the published 3D T1 head generators, by prediction type
guided_diffusion    weights of the U-Net of guided diffusion, whose shapes tell the network
ncsnpp              weights of the continuous NCSN++ of score-based models, likewise
"""

__all__ = ["ImportKind", "import_model"]

import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import ValidationError

from medsci.errors import OutputExistsError, UsageError, WeightsError
from medsci.models.card import write_card
from medsci.models.config import ModelConfig
from medsci.models.exporting import read_export
from medsci.models.files import read_weights, the_file
from medsci.models.key_maps import (
    fit_keys,
    from_guided_diffusion,
    from_monai,
    infer_adm,
    strip_prefixes,
)
from medsci.models.ncsnpp_keys import from_ncsnpp, infer_ncsnpp
from medsci.models.store import (
    ModelInfo,
    digest_of,
    fresh_denoiser,
    install_folder,
    list_models,
    save_denoiser,
    verify_model,
    write_atomic,
)

if TYPE_CHECKING:
    from torch import Tensor

ImportKind = Literal["medsci", "monai", "medforj", "guided_diffusion", "ncsnpp"]

_ROWS = {"path": {"kind": "tabulated"}, "time_code": "row"}
_MEDFORJ: dict[str, dict[str, Any]] = {  # published name of the prediction -> how it is sampled
    "noise": {**_ROWS, "prediction": "eps"},
    "clean": {**_ROWS, "prediction": "x0"},
    "velocity": {**_ROWS, "prediction": "v"},
    "flow": {**_ROWS, "prediction": "flow"},
    "rflow": {"path": {"kind": "rectified"}, "time_code": "time", "prediction": "flow"},
}
_COLOURS = {1: ("intensity",), 3: ("red", "green", "blue")}


def import_model(
    source: str | os.PathLike[str],
    *,
    kind: ImportKind = "medsci",
    config: Mapping[str, Any] | None = None,
    folder: str | os.PathLike[str] | None = None,
    existing: Literal["refuse", "replace"] = "refuse",
) -> ModelInfo:
    """Install a model under its name and return its entry.

    Args:
        source: a `.safetensors` file; for the kind `medsci` also a folder or a zip. Checkpoints of
            torch are converted first, see `convert_checkpoint`.
        kind: where the weights come from.
        config: fields of `ModelConfig`. Published weights need `name` and `licence`, the kind
            `monai`, `guided_diffusion` and `ncsnpp` may add the network's settings under `network`,
            and `medforj` needs `prediction`: noise, clean, velocity, flow or rflow. A model of
            medsci brings its own; only its `name` can be changed.
        folder: of the store that it goes to; the first of `MEDSCI_MODELS`, or the user's own.
        existing: what to do when the name is taken.

    Raises:
        InvalidInputError: there is no such file.
        OutputExistsError: the name is taken and `existing` is `refuse`.
        UsageError: the licence or another field is missing or wrong.
        WeightsError: the file is damaged, or does not fit the network; one line names the keys.
    """
    fields = dict(config or {})
    root = install_folder() if folder is None else Path(folder)
    if kind == "medsci":
        return _import_own(Path(source).expanduser(), fields, root=root, existing=existing)
    readers: dict[str, Callable[..., tuple[dict[str, Any], dict[str, Tensor]]]] = {
        "monai": _monai,
        "medforj": _medforj,
        "guided_diffusion": _guided_diffusion,
        "ncsnpp": _ncsnpp,
    }
    if kind not in readers:
        raise UsageError(f"kind {kind!r} came; choose one of medsci, {', '.join(readers)}")
    for field, why in (("name", "under which it is listed"), ("licence", "of the weights")):
        if not (isinstance(fields.get(field), str) and fields[field].strip()):
            raise UsageError(f"no {field} came; give the {field} {why}")
    target = _free_place(fields["name"], root, existing=existing)
    file = the_file(source, wanted="a .safetensors file")
    state, _ = read_weights(file)
    if not isinstance(fields.get("network", {}), Mapping):
        raise UsageError(f"network {fields['network']!r} came; give its settings by name")
    described, named = readers[kind](strip_prefixes(state), fields)
    described.setdefault("image_channels", _channel_names(described["network"].get("in_channels")))
    origin = {"imported_from": kind, "source_sha256": digest_of(file)}
    defaults = {"unit_input": False, "weights_dtype": "float32", "intensity": "from -1 to 1"}
    full = _validated({**defaults, **described, "training": origin})
    _store(full, named, target, where=str(file), existing=existing)
    return verify_model(target)


def _store(
    config: ModelConfig,
    named: "dict[str, Tensor]",
    target: Path,
    *,
    where: str,
    existing: Literal["refuse", "replace"],
) -> None:
    denoiser = fresh_denoiser(config, seed=0, precision="float32")
    expected = denoiser.net.state_dict()
    fitted = fit_keys(named, expected, where=where)
    denoiser.net.load_state_dict({name: value.float() for name, value in fitted.items()})
    card, _ = write_card(config, rows=(), recipe={}, card={})
    try:
        save_denoiser(denoiser, target, config=config, card=card, existing=existing)
    except ValueError as error:
        raise WeightsError(f"{where}: {error}") from error


def _free_place(name: str, root: Path, *, existing: Literal["refuse", "replace"]) -> Path:
    taken = [info.folder for info in list_models() if info.name == name]
    if (root / name).exists():
        taken = [root / name]
    if taken and existing == "refuse":
        raise OutputExistsError(
            f"the name {name!r} is taken by {taken[0]}; choose another name or overwrite it"
        )
    return root / name


def _validated(fields: Mapping[str, Any]) -> ModelConfig:
    try:
        return ModelConfig.model_validate(fields)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "the configuration"
        words = first["msg"].removeprefix("Value error, ")
        raise UsageError(f"{where}: {words}; correct this field of the configuration") from error


def _import_own(
    source: Path,
    fields: Mapping[str, Any],
    *,
    root: Path,
    existing: Literal["refuse", "replace"],
) -> ModelInfo:
    unknown = sorted(set(fields) - {"name"})
    if unknown:
        raise UsageError(
            f"{unknown[0]} came, but a model of medsci brings its own; change its name only"
        )
    config, files = read_export(source)
    renamed = _validated({**config.model_dump(), "name": fields.get("name") or config.name})
    if not renamed.licence:
        raise UsageError(f"{source} records no licence; ask its author for one")
    target = _free_place(renamed.name, root, existing=existing)
    target.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        write_atomic(target / name, content)
    write_atomic(target / "config.json", (renamed.model_dump_json(indent=2) + "\n").encode())
    return verify_model(target)


def _monai(
    state: "dict[str, Tensor]", fields: dict[str, Any]
) -> "tuple[dict[str, Any], dict[str, Tensor]]":
    network = {**dict(fields.get("network", {})), "kind": "monai_unet"}
    if "prediction" not in fields:
        raise UsageError("no prediction came; say what the network outputs: x0, eps, v or flow")
    return {**_ROWS, **fields, "network": network}, {
        from_monai(key): value for key, value in state.items()
    }


def _medforj(
    state: "dict[str, Tensor]", fields: dict[str, Any]
) -> "tuple[dict[str, Any], dict[str, Tensor]]":
    word = fields.get("prediction")
    if word not in _MEDFORJ:
        raise UsageError(f"prediction {word!r} came; the file's name has one of {[*_MEDFORJ]}")
    about = {
        "training_size": (192, 224, 192),
        "voxel_size_mm": (1.0, 1.0, 1.0),
        "orientation": "LPS",
        "value_range": (-1.0, 1.0),
        "data": "T1-weighted heads, 1 mm, axes to the left, back and top.",
    }
    described, named = _monai(state, {**about, **fields, **_MEDFORJ[word]})
    if word == "rflow":  # its target is data minus noise, ours noise minus data
        last = {"unet.out.2.conv.weight", "unet.out.2.conv.bias"}
        named = {key: -value if key in last else value for key, value in named.items()}
    return described, named


def _guided_diffusion(
    state: "dict[str, Tensor]", fields: dict[str, Any]
) -> "tuple[dict[str, Any], dict[str, Tensor]]":
    given = dict(fields.get("network", {}))
    network = infer_adm(state)
    if given.get("null_label") and network["n_labels"]:
        network["n_labels"] -= 1
    rename = partial(from_guided_diffusion, res_blocks=network["res_blocks"])
    network = {**network, **given, "kind": "adm"}
    named = {rename(key) or key: value for key, value in state.items()}
    return {**_ROWS, "prediction": "eps", **fields, "network": network}, named


def _ncsnpp(
    state: "dict[str, Tensor]", fields: dict[str, Any]
) -> "tuple[dict[str, Any], dict[str, Tensor]]":
    network = {**infer_ncsnpp(state), **dict(fields.get("network", {})), "kind": "ncsnpp"}
    about = {
        "path": {"kind": "ve", "sigma_max": 378.0, "sigma_min": 0.01},
        "time_code": "sigma_hat",
        "prediction": "score",
        "intensity": "from 0 to 1",
    }
    named = {from_ncsnpp(key) or key: value for key, value in state.items()}
    return {**about, **fields, "network": network}, named


def _channel_names(n_channels: object) -> tuple[str, ...]:
    n = n_channels if isinstance(n_channels, int) else 1
    return _COLOURS.get(n) or tuple(f"channel {i}" for i in range(n))
