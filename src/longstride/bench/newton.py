"""What each choice of the Gauss–Newton calibration is worth: what is free, starts, samples, loss and calls.

Every number is the root-mean-square error to the converged solution on noise that calibration did not see, beside that
of the best classical solver.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from longstride.bench.ablations import Record
from longstride.bench.lab import Lab
from longstride.calibration.starts import classical_tables
from longstride.calibration.unknowns import Unknowns
from longstride.errors import LongstrideError
from longstride.table import SolverTable
from longstride.zoo import load_model

__all__ = ["NEWTON"]

#: Networks that others trained on other surveys of galaxies: siblings of the one that is asked.
SIBLINGS = ("galaxy:ztf32", "galaxy:hsc32")


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
    """How many samples are fitted, from scratch and from a sibling network's table."""
    for nfe in (5,) if quick else (5, 8):
        sibling = _sibling(lab, nfe)
        for batch in (8, 32, 96) if quick else (8, 16, 32, 64, 128, 256):
            yield {"from": "classical solvers", **_record(lab, nfe, batch=batch)}
            if sibling is not None:
                yield {"from": "a sibling network", **_record(lab, nfe, batch=batch, starts=sibling, scouts=1)}


def _sibling(lab: Lab, nfe: int) -> Mapping[str, SolverTable] | None:
    """The table of another network with the same process, or None where there is none."""
    for name in SIBLINGS:
        if name == lab.model.name:
            continue
        try:
            other = lab.of_model(load_model(name))
        except LongstrideError:
            continue
        return {"sibling": other.calibrate(other.table("ddim", nfe), method="gauss_newton").table}
    return None


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
