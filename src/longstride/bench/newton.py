"""What each choice of the Gauss–Newton calibration is worth: what is free, starts, samples, loss and calls.

Every number is the root-mean-square error to the converged solution on noise that calibration did not see, beside that
of the best classical solver.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from longstride.bench.ablations import Record
from longstride.bench.lab import Lab
from longstride.calibration.filling import average_table
from longstride.calibration.starts import classical_tables
from longstride.calibration.unknowns import Unknowns
from longstride.errors import LongstrideError
from longstride.table import SolverTable
from longstride.zoo import load_model

__all__ = ["NEWTON"]

#: Networks of the prior: of other surveys of galaxies, and of other pictures with another process.
SIBLINGS = ("galaxy:ztf32", "garments", "cifar10")


def _record(lab: Lab, nfe: int, start: SolverTable | None = None, **settings: Any) -> Record:
    """One calibration, measured; ``start`` in place of the search for one."""
    table = lab.table("ddim", nfe) if start is None else start
    settings = settings if start is None else {**settings, "scouts": 0}
    found = lab.calibrate(table, method="gauss_newton", **settings)
    assert found.search is not None
    said = {key: value for key, value in settings.items() if key != "starts"}
    return {
        "nfe": nfe,
        **said,
        "begun": found.search.start,
        "iterations": len(found.search.iterations) - 1,
        "calls": found.calls,
        "unknowns": len(Unknowns(nfe, levels=settings.get("levels", True), column=settings.get("column", True))),
        "accepted": found.end.accepted,
        **lab.compare(found.card.base_table, found.table),
    }


def _free(lab: Lab, quick: bool) -> Iterator[Record]:
    """Weights alone, with levels, with the column, with both."""
    for nfe in (5,) if quick else (5, 8):
        for levels, column in ((False, False), (True, False), (False, True), (True, True)):
            yield _record(lab, nfe, levels=levels, column=column)


def _starts(lab: Lab, quick: bool) -> Iterator[Record]:
    """Where fits from different classical solvers end."""
    for nfe in (5,) if quick else (5, 8):
        tables = classical_tables(lab.table("ddim", nfe), lab.model.schedule)
        for name in ("ddim@quadratic", "unipc3@quadratic", "ipndm3@quadratic", "ddim@karras", "unipc3@karras"):
            yield {"start": name, **_record(lab, nfe, tables[name])}


def _samples(lab: Lab, quick: bool) -> Iterator[Record]:
    """How many samples are fitted: from scratch, and from the mean table of other networks, with and without a pull."""
    for nfe in (5,) if quick else (5, 8):
        prior = _prior(lab, nfe, SIBLINGS[:1] if quick else SIBLINGS)
        for batch in (8, 32) if quick else (8, 16, 32, 64, 128, 256):
            yield {"prior": "none", **_record(lab, nfe, batch=batch)}
            for ridge in (1e-6, 1e-2) if prior else ():
                yield {"prior": f"ridge {ridge:g}", **_record(lab, nfe, batch=batch, starts=prior, ridge=ridge)}


def _prior(lab: Lab, nfe: int, names: Iterable[str]) -> Mapping[str, SolverTable] | None:
    """The mean table of other networks, or None where there are none."""
    tables = []
    for name in names:
        try:
            other = lab.of_model(load_model(name))
        except LongstrideError:
            continue
        if other.model.fingerprint != lab.model.fingerprint:
            tables.append(other.calibrate(other.table("ddim", nfe), method="gauss_newton").table)
    return {"prior": average_table(tables, lab.table("ddim", nfe))} if tables else None


def _loss(lab: Lab, quick: bool) -> Iterator[Record]:
    """Robust or plain squares, pixels or edges beside them."""
    for nfe in (5,) if quick else (5, 8):
        for robust, residual in ((1.0, "pixels"), (0.25, "pixels"), (4.0, "pixels"), (0.0, "pixels"), (1.0, "edges")):
            yield _record(lab, nfe, robust=robust, residual=residual)


def _calls(lab: Lab, quick: bool) -> Iterator[Record]:
    """Error and cost against the number of calls."""
    for nfe in (3, 5, 8) if quick else (3, 4, 5, 6, 8, 10, 12):
        yield _record(lab, nfe)


#: Every question by name.
NEWTON: dict[str, Callable[[Lab, bool], Iterator[Record]]] = {
    "free": _free,
    "starts": _starts,
    "samples": _samples,
    "loss": _loss,
    "calls": _calls,
}
