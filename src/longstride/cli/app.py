"""The command line, from the commands."""

from __future__ import annotations

from typing import Annotated

import typer

from longstride import __version__
from longstride.cli.calibrate import calibrate
from longstride.cli.common import Command, Group, console
from longstride.cli.convert import convert
from longstride.cli.demo import demo
from longstride.cli.evaluate import evaluate
from longstride.cli.poc import poc
from longstride.cli.recalibrate import recalibrate
from longstride.cli.rollback import rollback
from longstride.cli.rollout import rollout
from longstride.cli.sample import sample
from longstride.cli.show import show
from longstride.cli.ui import ui

__all__ = ["app"]

app = typer.Typer(
    cls=Group,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="Fewer, longer steps: the same diffusion model, the same pictures, a fraction of the network calls.\n\n"
    "Start with [bold]longstride demo[/]; then [bold]longstride calibrate[/] your own model.",
)

#: The commands in the order of the help, each with an example of its arguments.
_COMMANDS = (
    (demo, "--out demo-output"),
    (calibrate, "garments --nfe 4-20 --out book.json"),
    (show, "card.json other.json --html cards.html"),
    (recalibrate, "card.json garments"),
    (rollback, "card.json --reason 'odd colours'"),
    (sample, "garments --card card.json --num 20 --compare"),
    (evaluate, "garments --nfe 5,8 --samples 512"),
    (poc, "garments --quick --out report.html"),
    (ui, "garments"),
    (convert, "net.pkl net --run-code-in-file"),
)
for _command, _example in _COMMANDS:
    app.command(cls=Command, epilog=f"Example: longstride {_command.__name__} {_example}")(_command)
app.add_typer(rollout, name="rollout")


def _version(wanted: bool) -> None:
    if wanted:
        console.print(f"longstride {__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    """Fewer, longer steps."""
