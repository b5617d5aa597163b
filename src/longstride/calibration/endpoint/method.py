"""The default calibration method as an object."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from longstride.calibration.endpoint.cost import most_calls
from longstride.calibration.endpoint.search import calibrate_gauss_newton
from longstride.calibration.endpoint.settings import HELD_OUT, GaussNewtonSettings, fitted_samples
from longstride.calibration.method import Fitted, Steps
from longstride.calibration.samples import Samples
from longstride.reports import EndReport
from longstride.table import SolverTable

__all__ = ["GaussNewtonMethod"]


@dataclass(frozen=True)
class GaussNewtonMethod:
    """All weights and levels fitted together; see :mod:`longstride.calibration.endpoint.gauss_newton`."""

    name: str = "gauss_newton"
    label: str = "Gauss–Newton"
    settings: GaussNewtonSettings = field(default_factory=GaussNewtonSettings)
    solvers: tuple[str, ...] = ()
    whole: bool = True
    many: bool = True

    def counts(self, nfe: int) -> tuple[int, int]:
        """Numbers of samples that are fitted and held out by default."""
        return fitted_samples(nfe), HELD_OUT

    def unit(self, settings: GaussNewtonSettings) -> int:
        """Samples of a unit of work: half of the samples of short fits, so that two processes can share them."""
        return -(-settings.scout_samples // 2)

    def cost(self, nfe: int, fitted: int, held_out: int, settings: GaussNewtonSettings, per_call: int) -> str:
        """Network calls in samples at most, in words; the reference solution is included."""
        bound = most_calls(nfe, fitted, held_out, settings) * per_call
        return f"at most about {bound:,} network calls in samples"

    def fit(
        self,
        samples: Samples,
        table: SolverTable,
        settings: GaussNewtonSettings,
        starts: Mapping[str, SolverTable],
        progress: Steps,
    ) -> Fitted:
        """Fit all of ``table``."""
        made, base, search = calibrate_gauss_newton(
            samples, table, settings, self.name, starts=starts, progress=progress
        )
        return Fitted(made, base, search=search)

    def judge(self, samples: Samples, found: Fitted, settings: GaussNewtonSettings) -> tuple[SolverTable, EndReport]:
        """The table to use, by held-out samples: the fitted table as a whole, or its base."""
        return settings.judge(samples, found.base, found.table)
