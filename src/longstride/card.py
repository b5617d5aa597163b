"""The coefficient card: a calibrated sampler as versioned, checked JSON.

A card is text that can be read, compared and reviewed. It is validated when it is loaded. A checksum protects it
against edits and cuts. The hash of a model's weights binds it to the model.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from torch import Tensor

from longstride import documents
from longstride.card_parts import CallInfo, ModelInfo, ScheduleInfo, SolverInfo, TableData
from longstride.errors import CardError, InputError
from longstride.grid import check_levels
from longstride.guard.clean import normal_of
from longstride.guard.normal import Normal
from longstride.guard.score import Guard
from longstride.guard.statistics import names
from longstride.reports import EndReport, Report, RowReport, Search
from longstride.sampler import DenoiserLike
from longstride.schedule import Schedule
from longstride.table import SolverTable
from longstride.version import __version__

__all__ = ["CARD_VERSION", "Card", "ModelInfo", "load_card", "parse_card", "same_start"]

#: Version of the format; a card with a higher one was written by a newer longstride. Before version 4 a card does not
#: say its call. So a guidance of None on the card of a pipeline means there: the default of the pipeline. Version 5 may
#: hold clean runs.
CARD_VERSION = 5
#: First noise levels that differ by more than this factor are of another process, shift or grid.
_FARTHEST = 1.25
#: Larger levels and weights overflow float32, in which samplers run.
_LARGEST = 1e30
#: Name of a card in a repository of the hub.
CARD_FILE = "longstride_card.json"


class Card(documents.Document):
    """A calibrated sampler with everything that is needed to judge and reuse it.

    Attributes:
        format: Always ``"longstride-card"``.
        version: Version of the format.
        longstride: Version of the package that wrote it.
        solver: Name of the calibrated sampler.
        method: Calibration method.
        settings: The method's settings, the number of samples and the seed.
        nfe: Network calls per sample; a guided pair counts as one here, see ``model.guidance``.
        base: The classical solver that it is compared with.
        model: The model that it was calibrated on.
        schedule: Family and network times of the levels.
        data: The table's numbers; :attr:`table` is the table itself.
        base_data: The numbers of the base's table, to compare with and fall back to.
        steps: One report per row that was fitted by itself; empty if all rows were fitted together.
        search: Course of a fit of all rows together, or None.
        end: Errors of whole trajectories on held-out noise.
        calls: All network calls of the calibration, in samples; None on cards before version 3.
        scheduler: Settings of the pipeline's scheduler, or None if no pipeline was calibrated.
        call: The call of the pipeline; None on cards before version 4, and if no pipeline was calibrated.
        guard: Says which samples the base makes again; None if the table is the base's, on older cards, and if the
            guard was switched off.
        normal: The statistics of clean runs of the table, which a :class:`~longstride.Monitor` compares with; None on
            cards before version 5, and if no clean runs were asked for. See :meth:`with_normal`.
    """

    format: Literal["longstride-card"] = "longstride-card"
    version: int = CARD_VERSION
    longstride: str
    solver: str
    method: str
    settings: dict[str, Any]
    nfe: int
    base: SolverInfo
    model: ModelInfo
    schedule: ScheduleInfo
    data: TableData
    base_data: TableData
    steps: list[RowReport]
    search: Search | None = None
    end: EndReport
    calls: int | None = None
    scheduler: dict[str, Any] | None = None
    call: CallInfo | None = None
    guard: Guard | None = None
    normal: Normal | None = None

    @staticmethod
    def of(
        table: SolverTable,
        base: SolverTable,
        method: str,
        settings: Mapping[str, Any],
        model: ModelInfo,
        schedule: Schedule | None,
        report: Report,
        guard: Guard | None = None,
        normal: Normal | None = None,
    ) -> Card:
        """Card of a calibrated ``table``; used by :func:`longstride.calibrate`."""
        times = None if schedule is None else schedule.time(table.sigmas).tolist()
        return Card(
            longstride=__version__,
            solver=table.name,
            method=method,
            settings=dict(settings),
            nfe=table.nfe,
            base=SolverInfo(name=base.name, options=json.loads(json.dumps(dict(base.options)))),
            model=model,
            schedule=ScheduleInfo(family=None if schedule is None else schedule.family, times=times),
            data=TableData.of(table),
            base_data=TableData.of(base),
            steps=list(report.rows),
            search=report.search,
            end=report.end,
            calls=report.calls,
            guard=guard,
            normal=normal,
        )

    @property
    def table(self) -> SolverTable:
        """The table to use: the calibrated table, or the base's numbers if the gate kept the base."""
        return self.data.table(self.solver, self.base.options)

    @property
    def base_table(self) -> SolverTable:
        """The classical table that :attr:`table` is compared with."""
        return self.base_data.table(self.base.name, self.base.options)

    @property
    def unsaid_guidance(self) -> bool:
        """Whether the card was made at the guidance of a pipeline's default without saying it, before version 4."""
        return self.scheduler is not None and self.call is None and self.model.guidance is None

    @property
    def needs_guard(self) -> str | None:
        """Why the card is not for runs that make no sample again, or None if it is."""
        if self.guard is None or not self.guard.needed:
            return None
        return (
            "this card is better than its base only with its guard, which runs in longstride.sample, and for pipelines "
            "in longstride.integrations.pipelines.sample_guarded: use it, or calibrate with guard_share=0"
        )

    def with_normal(self, denoiser: DenoiserLike, noise: Tensor, *, batch_size: int = 64) -> Card:
        """The same card with the statistics of clean runs, which a :class:`~longstride.Monitor` compares with.

        Args:
            denoiser: The network as the card was made for it, bound to the conditions of all samples.
            noise: The first level of :attr:`table` times standard normal noise, shape ``(B, *)``. At least 32 samples;
                256 are usual. Each costs :attr:`nfe` network calls.
            batch_size: Most samples per network call.

        Raises:
            InputError: fewer than 32 runs are finite, or the table makes so many calls that no card can hold their
                statistics.
        """
        return self.model_copy(update={"normal": normal_of(denoiser, noise, self.table, batch_size=batch_size)})

    def check_model(self, model: ModelInfo) -> None:
        """Make sure that the card belongs to ``model``.

        Raises:
            CardError: the weights or the guidance scale differ from the card's.
        """
        self.model.check(model)

    def push_to_hub(self, repo_id: str, filename: str = CARD_FILE, **options: Any) -> str:
        """Upload the card to the hub; read it with ``load_card("user/repo")``. Arguments as in the parent."""
        return super().push_to_hub(repo_id, filename, **options)

    def check_tables(self, where: str) -> None:
        """Make sure that both tables are samplers with the card's number of calls.

        Args:
            where: The file, or the part of a file, that holds the card; for the message.

        Raises:
            CardError: a table is not.
        """
        try:
            tables = (self.table, self.base_table)
            for table in tables:
                check_levels(table.sigmas[list(table.grid)])
                _check_numbers(table)
        except InputError as error:
            raise CardError(f"{where} holds no usable sampler: {error}") from None
        if any(table.nfe != self.nfe for table in tables):
            raise CardError(
                f"{where} says nfe = {self.nfe}, but its tables make {[table.nfe for table in tables]} calls"
            )
        if self.normal is not None and len(self.normal.centre) != len(names(self.nfe)):
            raise CardError(
                f"{where} holds clean runs of {len(self.normal.centre)} statistics, but a run of {self.nfe} calls has "
                f"{len(names(self.nfe))}"
            )
        if self.guard is not None:
            calls = min(self.guard.calls or self.nfe, self.nfe)
            if len(self.guard.weights) != len(names(calls)):
                raise CardError(
                    f"{where} holds a guard of {len(self.guard.weights)} statistics, but a run of {calls} calls has "
                    f"{len(names(calls))}"
                )


