"""Gauss–Newton from a table that is in use: it is the start, and the first to be beaten.

A handful of samples cannot fit twenty-odd numbers anew. They can tell in which direction a table that was good has
become worse. So the ridge pulls towards this table, as strongly as ``ridge`` says. The fit stops by its own samples
alone, so that no held-out sample has seen any iterate: the comparisons on them are honest, however few they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from longstride.calibration.endpoint.gauss_newton import GaussNewton
from longstride.calibration.endpoint.method import GaussNewtonMethod
from longstride.calibration.endpoint.residuals import balanced
from longstride.calibration.endpoint.search import Fits
from longstride.calibration.endpoint.settings import GaussNewtonSettings
from longstride.calibration.method import Fitted, Steps
from longstride.calibration.samples import Samples
from longstride.errors import InputError
from longstride.reports import EndReport, Search
from longstride.table import SolverTable

__all__ = ["CURRENT", "Comparison", "Recalibrating"]

#: Name of the table in use, among the starts.
CURRENT = "current"
_DEFAULTS = GaussNewtonSettings(iterations=3, scouts=0, ridge=0.03)


@dataclass(frozen=True)
class Comparison:
    """The fitted table, and the base, each against the table in use; ``accepted`` means surely better.

    Attributes:
        fitted: The fitted table against the table in use.
        base: The base against the table in use.
    """

    fitted: EndReport
    base: EndReport


@dataclass(frozen=True)
class Recalibrating(GaussNewtonMethod):
    """The default method for one calibration, whose starts hold the table in use as :data:`CURRENT`.

    It fits from this table, and keeps it unless the fitted table is surely better on held-out samples. What it keeps
    is then compared with the base, as in every calibration.
    """

    settings: GaussNewtonSettings = field(default_factory=lambda: _DEFAULTS)
    _compared: list[Comparison] = field(default_factory=list, init=False, repr=False, compare=False)

    @property
    def comparison(self) -> Comparison | None:
        """Result of the comparisons with the table in use; None before the fit."""
        return self._compared[-1] if self._compared else None

    def counts(self, nfe: int) -> tuple[int, int]:
        """Numbers of samples that are fitted and held out by default."""
        return 16, 16

    def cost(self, nfe: int, fitted: int, held_out: int, settings: GaussNewtonSettings, per_call: int) -> str:
        """No bound is told: a recalibration is short."""
        return ""

    def fit(
        self,
        samples: Samples,
        table: SolverTable,
        settings: GaussNewtonSettings,
        starts: Mapping[str, SolverTable],
        progress: Steps,
    ) -> Fitted:
        """Fit the table in use; ``table`` is the base.

        Raises:
            InputError: the table in use is missing, or does not end in finite samples.
        """
        if list(starts) != [CURRENT]:
            raise InputError(f"a recalibration starts from the table in use alone, {CURRENT!r}, got {list(starts)}")
        current, done = starts[CURRENT], 0

        def say() -> None:
            nonlocal done
            done += 1
            progress(min(done, settings.iterations), settings.iterations)

        newton = GaussNewton(
            samples,
            Fits(samples, table.nfe, settings).parameters,
            balanced(settings.residual, samples, current),
            robust=settings.robust,
            ridge=settings.ridge,
            rank=settings.rank,
            watched=samples.units.fitted,
        )
        fit = newton.fit(current, settings.iterations, say=say)
        made = replace(fit.table, name=self.name)
        _, fitted = settings.judge(samples, current, made, "the card")
        _, base = settings.judge(samples, current, table, "the card")
        self._compared.append(Comparison(fitted, base))
        search = Search("given", {}, {}, CURRENT, fit.iterations, fit.stopped)
        return Fitted(made if fitted.accepted else current, table, search=search)
