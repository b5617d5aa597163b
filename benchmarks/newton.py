"""What each choice of the Gauss–Newton calibration is worth: what is free, starts, samples, loss, and other networks.

Every number is the root-mean-square error to the converged solution on noise that calibration did not see, beside that
of the best classical solver.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from benchmarks.ablations import Record
from benchmarks.lab import Lab
from examples.residuals import edges, gradients, moments
from longstride.calibration.endpoint.residuals import pixels
from longstride.calibration.method import as_data
from longstride.calibration.starts.classical import classical_tables
from longstride.errors import LongstrideError
from longstride.interpolate import average_table
from longstride.parameters import Parameters
from longstride.table import SolverTable
from longstride.zoo import load_model

__all__ = ["NEWTON", "record"]

#: Networks of the prior: of another survey of galaxies, and of other pictures with another process.
SIBLINGS = ("galaxy:ztf32", "garments")
#: Networks that a table is carried to and from: of another survey, and of another resolution.
RELATED = ("galaxy:ztf32", "galaxy:hsc64")


def record(lab: Lab, nfe: int, start: SolverTable | None = None, *, fd: bool = False, **settings: Any) -> Record:
    """One calibration, measured (``fd``: by its Fréchet distance, too); ``start`` in place of the search for one."""
    table = lab.table("ddim", nfe) if start is None else start
    settings = settings if start is None else {**settings, "scouts": 0}
    found = lab.calibrate(table, method="gauss_newton", **settings)
    assert found.search is not None
    said = as_data({key: value for key, value in settings.items() if key != "starts"})
    return {
        "nfe": nfe,
        **said,
        "begun": found.search.start,
        "iterations": len(found.search.iterations) - 1,
        "calls": found.calls,
        "unknowns": len(Parameters(nfe, levels=settings.get("levels", True), column=settings.get("column", True))),
        "accepted": found.end.accepted,
        **lab.compare(found.card.base_table, found.table),
        **({"fd": lab.distance(found.table)} if fd else {}),
    }


def _free(lab: Lab, quick: bool) -> Iterator[Record]:
    """Weights alone, with levels, with the column, with both."""
    for nfe in (5,) if quick else (5, 8):
        for levels, column in ((False, False), (True, False), (False, True), (True, True)):
            yield record(lab, nfe, levels=levels, column=column)


def _starts(lab: Lab, quick: bool) -> Iterator[Record]:
    """Where fits from different classical solvers end."""
    nfe = 5
    tables = classical_tables(lab.table("ddim", nfe), lab.model.schedule)
    solvers = ("ddim", "ipndm2", "ipndm3", "unipc3")
    for name in (*(f"{solver}@quadratic" for solver in solvers), "ddim@karras", "unipc3@karras"):
        yield {"start": name, **record(lab, nfe, tables[name])}


def _samples(lab: Lab, quick: bool) -> Iterator[Record]:
    """How many samples are fitted: from scratch, and from the mean table of other networks, with and without a pull."""
    nfe = 5
    prior = _prior(lab, nfe, SIBLINGS[:1] if quick else SIBLINGS)
    for batch in (8, 32) if quick else (8, 16, 32, 64, 128):
        yield {"prior": "none", **record(lab, nfe, batch=batch)}
        for ridge in (1e-6, 1e-2) if prior else ():
            pulled = record(lab, nfe, batch=batch, starts=prior, ridge=ridge)
            yield {"prior": f"ridge {ridge:g}", **pulled}


def _prior(lab: Lab, nfe: int, names: Iterable[str]) -> Mapping[str, SolverTable] | None:
    """The mean table of other networks; None: no other network is installed."""
    others = [other for name in names if (other := _other(lab, name)) is not None]
    tables = [other.calibrate(other.table("ddim", nfe), method="gauss_newton").table for other in others]
    return {"prior": average_table(tables, lab.table("ddim", nfe))} if tables else None


def _loss(lab: Lab, quick: bool) -> Iterator[Record]:
    """Robust or plain squares, pixels alone or with what says how sharp they are meant to be; with FD."""
    for nfe in (5,) if quick else (5, 8):
        for robust in (1.0, 0.25, 4.0, 0.0):
            yield record(lab, nfe, fd=True, robust=robust, residual=pixels)
        for residual in (gradients, edges, moments):
            yield record(lab, nfe, fd=True, robust=1.0, residual=residual)


def _transfer(lab: Lab, quick: bool) -> Iterator[Record]:
    """A table of one network on another: of another survey, of another resolution, and of other classes."""
    nfe = 5
    if lab.model.num_classes > 1:
        half = lab.model.num_classes // 2
        here = {"classes below": lab.of_classes(range(half)), "from": lab.of_classes(range(half, 2 * half))}
        here = {f"{lab.model.name}, {name} {half}": one for name, one in here.items()}
    else:
        here = {lab.model.name: lab, **{name: one for name in RELATED if (one := _other(lab, name)) is not None}}
    found = {name: one.calibrate(one.table("ddim", nfe), method="gauss_newton") for name, one in here.items()}
    for source, calibration in found.items():
        for target, one in here.items():
            own, table = found[target], calibration.table
            if np.allclose(table.sigmas[[0, -1]], own.table.sigmas[[0, -1]], rtol=1e-6):
                line = one.compare(own.card.base_table, table)
                yield {"nfe": nfe, "from": source, "to": target, **line, "own_rmse": one.errors(own.table).rmse}


def _other(lab: Lab, name: str) -> Lab | None:
    """A lab with another network; None: the network is not installed, or the same."""
    try:
        other = lab.of_model(load_model(name))
    except LongstrideError:
        return None
    return None if other.model.fingerprint == lab.model.fingerprint else other


#: Every question by name.
NEWTON: dict[str, Callable[[Lab, bool], Iterator[Record]]] = {
    "free": _free,
    "starts": _starts,
    "samples": _samples,
    "loss": _loss,
    "transfer": _transfer,
}
