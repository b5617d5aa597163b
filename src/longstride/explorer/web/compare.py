"""The samplers of a scene, one in a row, the same noise in a column."""

from __future__ import annotations

from typing import Any

import numpy as np
from nicegui import html, ui

from longstride.arrays import Array
from longstride.errors import InputError
from longstride.explorer.drawing import REFERENCE_STEPS, errors_of
from longstride.explorer.pictures import pictures_of
from longstride.explorer.samplers import GRID_NAMES
from longstride.explorer.scene import MOST_CALLS, MOST_SAMPLERS, Choice, Classical
from longstride.explorer.web.parts import Failed, number, picture, tell, work
from longstride.explorer.web.session import Session
from longstride.explorer.workbench import Shown

__all__ = ["Compare"]

#: Narrower pictures are shown pixel by pixel.
_SHARP = 96


class Compare:
    """The part of the page that draws.

    Args:
        session: The page's choices.
    """

    def __init__(self, session: Session) -> None:
        self.session = session
        self.rows: list[_Row] = []
        self.busy = False
        self.place = html.div()
        with html.div().classes("ls-bar"):
            self.more = ui.button("Add a sampler", icon="add", on_click=self._add).props("outline dense no-caps")
            self.note = ui.label().classes("ls-soft")
        self.build()

    def build(self) -> None:
        """Make the rows anew, from the choices."""
        self.place.clear()
        with self.place:
            self.rows = [_Row(self, n, choice) for n, choice in enumerate(self.session.choices)]
            self.converged = html.div().classes("ls-row").props("data-converged")
        self.more.set_visibility(len(self.rows) < MOST_SAMPLERS)

    def _add(self) -> None:
        try:
            self.read()
        except InputError as error:
            tell(error)
            return
        self.session.add(Classical("heun" if len(self.rows) else "unipc3", 6))
        self.build()

    def remove(self, number: int) -> None:
        """Take a sampler away."""
        del self.session.choices[number]
        self.build()

    def read(self) -> None:
        """Take the choices from the fields.

        Raises:
            InputError: a field is empty or out of its bounds.
        """
        self.session.choices = [row.read() for row in self.rows]

    async def draw(self) -> None:
        """Draw the scene by every sampler, one after another."""
        if self.busy:
            return
        self.busy = True
        try:
            self.read()
            await self._draw()
        except (Failed, InputError) as error:
            tell(error)
        finally:
            self.busy = False
            self.note.set_text("")

    async def _draw(self) -> None:
        session = self.session
        scene, errors = session.scene, session.errors
        session.shown, session.drawn = [], scene
        self.converged.clear()
        for row, choice in zip(self.rows, session.choices, strict=True):
            row.wait()
            self.note.set_text(f"sampler {len(session.shown) + 1} of {len(self.rows)} …")
            try:
                session.shown.append(await work(session.bench.show, scene, choice, errors=errors))
            except Failed as error:
                session.shown.append(str(error))
                row.fail(str(error))
                continue
            await self._show(row, session.shown[-1])
        self._mark()
        if errors and session.good:
            await self._show_converged(session.good[0])

    async def _show(self, row: _Row, shown: Shown | str) -> None:
        if isinstance(shown, Shown):
            assert self.session.drawn is not None
            model = self.session.bench.model(self.session.drawn.model)
            row.show(shown, await work(pictures_of, model, shown.drawn.samples))

    async def _show_converged(self, shown: Shown) -> None:
        reference = shown.reference
        assert reference is not None
        assert self.session.drawn is not None
        model = self.session.bench.model(self.session.drawn.model)
        sources = await work(pictures_of, model, reference.samples)
        with self.converged:
            with html.div():
                html.h2("Converged").style("font-size: 1rem; font-weight: 700; margin: 0; line-height: 1.5")
                ui.label(f"UniPC in {REFERENCE_STEPS} steps; its own error is about {reference.error:.1g}").classes(
                    "ls-soft"
                )
            _strip(sources, ["" for _ in sources], "converged")

    def _mark(self) -> None:
        """Set the least error of every noise in bold."""
        errors = [row.errors for row in self.rows if row.errors is not None]
        if len(errors) < 2:
            return
        least = np.min(errors, axis=0)
        for row in self.rows:
            if row.errors is not None:
                for caption, mine, best in zip(row.captions, row.errors, least, strict=True):
                    caption.classes(add="ls-least" if mine == best else "")


