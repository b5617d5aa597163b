"""The commands of ``python -m benchmarks``: each writes its own results files, and ``pages`` the tables from these."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from benchmarks.scale import scale
from benchmarks.summary import summary
from benchmarks.trust_commands import faults, monitor
from longstride.cli.common import Command, Group, console, handled, progress_bars, use_device
from longstride.cli.options import Device, Guidance, option
from longstride.errors import LongstrideError
from longstride.processes import is_first, join

if TYPE_CHECKING:
    from longstride.zoo import Model

__all__ = ["app"]

app = typer.Typer(
    cls=Group,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="Benchmarks that write their own tables; each goes on where it was stopped.\n\n"
    "Two processes share the work under [bold]torchrun --nproc-per-node 2 -m benchmarks paper[/].",
)

app.command(cls=Command, epilog="Example: python -m benchmarks scale --seconds SDXL=0.05")(handled(scale))
app.command(cls=Command, epilog="Example: python -m benchmarks summary --results benchmarks/results")(handled(summary))
app.command(cls=Command, epilog="Example: python -m benchmarks faults --only threads --only soak")(handled(faults))
app.command(cls=Command, epilog="Example: python -m benchmarks monitor --zoo zoo --case digits")(handled(monitor))

Out = Annotated[Path, option("Folder for results; finished batches are kept in work/ in it.", "FOLDER")]
Quick = Annotated[bool, typer.Option("--quick", help="Few samples: ten minutes on two cores, figures without weight.")]
Docs = Annotated[
    Path | None,
    option("Checkout whose README and docs/ are filled with the tables and plots; default: none.", "FOLDER"),
]


@app.command(cls=Command, epilog="Example: python -m benchmarks paper --docs . --out benchmarks/results")
@handled
def paper(
    out: Out = Path("bench-paper"),
    docs: Docs = None,
    model: Annotated[
        list[str] | None,
        option("A case of the documentation, a folder or a hub id; may be repeated. Default: all cases.", "MODEL"),
    ] = None,
    guidance: Guidance = None,
    samples: Annotated[int | None, option("Evaluation samples per case; default: its own.", "N", min=2)] = None,
    batch_size: Annotated[int | None, option("Samples per network call.", "N", min=1)] = None,
    ablations: Annotated[bool, option("Run the ablations too.")] = True,
    quick: Quick = False,
    device: Device = "cpu",
) -> None:
    """Base against calibrated solvers on every model: Fréchet distance and error against network calls.

    Without --model, the documentation's cases: the bundled garments unguided and guided, the CIFAR-10 model of the
    checkout, and the galaxy networks if galaxygrad is installed. For the originals:

    python -m benchmarks paper --model google/ddpm-cifar10-32 --samples 50000 --batch-size 512 --device cuda
    """
    from benchmarks.ablations import ABLATED, run_ablations
    from benchmarks.pages import write_pages
    from benchmarks.paper import cases, run_case
    from longstride.cli.render import results_table
    from longstride.files import check_writable

    check_writable(out / "x.json", new_folders=True)
    join(device)
    used = use_device(device)
    pictures = out / "images" if docs is None else docs / "docs" / "images"
    with progress_bars() as say:
        for case in cases(model or [], guidance, samples, batch_size):
            loaded = _load(case.model, used, optional=not model)
            if loaded is None:
                continue
            found = run_case(case, loaded, out, pictures, quick=quick, say=say)
            if is_first():
                for results in found.values():
                    console.print(results_table(results))
        for name, wanted in ABLATED.items() if ablations and not model else ():
            if loaded := _load(name, used, optional=True):
                run_ablations(loaded, out, quick=quick, say=say, names=wanted)
    if is_first() and docs is not None:
        for page in write_pages(docs, out):
            print(f"written {page}")
    if is_first():
        print(f"results in {out}, plots in {pictures}")


def _load(name: str, device: str, *, optional: bool) -> Model | None:
    """The model. None: the model is optional, and its package or its files are not here."""
    from longstride.zoo import load_model

    try:
        return load_model(name, device=device)
    except LongstrideError as error:
        if not optional:
            raise
        if is_first():
            console.print(f"{name} is left out: {error}", highlight=False, markup=False)
        return None


@app.command(
    cls=Command,
    epilog="Example: python -m benchmarks peers --case galaxy_hsc32 --nfe 5 --nfe 8",
)
@handled
def peers(
    out: Out = Path("bench-peers"),
    case: Annotated[list[str] | None, option("Network; may be repeated. Default: all.", "CASE")] = None,
    nfe: Annotated[list[int] | None, option("Network calls; may be repeated. Default: the case's.", "CALLS")] = None,
    peer: Annotated[list[str] | None, option("Sampler; may be repeated. Default: all.", "SAMPLER")] = None,
    times: Annotated[
        float, option("Only peers with backprop, with so many times the calls of our own fit.", "FACTOR", min=0.1)
    ] = 1.0,
    full: Annotated[
        bool,
        typer.Option(
            "--full",
            help="Only peers with backprop, with full schedules whatever these cost, and our fit with more steps.",
        ),
    ] = False,
    usual: Annotated[
        bool, typer.Option("--usual", help="Only classical solvers, on the levels that users get by default.")
    ] = False,
    samples: Annotated[int | None, option("Evaluation samples; default: the case's.", "N", min=80)] = None,
    device: Device = "cpu",
) -> None:
    """Classical solvers, IIA, our own fits and published peers: the same networks, noise and network calls.

    Peers that learn by backprop may spend as many network calls as our own calibration, --times as many, or what their
    --full schedules need. Results are added to the file of their network. Samplers are the peers, gauss_newton, global
    and the forms of IIA.
    """
    from benchmarks.contest import Wish, peer_cases, run_peers
    from longstride.cli.render import results_table
    from longstride.errors import unknown
    from longstride.files import check_writable

    known = peer_cases()
    for name in case or ():
        if name not in known:
            raise unknown("case", name, known)
    wish = Wish(tuple(nfe or ()), tuple(peer or ()), times, full, usual)
    check_writable(out / "x.json", new_folders=True)
    used = use_device(device)
    with progress_bars() as say:
        for one in (known[name] for name in case or known):
            loaded = _load(one.case.model, used, optional=not case)
            if loaded is None:
                continue
            chosen = one if samples is None else replace(one, case=replace(one.case, samples=samples))
            found = run_peers(loaded, chosen, out, wish, say)
            console.print(results_table(found))
    print(f"results in {out}")


@app.command(cls=Command, epilog="Example: python -m benchmarks newton --out benchmarks/results")
@handled
def newton(
    out: Out = Path("bench-newton"),
    model: Annotated[str, option("As in calibrate.", "MODEL")] = "galaxy:hsc32",
    question: Annotated[
        list[str] | None, option("free, starts, samples, loss or transfer; may be repeated. Default: all.", "QUESTION")
    ] = None,
    quick: Quick = False,
    device: Device = "cpu",
) -> None:
    """What each choice of the default calibration is worth, on one model."""
    from benchmarks.ablations import run_records
    from benchmarks.newton import NEWTON
    from longstride.errors import unknown
    from longstride.files import check_writable

    for name in question or ():
        if name not in NEWTON:
            raise unknown("question", name, NEWTON)
    check_writable(out / "x.json", new_folders=True)
    join(device)
    loaded = _load(model, use_device(device), optional=False)
    assert loaded is not None
    wanted = {name: NEWTON[name] for name in question or NEWTON}
    with progress_bars() as say:
        run_records(loaded, out, wanted, "newton", quick=quick, say=say)
    if is_first():
        print(f"results in {out}")


@app.command(
    cls=Command,
    epilog="Example: python -m benchmarks pipelines --tests ../diffusers --out benchmarks/results/pipelines.json",
)
@handled
def pipelines(
    tests: Annotated[
        Path, option("Checkout of diffusers near the installed version, whose tests describe tiny parts.", "FOLDER")
    ],
    out: Annotated[Path, option("Results file; unfinished work is kept in work/ beside it.", "FILE")] = Path(
        "bench-pipelines/pipelines.json"
    ),
    only: Annotated[list[str] | None, option("Pipeline class; may be repeated. Default: all.", "CLASS")] = None,
    trial: Annotated[
        list[str] | None,
        option(
            "sampling, calibration (with card, function and next call) or command; may be repeated. Default: all.",
            "TRIAL",
        ),
    ] = None,
    limit: Annotated[int, option("Seconds of processor time that a class may take.", "SECONDS", min=1)] = 180,
) -> None:
    """Every pipeline class of diffusers, of tiny random parts: sampled, calibrated, and its card used.

    The classes are tried one after the other, each in a process of its own. A survey that was stopped goes on.
    """
    from benchmarks.pipelines.command import survey_pipelines
    from benchmarks.pipelines.page import told
    from longstride.files import check_writable

    check_writable(out, new_folders=True)
    survey_pipelines(
        tests, out, only=only or (), kinds=trial or (), limit=limit, say=lambda *found: print(told(*found), flush=True)
    )
    print(f"results in {out}; python -m benchmarks pages --docs . fills docs/pipelines.md")


@app.command(cls=Command, epilog="Example: python -m benchmarks pages --docs .")
@handled
def pages(
    docs: Annotated[Path, option("Checkout whose README and docs/ are filled.", "FOLDER")] = Path(),
    results: Annotated[Path | None, option("Results files; default: benchmarks/results there.", "FOLDER")] = None,
    check: Annotated[bool, typer.Option("--check", help="Only compare; exit with 1 on a difference.")] = False,
) -> None:
    """Fill the tables of README and docs from results files, and draw the plots of the default calibration."""
    from benchmarks.monitor_table import draw_monitor
    from benchmarks.newton_plots import draw_newton_plots
    from benchmarks.pages import write_pages
    from benchmarks.summary_table import draw_summary

    folder = docs / "benchmarks" / "results" if results is None else results
    changed = write_pages(docs, folder, check=check)
    pictures = docs / "docs" / "images"
    drawn = (
        ()
        if check
        else (*draw_newton_plots(folder, pictures), *draw_monitor(folder, pictures), *draw_summary(folder, pictures))
    )
    for picture in drawn:
        print(f"{picture} drawn")
    for page in changed:
        print(f"{page} {'differs from the results' if check else 'written'}")
    if check and changed:
        raise typer.Exit(1)
