"""The command ``longstride convert``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from longstride.cli.common import handled
from longstride.cli.options import Json

__all__ = ["convert"]


@handled
def convert(
    network: Annotated[
        Path, typer.Argument(help="A pickle of NVlabs/edm, such as edm-cifar10-32x32-cond-vp.pkl.", metavar="NETWORK")
    ],
    out: Annotated[Path, typer.Argument(help="The new folder; it is then a MODEL for all commands.", metavar="OUT")],
    run_code_in_file: Annotated[
        bool,
        typer.Option(
            "--run-code-in-file",
            help="Reading a pickle RUNS THE CODE IN THE FILE, as you and with all your rights: only for files that "
            "you trust. Without this flag nothing is read.",
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Turn a checkpoint of EDM, a pickle, into a folder of safetensors and JSON.

    Nothing is unpickled when the folder is opened. This step alone needs EDM's own code:
    git clone https://github.com/NVlabs/edm, then PYTHONPATH=edm.
    """
    from longstride.zoo.edm_pickle import convert_pickle

    made = convert_pickle(network, out, run_code_in_file=run_code_in_file)
    if as_json:
        print(json.dumps(made))
        return
    classes = f"{made['classes']} classes" if made["classes"] else "no classes"
    shape = "×".join(map(str, made["shape"]))
    print(f"{made['network']}, {made['parameters']:,} parameters, samples of {shape}, {classes}; written to {out}")
