"""`medsci models`: what is installed, whether it is sound, and the ways in and out."""

__all__ = ["app"]

import dataclasses
import logging
from pathlib import Path
from typing import Annotated, Literal

import typer

from medsci.cli.options import Device, Json, Output, Overwrite, Quiet, Threads
from medsci.cli.pairs import pairs
from medsci.cli.talk import talk_of
from medsci.errors import WeightsError

app = typer.Typer(
    help="List, verify, import, export, convert and merge models.", no_args_is_help=True
)
app.command(name="pairs")(pairs)


@app.command("list")
def list_(as_json: Json = False) -> None:
    """List the models that can be given by name, and where they lie."""
    from medsci.models import list_models

    talk = talk_of(as_json=as_json)
    infos = list_models()
    if not infos:
        logging.getLogger("medsci").warning("no model is installed, nor any in MEDSCI_MODELS")
    for info in infos:
        if as_json:
            record = {"name": info.name, "folder": str(info.folder), "bytes": info.size_bytes}
            what = {"kind": info.kind, "task": info.task, "licence": info.config.licence}
            talk.emit({**record, **what, "sha256": info.config.sha256})
        else:
            size = f"{info.size_bytes / 1e6:.1f} MB"
            facts = f"{info.task:<8} {info.kind:<11} {size:>9}  {info.config.licence:<12}"
            talk.say(f"{info.name:<20} {facts} {info.folder}")


