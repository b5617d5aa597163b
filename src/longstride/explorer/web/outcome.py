"""A finished proof of concept: what it says, and its samplers to look at."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from nicegui import html, ui

from longstride.explorer.findings import Finding, finding_of
from longstride.explorer.web.parts import Failed, picture, tell, work
from longstride.explorer.web.session import Session
from longstride.report.outcome import Pair

__all__ = ["OutcomePart"]

_MARKS = {1: "+", 0: "!", -1: "−"}
_WORDS = (
    "Outcomes of longstride poc in the folder of the explorer, such as report.files/outcome.json. There is none yet: "
    "run longstride poc MODEL --quick in that folder, and load this page again."
)


class OutcomePart:
    """The part of the page that shows an outcome.

    Args:
        session: The page's choices.
        draw: Draws the choices of the session.
    """

    def __init__(self, session: Session, draw: Callable[[], Awaitable[None]]) -> None:
        self.session, self.draw = session, draw
        names = session.bench.shelf.outcomes()
        if not names:
            ui.label(_WORDS).classes("ls-text ls-soft")
            return
        self.which = ui.select(names, label="Outcome", value=None, on_change=self.show)
        self.which.props("dense outlined options-dense").style("width: 22rem; max-width: 100%")
        self.place = html.div().classes("ls-text").style("margin-top: 1rem")

    async def show(self) -> None:
        """Show the chosen outcome."""
        self.place.clear()
        try:
            found = await work(finding_of, self.session.bench.shelf, str(self.which.value))
        except Failed as error:
            tell(error)
            return
        with self.place:
            html.h2(found.recommendation)
            html.p(found.headline)
            for speaks, text in found.reasons:
                html.div(f"{_MARKS[speaks]} {text}")
            with html.div().classes("ls-bar"):
                button = ui.button("Draw its samplers", on_click=lambda: self._take(found))
                button.props("no-caps unelevated color=primary")
            for pair in found.flips[:1]:
                _pictures(pair, found)
            _table(found)

    async def _take(self, found: Finding) -> None:
        """Put the samplers of the outcome side by side."""
        session = self.session
        try:
            await work(session.bench.model, found.scene.model)
        except Failed as error:
            tell(error)
            return
        session.scene, session.choices = found.scene, list(found.choices)
        await self.draw()


def _pictures(pair: Pair, found: Finding) -> None:
    shown = (
        ("today's sampler", pair.today),
        (f"the same, {found.calls} calls", pair.fewer),
        (f"calibrated, {found.calls} calls", pair.calibrated),
        ("converged", pair.converged),
    )
    with html.div().classes("ls-strip").style("max-width: 34rem; grid-template-columns: repeat(4, 1fr)"):
        for text, source in shown:
            if source is not None:
                with html.figure().classes("ls-cell"):
                    picture(source, text, "ls-small")
                    html.figcaption(text)


def _table(found: Finding) -> None:
    if not found.lines:
        return
    with html.div().classes("ls-scroll").style("margin-top: 1rem"), html.table().classes("ls-plain"):
        with html.thead(), html.tr():
            for text in ("sampler", "calls", "RMSE", "relative to today's"):
                html.th(text)
        with html.tbody():
            for line in found.lines:
                with html.tr():
                    for text in (line.label, str(line.calls), f"{line.rmse:.4f}", line.ratio):
                        html.td(text)
