"""The command ``longstride ui``: the explorer in a browser."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from longstride.cli.common import console, errors, handled, use_device
from longstride.cli.options import Device, option
from longstride.errors import InputError

__all__ = ["ui"]

#: A panel of the help.
_SERVER = "Server"


@handled
def ui(
    models: Annotated[
        list[str] | None,
        typer.Argument(
            help="Models to choose from, named as for longstride sample; default: garments, garments_flow.",
            metavar="MODEL",
        ),
    ] = None,
    folder: Annotated[
        Path, option("Cards, books and outcomes are read here; new cards are written here.", "DIR")
    ] = Path("."),
    device: Device = "cpu",
    # Server
    host: Annotated[
        str, option("Address to listen at; any other than this machine's own is open to others.", "ADDRESS", _SERVER)
    ] = "127.0.0.1",
    port: Annotated[int, option("Port; 0: any free one.", "N", _SERVER, min=0, max=65535)] = 8080,
) -> None:
    """Look at samplers in the browser: side by side, step by step, as tables; calibrate, and save the card.

    The page shows the given models and the files of one folder, and is served to this machine alone.
    """
    from longstride.explorer import Shelf, Workbench
    from longstride.explorer.web.server import is_local, needs_extra, serve
    from longstride.zoo.model import BUNDLED

    needs_extra()
    if not folder.is_dir():
        raise InputError(f"there is no folder {folder}")
    bench = Workbench(models or list(BUNDLED), Shelf(folder), use_device(device))
    for name in bench.names:
        bench.model(name)
    if not is_local(host):
        errors.print(
            f"[bold yellow]warning:[/] at {host} whoever reaches this machine can run its models and write cards into "
            "the folder: there is no password",
            soft_wrap=True,
        )
    serve(bench, host, port, lambda address: console.print(f"explorer at {address} (Ctrl-C stops it)", highlight=False))
