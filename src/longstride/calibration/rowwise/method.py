"""The methods that fit row by row, as objects."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from longstride.calibration.acceptance.gate import gate
from longstride.calibration.method import Fitted, Steps
from longstride.calibration.rowwise.iia import IIASettings, calibrate_iia
from longstride.calibration.rowwise.whole_trajectory import GlobalSettings, calibrate_global
from longstride.calibration.samples import Samples
from longstride.calibration.units import UNIT
from longstride.reports import EndReport
from longstride.table import SolverTable

__all__ = ["GlobalMethod", "IIAMethod"]

#: Default numbers of fitted and held-out samples.
_FEW = (16, 16)


class _Rowwise:
    """The common part of methods that fit row by row: the gate gives single rows back to the base."""

    whole, many = False, False

    def counts(self, nfe: int) -> tuple[int, int]:
        """Numbers of samples that are fitted and held out by default."""
        del nfe
        return _FEW

    def judge(self, samples: Samples, found: Fitted, settings: object) -> tuple[SolverTable, EndReport]:
        """The table to use, by held-out samples."""
        del settings
        return gate(samples, found.base, found.table)


@dataclass(frozen=True)
class IIAMethod(_Rowwise):
    """Improved Integration Approximation; see :mod:`longstride.calibration.rowwise.iia`.

    Attributes:
        name: ``iia``, or the name of a published form.
        label: Label for people.
        settings: Settings of the form.
        solvers: Base solvers; empty: any solver.
    """

    name: str = "iia"
    label: str = "IIA"
    settings: IIASettings = field(default_factory=IIASettings)
    solvers: tuple[str, ...] = ()

    def unit(self, settings: IIASettings) -> int:
        """Samples of a unit of work."""
        del settings
        return UNIT

    def cost(self, nfe: int, fitted: int, held_out: int, settings: IIASettings, per_call: int) -> str:
        """Network calls in samples at most, in words."""
        m = settings.substeps
        bound = (m + 1) * (fitted + held_out) * nfe * per_call
        each = f"({m} + 1 per sample and call)"
        return f"at most {bound:,} network calls in samples {each}, then the check at the end"

    def fit(
        self,
        samples: Samples,
        table: SolverTable,
        settings: IIASettings,
        starts: Mapping[str, SolverTable],
        progress: Steps,
    ) -> Fitted:
        """Fit ``table``."""
        del starts
        name = self.name if len(self.solvers) == 1 else f"iia_{table.name}"
        made, rows = calibrate_iia(samples, table, settings, name, progress)
        return Fitted(made, table, tuple(rows))


@dataclass(frozen=True)
class GlobalMethod(_Rowwise):
    """Rows fitted to reference trajectories; see :mod:`longstride.calibration.rowwise.whole_trajectory`."""

    name: str = "global"
    label: str = "whole trajectories"
    settings: GlobalSettings = field(default_factory=GlobalSettings)
    solvers: tuple[str, ...] = ()

    def unit(self, settings: GlobalSettings) -> int:
        """Samples of a unit of work."""
        del settings
        return UNIT

    def cost(self, nfe: int, fitted: int, held_out: int, settings: GlobalSettings, per_call: int) -> str:
        """Empty: the steps of the reference solution decide."""
        del nfe, fitted, held_out, settings, per_call
        return ""

    def fit(
        self,
        samples: Samples,
        table: SolverTable,
        settings: GlobalSettings,
        starts: Mapping[str, SolverTable],
        progress: Steps,
    ) -> Fitted:
        """Fit ``table``."""
        del starts
        made, rows = calibrate_global(samples, table, settings, f"global_{table.name}", progress)
        return Fitted(made, table, tuple(rows))