def _check_numbers(table: SolverTable) -> None:
    """Make sure that all levels are levels, those within steps too, and that float32 can hold all numbers.

    Raises:
        InputError: they are not, or it cannot.
    """
    if min(table.alphas.min(), table.sigmas.min()) < 0 or (table.alphas + table.sigmas).min() == 0:
        raise InputError("alpha and sigma of a level must be at least 0, and one of them positive")
    weights = [weight for row in table.rows for part in (row.states, row.outputs) for weight in part.values()]
    if max(map(abs, [*weights, *table.alphas, *table.sigmas])) > _LARGEST:
        raise InputError(f"no level and no weight may be larger than {_LARGEST:g}")
    if not (np.isfinite(table.a).all() and np.isfinite(table.b).all()):
        raise InputError("its weights overflow when the rows are put together")


def same_start(first: float, wanted: float) -> bool:
    """Whether a card from level ``first`` serves level ``wanted``: the two differ little, or one is infinite."""
    return not (math.isfinite(first) and math.isfinite(wanted)) or 1 / _FARTHEST < first / wanted < _FARTHEST


def load_card(path: str | Path, **options: Any) -> Card:
    """Read and validate a card.

    Args:
        path: A file written by :meth:`Card.save`, or a repository of the hub, ``"user/repo"`` or
            ``"user/repo/name.json"``.
        **options: Options of ``huggingface_hub.hf_hub_download``, such as ``revision=`` and ``token=``.

    Raises:
        CardError: missing, cut short, edited, written by a newer longstride, or not a card; the message says which.
    """
    return parse_card(documents.read_json(documents.located(path, CARD_FILE, **options)), path)


def parse_card(raw: object, path: str | Path) -> Card:
    """The card in the JSON of a file (:func:`~longstride.documents.read_json`); raises as :func:`load_card`."""
    card = documents.parse(raw, path, Card, "card", CARD_VERSION)
    card.check_tables(str(path))
    return card
