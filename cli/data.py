"""`medsci data`: real data that medsci knows, with origin and licence. Nothing is downloaded."""

__all__ = ["app"]

import dataclasses
from typing import Annotated

import typer

from medsci.cli.options import Json
from medsci.cli.talk import talk_of
from medsci.errors import InvalidInputError

app = typer.Typer(help="List and check known real data.", no_args_is_help=True)


@app.command("list")
def list_(as_json: Json = False) -> None:
    """List known data: what it shows, where to get it, on what terms."""
    from medsci.data import list_data

    talk = talk_of(as_json=as_json)
    for entry in list_data():
        if as_json:
            talk.emit(dataclasses.asdict(entry))
        else:
            talk.say(f"{entry.name}\n  {entry.content}")
            talk.say(f"  from     {entry.provider}\n  licence  {entry.licence}")


@app.command()
def check(
    names: Annotated[list[str] | None, typer.Argument(help="Names; all if omitted.")] = None,
    as_json: Json = False,
) -> None:
    """Say which data are here and unchanged; exit 4 if a file differs from the one recorded."""
    from medsci.data import check_data, list_data

    talk = talk_of(as_json=as_json)
    changed: list[str] = []
    for name in names or [entry.name for entry in list_data()]:
        state = check_data(name)
        changed += [name] if state == "changed" else []
        if as_json:
            talk.emit({"name": name, "state": state})
        else:
            talk.say(f"{name:<20} {state}")
    if changed:
        raise InvalidInputError(
            f"not the file that was recorded: {', '.join(changed)}; install the data again"
        )
