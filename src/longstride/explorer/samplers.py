"""From a choice to a sampler: its table, and for calibrated ones the card."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from longstride.book import CardBook
from longstride.book_parts import Unjudged
from longstride.card import Card
from longstride.card_parts import ModelInfo
from longstride.errors import CardError, InputError
from longstride.evaluation.contestants import CONTESTANTS, base_table, card_label, contestant
from longstride.explorer.scene import Choice, Classical, FromFile, Scene
from longstride.explorer.shelf import Shelf
from longstride.grid import GRIDS
from longstride.table import SolverTable
from longstride.zoo import Model

__all__ = ["GRID_NAMES", "Sampler", "sampler_of", "solver_labels"]

#: Grids that a classical solver can stand on.
GRID_NAMES = ("auto", *(name for name in GRIDS if name != "explicit"))


@dataclass(frozen=True, eq=False)
class Sampler:
    """A sampler to be shown.

    Attributes:
        label: For people.
        table: Its table.
        base: The classical table that a calibrated one is compared with; None for a classical solver, and for a card
            that holds its base.
        base_label: The base for people; empty without one.
        guarded: The card, if its guard makes samples again.
        note: What must be known of it; empty if nothing.
    """

    label: str
    table: SolverTable
    base: SolverTable | None = None
    base_label: str = ""
    guarded: Card | None = None
    note: str = ""


def solver_labels() -> dict[str, str]:
    """Every solver and its forms, with the names for people."""
    return {name: one.label for name, one in CONTESTANTS.items() if one.method is None}


def sampler_of(model: Model, scene: Scene, choice: Choice, shelf: Shelf) -> Sampler:
    """The sampler of a choice.

    Args:
        model: The model of the scene.
        scene: Its guidance must be the card's.
        choice: What was chosen.
        shelf: Where cards and books are.

    Raises:
        InputError: the solver cannot spend so many calls, or the card is of another model or setting.
        CardError: the file is damaged.
    """
    if isinstance(choice, Classical):
        return _classical(model, choice)
    return _calibrated(model, scene, choice, shelf)


def _classical(model: Model, choice: Classical) -> Sampler:
    one = contestant(choice.solver)
    if one.method is not None:
        raise InputError(f"{one.label} is calibrated: calibrate a card, and choose the card")
    grid = one.grid if choice.grid == "auto" and one.grid is not None else choice.grid
    table = base_table(model.schedule, one.solver, int(choice.calls), grid=grid, **one.options)
    return Sampler(one.label if choice.grid == "auto" else f"{one.label} on {choice.grid}", table)


def _calibrated(model: Model, scene: Scene, choice: FromFile, shelf: Shelf) -> Sampler:
    loaded, name = shelf.load(choice.file), Path(choice.file).name.removesuffix(".json")
    found = loaded.choose(int(choice.calls), scene.guidance) if isinstance(loaded, CardBook) else loaded
    _check(found, model.info(scene.guidance), choice.file)
    near = found.near if isinstance(found, Unjudged) else found
    base_label = card_label(near.base.name if near.search is None else near.search.base)
    note = found.note if isinstance(found, Unjudged) else ""
    if found.table.distance(found.base_table) == 0:
        kept = note or "the gate kept the base"
        return Sampler(f"{name}: {base_label}", found.table, note=kept)
    guarded = found if isinstance(found, Card) and found.guard is not None else None
    return Sampler(name, found.table, found.base_table, base_label, guarded, note)


def _check(found: Card | Unjudged, model: ModelInfo, file: str) -> None:
    """Make sure that a card belongs to the model at its guidance.

    Raises:
        InputError: it does not; the message says what to choose.
    """
    card = found.near if isinstance(found, Unjudged) else found
    if card.scheduler is not None:
        raise InputError(f"{file} is the card of a whole pipeline: draw with longstride sample --pipeline --card")
    try:
        found.check_model(model)
    except CardError:
        made = found.model
        if made.fingerprint and model.fingerprint and made.fingerprint != model.fingerprint:
            raise InputError(
                f"{file} was calibrated on the model {made.name!r}, not on {model.name!r}: choose that model, or "
                "calibrate a card for this one"
            ) from None
        said = ["no guidance" if scale is None else f"guidance {scale:g}" for scale in (made.guidance, model.guidance)]
        raise InputError(f"{file} was calibrated with {said[0]}, not with {said[1]}: set {said[0]}") from None