class _Row:
    """A sampler: its fields, its numbers and its pictures."""

    def __init__(self, owner: Compare, number_: int, choice: Choice) -> None:
        self.errors: Array | None = None
        self.captions: list[Any] = []
        session, name = owner.session, f"Sampler {number_ + 1}"
        options = session.options()
        key = session.key(choice)
        with html.div().classes("ls-row").props(f'data-row="{number_}"'):
            with html.div().classes("ls-controls"):
                self.key = ui.select(
                    options, label=name, value=key if key in options else None, on_change=self._adapt, with_input=True
                )
                self.key.props("dense outlined options-dense").classes("ls-wide")
                remove = ui.button(icon="close", on_click=lambda: owner.remove(number_)).props("flat dense round")
                remove.props(f'aria-label="Remove sampler {number_ + 1}"')
                self.calls = number("Calls", choice.calls, 1, MOST_CALLS, precision=0).classes("ls-calls")
                grid = choice.grid if isinstance(choice, Classical) else "auto"
                self.grid = ui.select(list(GRID_NAMES), label="Levels", value=grid)
                self.grid.props("dense outlined options-dense").classes("ls-levels")
                self.facts = html.div().classes("ls-facts")
            self.body = html.div()
        self.kinds = session.bench.shelf.files()
        self._adapt()

    def _adapt(self) -> None:
        """Show what can be chosen: a card brings its levels and its number of calls, a book its levels."""
        kind, _, name = str(self.key.value or "").partition(":")
        self.grid.set_visibility(kind == "solver")
        self.calls.set_visibility(self.kinds.get(name) != "card")

    def read(self) -> Choice:
        if self.key.value is None or self.calls.value is None:
            raise InputError("every row needs a sampler and a number of network calls")
        return Session.choice(str(self.key.value), int(self.calls.value), str(self.grid.value))

    def wait(self) -> None:
        """Show that work goes on."""
        self.errors, self.captions = None, []
        self.facts.clear()
        self.body.clear()
        with self.body:
            ui.spinner(size="2rem")

    def fail(self, text: str) -> None:
        """Show why there are no pictures."""
        self.body.clear()
        with self.body:
            html.div(text).classes("ls-wrong").props("role=alert")

    def show(self, shown: Shown, sources: list[str]) -> None:
        """Show the samples and their errors."""
        drawn = shown.drawn
        self.errors = None if shown.reference is None else errors_of(drawn, shown.reference)
        captions = ["" for _ in sources] if self.errors is None else [f"{error:.3f}" for error in self.errors]
        captions = [f"{text} ↻".strip() if flag else text for text, flag in zip(captions, drawn.flagged, strict=True)]
        self.body.clear()
        with self.body:
            self.captions = _strip(sources, captions, drawn.sampler.label)
        self.facts.clear()
        with self.facts:
            ui.label(f"{drawn.spent:g} network calls per sample")
            if self.errors is not None:
                rmse, median = float(np.sqrt(np.mean(self.errors**2))), float(np.median(self.errors))
                with html.div():
                    html.span("RMSE ")
                    html.b(f"{rmse:.4f}")
                    html.span(f" · median {median:.4f}")
            if any(drawn.flagged):
                ui.label(f"↻ made again by the base: {sum(drawn.flagged)}").classes("ls-soft")
            if drawn.sampler.note:
                ui.label(drawn.sampler.note).classes("ls-soft")


def _strip(sources: list[str], captions: list[str], what: str) -> list[Any]:
    """Pictures in a line; their captions."""
    found = []
    with html.div().classes("ls-strip"):
        for n, (source, caption) in enumerate(zip(sources, captions, strict=True)):
            with html.figure().classes("ls-cell"):
                picture(source, f"{what}, noise {n + 1}", "ls-small")
                found.append(html.figcaption(caption))
    return found