@app.command()
def verify(
    names: Annotated[
        list[str] | None, typer.Argument(help="Names or folders; every listed model if omitted.")
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Check the weights of models against their recorded hashes; exit 6 if one fails."""
    from medsci.models import list_models, verify_model

    talk = talk_of(quiet=quiet, as_json=as_json)
    wrong: list[str] = []
    for name in names or [info.name for info in list_models()]:
        try:
            sha256 = verify_model(name).config.sha256
        except WeightsError as error:
            wrong.append(str(error))
            talk.emit({"name": name, "ok": False, "error": str(error)})
            continue
        talk.emit({"name": name, "ok": True, "sha256": sha256})
        if not (as_json or quiet):
            talk.say(f"{name}: ok, sha256 {sha256}")
    if wrong:
        raise WeightsError("; ".join(wrong))


@app.command()
def card(
    name: Annotated[str, typer.Argument(help="Name or folder of a model.", show_default=False)],
) -> None:
    """Print a model's card: what it was trained on, what for, and what not for."""
    from medsci.models import find_model

    path = find_model(name) / "MODEL_CARD.md"
    if not path.is_file():
        raise WeightsError(f"{path} is missing; copy the model's whole folder again")
    typer.echo(path.read_text(encoding="utf-8").rstrip())


@app.command()
def speed(
    name: Annotated[str, typer.Argument(help="Name or folder of a model.", show_default=False)],
    batch: Annotated[int, typer.Option(min=1, help="Slices per call.")] = 4,
    device: Device = "auto",
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Time the network in float32 and bfloat16: what `--precision auto` gains here."""
    from medsci.pipelines.device import use_threads
    from medsci.pipelines.speed import network_speed

    talk = talk_of(as_json=as_json)
    use_threads(threads)
    found = network_speed(name, batch=batch, device=device)
    if as_json:
        talk.emit({**dataclasses.asdict(found), "speed_up": found.speed_up})
        return
    size = " x ".join(str(n) for n in found.size)
    talk.say(
        f"network on {found.device}, {found.batch} images of {size or 'one number'}: "
        f"float32 {found.float32_ms:.0f} ms, bfloat16 {found.bfloat16_ms:.0f} ms; "
        f"--precision auto takes {found.auto}, {found.speed_up:.1f} times as fast as float32"
    )


@app.command("import")
def import_(
    source: Annotated[
        Path,
        typer.Argument(help="A .safetensors file, or a folder or zip that `export` wrote."),
    ],
    kind: Annotated[
        Literal["medsci", "monai", "medforj", "guided_diffusion", "ncsnpp"],
        typer.Option(help="Where the weights come from."),
    ] = "medsci",
    name: Annotated[str | None, typer.Option(help="Name to list it under.")] = None,
    licence: Annotated[
        str | None, typer.Option(help="Licence of the weights; published weights need it.")
    ] = None,
    prediction: Annotated[
        str | None,
        typer.Option(help="What it outputs: x0, eps, v, flow; medforj: noise, clean, ..., rflow."),
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="JSON file with more fields of config.json.")
    ] = None,
    folder: Annotated[
        Path | None, typer.Option(help="Store it goes to. Default: MEDSCI_MODELS, or your own.")
    ] = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Install a model from a file; torch's own checkpoints go through `convert` first."""
    from medsci.models.importing import import_model
    from medsci.pipelines.models import read_fields

    given = {"name": name, "licence": licence, "prediction": prediction}
    fields = {**read_fields(config), **{k: v for k, v in given.items() if v is not None}}
    existing: Literal["refuse", "replace"] = "replace" if overwrite else "refuse"
    info = import_model(source, kind=kind, config=fields, folder=folder, existing=existing)
    _tell(info.name, info.folder, as_json=as_json, sha256=info.config.sha256)


@app.command()
def export(
    name: Annotated[str, typer.Argument(help="Name or folder of a model.", show_default=False)],
    output: Output,
    format: Annotated[
        Literal["folder", "zip", "safetensors"],
        typer.Option(help="One folder, one zip, or weights with the configuration in them."),
    ] = "folder",
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Write a verified copy of a model that `import` reads elsewhere."""
    from medsci.models.exporting import export_model

    existing: Literal["refuse", "replace"] = "replace" if overwrite else "refuse"
    written = export_model(name, output, format=format, existing=existing)
    _tell(name, written, as_json=as_json)


@app.command()
def convert(
    source: Annotated[Path, typer.Argument(help="A .pth, .pt or .ckpt file of torch.")],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Default: the same name, ending in .safetensors."),
    ] = None,
    part: Annotated[
        str | None, typer.Option(help="Part with the weights, such as ema. Default: found.")
    ] = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Turn a checkpoint of torch into safetensors; one that would run code is refused."""
    from medsci.models.convert import convert_checkpoint

    existing: Literal["refuse", "replace"] = "replace" if overwrite else "refuse"
    done = convert_checkpoint(source, output, part=part, existing=existing)
    if done.dropped:
        logging.getLogger("medsci").info("left out, no tensors: %s", ", ".join(done.dropped[:5]))
    _tell(
        source.name, done.file, as_json=as_json, part=done.part, tensors=done.n_tensors,
        source_sha256=done.source_sha256,
    )  # fmt: skip


@app.command()
def merge(
    base: Annotated[str, typer.Argument(help="Name or folder of a model.", show_default=False)],
    adapters: Annotated[
        list[str],
        typer.Argument(help="Folders of adapters, each as FOLDER or FOLDER:WEIGHT."),
    ],
    name: Annotated[str, typer.Option(help="Name of the new model.", show_default=False)],
    folder: Annotated[
        Path | None, typer.Option(help="Store it goes to. Default: MEDSCI_MODELS, or your own.")
    ] = None,
    any_base: Annotated[
        bool, typer.Option("--any-base", help="Merge adapters of other weights, too.")
    ] = False,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Add low-rank adapters to a model and store the result under a new name."""
    from medsci.pipelines.models import merge_models, parse_adapter

    written = merge_models(
        base,
        [parse_adapter(text) for text in adapters],
        name=name,
        folder=folder,
        existing="replace" if overwrite else "refuse",
        any_base=any_base,
    )
    _tell(name, written, as_json=as_json)


def _tell(name: str, place: Path, *, as_json: bool, **more: object) -> None:
    talk = talk_of(as_json=as_json)
    talk.emit({"name": name, "output": str(place), **more})
    if not as_json:
        talk.say(f"{name}: {place}")
