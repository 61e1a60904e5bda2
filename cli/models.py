"""`medsci models`: the weights that are installed, and whether they are what they should be."""

__all__ = ["app"]

import dataclasses
import logging
from typing import Annotated

import typer

from medsci.cli.options import Device, Json, Quiet, Threads
from medsci.cli.talk import talk_of
from medsci.errors import WeightsError

app = typer.Typer(help="List, verify and describe installed models.", no_args_is_help=True)


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
            talk.emit({**record, "sha256": info.config.sha256, "licence": info.config.licence})
        else:
            size = f"{info.size_bytes / 1e6:.1f} MB"
            talk.say(f"{info.name:<20} {size:>9}  {info.config.licence:<12} {info.folder}")


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
    rows, columns = found.size
    talk.say(
        f"network on {found.device}, {found.batch} slices of {rows} x {columns}: "
        f"float32 {found.float32_ms:.0f} ms, bfloat16 {found.bfloat16_ms:.0f} ms; "
        f"--precision auto takes {found.auto}, {found.speed_up:.1f} times as fast as float32"
    )
