"""The coefficient card: a calibrated sampler as versioned, checked JSON.

A card is text that can be read, compared and reviewed. It is validated when loaded, protected by a checksum against
edits and cut files, bound to a model by the hash of its weights, and never pickled.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import ValidationError

from longstride.card_parts import (
    EndData,
    ModelInfo,
    Part,
    RowData,
    ScheduleInfo,
    SearchData,
    SolverInfo,
    TableData,
)
from longstride.errors import CardError, InputError
from longstride.files import write_atomically
from longstride.grid import check_levels
from longstride.table import SolverTable

if TYPE_CHECKING:
    from longstride.calibration.gate import EndReport
    from longstride.calibration.rows import RowReport
    from longstride.calibration.search import Search
    from longstride.sampler import DenoiserLike

__all__ = ["CARD_VERSION", "Card", "ModelInfo", "load_card"]

#: Version of the format; a card with a higher one was written by a newer longstride.
CARD_VERSION = 2


class Card(Part):
    """A calibrated sampler with everything that is needed to judge and reuse it.

    Attributes:
        format: Always ``"longstride-card"``.
        version: Version of the format.
        longstride: Version of the package that wrote it.
        solver: Name of the calibrated sampler.
        method: Calibration method.
        settings: The method's settings, the number of samples and the seed.
        nfe: Network calls per sample; a guided pair counts as one here, see ``model.guidance``.
        base: The classical solver that it started from.
        model: What it was calibrated on.
        schedule: Family and network times of the levels.
        data: The table's numbers; :attr:`table` is the table itself.
        base_data: The numbers of the base on the same levels, to compare with and fall back to.
        steps: One report per fitted row; none where all were fitted together.
        search: How a fit of all rows together went, or None.
        end: Whole trajectories on held-out noise.
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
    steps: list[RowData]
    search: SearchData | None = None
    end: EndData

    @staticmethod
    def of(
        table: SolverTable,
        *,
        base: SolverTable,
        method: str,
        settings: Mapping[str, Any],
        model: ModelInfo,
        denoiser: DenoiserLike,
        rows: Iterable[RowReport],
        end: EndReport,
        search: Search | None = None,
    ) -> Card:
        """Card of a calibrated ``table``; used by :func:`longstride.calibrate`."""
        from longstride import __version__

        schedule = getattr(denoiser, "schedule", None)
        times = None if schedule is None else schedule.time(table.sigmas).tolist()
        end_data = asdict(end)
        if not math.isfinite(end.reference_error):
            end_data["reference_error"] = None
        if end.stability is not None and not math.isfinite(end.stability.gain + end.stability.base_gain):
            end_data["stability"] = None
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
            steps=[RowData(**json.loads(json.dumps(asdict(row)))) for row in rows],
            search=None if search is None else SearchData(**json.loads(json.dumps(asdict(search)))),
            end=EndData(**json.loads(json.dumps(end_data))),
        )

    @property
    def table(self) -> SolverTable:
        """The calibrated sampler."""
        return self.data.table(self.solver, self.base.options)

    @property
    def base_table(self) -> SolverTable:
        """The classical sampler on the same levels."""
        return self.base_data.table(self.base.name, self.base.options)

    def check_model(self, model: ModelInfo) -> None:
        """Make sure that the card belongs to ``model``.

        Raises:
            CardError: the weights differ from those that it was calibrated on, or the guidance scale does.
        """
        mine = self.model
        if mine.fingerprint and model.fingerprint and mine.fingerprint != model.fingerprint:
            raise CardError(
                f"this card was calibrated on {mine.name!r} (weights {mine.fingerprint[:12]}), not on {model.name!r} "
                f"(weights {model.fingerprint[:12]}): calibrate again with `longstride calibrate`, or force its use "
                "with --any-model"
            )
        if mine.guidance != model.guidance:
            raise CardError(
                f"this card was calibrated at guidance {mine.guidance}, not {model.guidance}: use that scale, or "
                "calibrate again"
            )

    def dumps(self) -> str:
        """The card as JSON text, checksum included."""
        content = self.model_dump(mode="json")
        return json.dumps({**content, "checksum": _checksum(content)}, indent=1, allow_nan=False) + "\n"

    def save(self, path: str | Path) -> None:
        """Write the card; an existing file is replaced in one step, and nothing half-written is left behind.

        Raises:
            InputError: the path cannot be written.
        """
        write_atomically(Path(path), self.dumps().encode())


def _checksum(content: Mapping[str, Any]) -> str:
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return "sha256:" + hashlib.sha256(canonical.encode()).hexdigest()


def _refuse(number: str) -> float:
    raise ValueError(f"{number} is no finite number")


def _finite(number: str) -> float:
    return value if math.isfinite(value := float(number)) else _refuse(number)


def load_card(path: str | Path) -> Card:
    """Read and validate a card.

    Args:
        path: A file written by :meth:`Card.save`.

    Raises:
        CardError: missing, cut short, edited, written by a newer longstride, or not a card; says which.
    """
    file = Path(path)
    try:
        raw = json.loads(file.read_text(encoding="utf-8"), parse_constant=_refuse, parse_float=_finite)
    except OSError as error:
        raise CardError(f"cannot read card {file}: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:
        raise CardError(f"{file} is not complete JSON (cut short or damaged: {error}): calibrate again") from None
    if not isinstance(raw, dict) or raw.get("format") != "longstride-card":
        raise CardError(f'{file} is no longstride card: expected JSON with "format": "longstride-card"')
    version = raw.get("version")
    if isinstance(version, int) and version > CARD_VERSION:
        raise CardError(
            f"{file} has card version {version}, this longstride reads up to {CARD_VERSION}: upgrade longstride"
        )
    checksum = raw.pop("checksum", None)
    try:
        card = Card.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
        raise CardError(f"{file} is not a valid card: {where}: {first['msg']}{more}") from None
    if checksum != _checksum(raw):
        raise CardError(f"{file} was edited or damaged: its checksum does not match; calibrate again")
    try:
        tables = (card.table, card.base_table)
        for table in tables:
            check_levels(table.sigmas[list(table.grid)])
    except InputError as error:
        raise CardError(f"{file} holds no usable sampler: {error}") from None
    if any(table.nfe != card.nfe for table in tables):
        raise CardError(f"{file} says nfe = {card.nfe}, but its tables make {[table.nfe for table in tables]} calls")
    return card
