"""The `medsci` command."""

__all__ = ["app", "main"]

import sys
import traceback
from collections.abc import Sequence
from typing import Annotated, TypeAlias

import typer

import medsci
from medsci.cli import brain, convert, data, doctor, models, recon, restore, train
from medsci.cli.talk import Talk
from medsci.errors import ExitCode
from medsci.pipelines.failure import explain

_EPILOG = (
    "Exit codes: 0 done, 1 internal error, 2 usage, 3 some cases failed, 4 invalid input, "
    "5 out of memory, 6 weights missing or wrong, 7 output exists, 130 interrupted."
)

app = typer.Typer(
    name="medsci",
    help="Diffusion and flow models for medical imaging and scientific computing.",
    epilog=_EPILOG,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain help: half the start-up time, and it reads well anywhere
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(brain.app, name="brain")
app.add_typer(recon.app, name="recon")
app.command(name="restore")(restore.restore)
app.command(name="convert")(convert.convert)
app.command(name="train")(train.train)
app.add_typer(models.app, name="models")
app.add_typer(data.app, name="data")
app.command(name="doctor")(doctor.doctor)


def _print_version(asked: bool) -> bool:
    if asked:
        typer.echo(f"medsci {medsci.__version__}")
        raise typer.Exit
    return asked


_Version: TypeAlias = Annotated[
    bool,
    typer.Option(
        "--version", is_eager=True, callback=_print_version, help="Print the version and exit."
    ),
]


@app.callback()
def _root(version: _Version = False) -> None:
    """Parse what stands before the first command."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and give its exit code; nothing escapes but the code.

    Args:
        arguments: the words after `medsci`; the process's own by default.
    """
    talk = Talk()
    words = list(sys.argv[1:] if arguments is None else arguments)
    with talk.running():
        try:
            command = typer.main.get_command(app)
            code = command.main(words, prog_name="medsci", standalone_mode=False)
            if code == ExitCode.INTERRUPTED:  # the parser swallows Ctrl-C and says this
                raise KeyboardInterrupt
        except Exception as error:  # noqa: BLE001 - the border of the program: all becomes a code
            return _fail(error, talk)
        except KeyboardInterrupt as error:
            return _fail(error, talk)
    return int(code or ExitCode.DONE)


def _fail(error: BaseException, talk: Talk) -> int:
    if isinstance(error, typer.Exit):
        return error.exit_code
    if isinstance(error, typer.Abort):  # another word of the parser for it
        error = KeyboardInterrupt()
    say = getattr(error, "format_message", None)  # the parser's own errors have this
    if say is not None:
        return _fail_usage(error, say(), talk)
    failure = explain(error)
    talk.error(failure.message)
    if talk.verbosity > 1:
        typer.echo("".join(traceback.format_exception(error)), err=True)
    return int(failure.code)


def _fail_usage(error: BaseException, message: str, talk: Talk) -> int:
    context = getattr(error, "ctx", None)
    if type(error).__name__ == "NoArgsIsHelpError":
        typer.echo(message, err=True)
    else:
        hint = f"; see '{context.command_path} --help'" if context else ""
        talk.error(f"{message.rstrip('.')}{hint}")
    return int(ExitCode.USAGE)
