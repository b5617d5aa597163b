"""The tables of the samplers: weights, levels, and what calibration changed."""

from __future__ import annotations

from nicegui import html, ui

from longstride.explorer.figures import levels_figure, weights_figure
from longstride.explorer.web.parts import Failed, picture, tell, work
from longstride.explorer.web.session import Session

__all__ = ["Weights"]

_WORDS = (
    "A sampler is one triangular table: state x_k is a weighted sum of the first state x0 and of all clean predictions "
    "D_j before it. Two samplers are the same exactly if these weights and their levels are."
)


class Weights:
    """The part of the page that shows tables.

    Args:
        session: The page's choices.
    """

    def __init__(self, session: Session) -> None:
        self.session = session
        self.turn = 0
        self.seen: object = None
        ui.label(_WORDS).classes("ls-text ls-soft")
        self.which = ui.toggle({}, on_change=self.show).props(
            "no-caps unelevated color=grey-3 text-color=black toggle-color=primary"
        )
        self.place = html.div().classes("ls-scroll")

    async def renew(self) -> None:
        """Offer what was drawn last, a calibrated table first, unless it is shown."""
        if self.seen is self.session.shown:
            return
        self.seen = self.session.shown
        good = [one.drawn.sampler for one in self.session.good]
        options = {n: f"{one.label}, {one.table.nfe} calls" for n, one in enumerate(good)}
        first = next((n for n, one in enumerate(good) if one.base is not None), 0 if good else None)
        self.which.set_options(options, value=first)
        await self.show()

    async def show(self) -> None:
        """Draw the chosen table; of several calls the last one stays."""
        self.turn += 1
        turn = self.turn
        if self.which.value is None or int(self.which.value) >= len(self.session.good):
            return
        sampler = self.session.good[int(self.which.value)].drawn.sampler
        try:
            sources = [await work(weights_figure, sampler), await work(levels_figure, sampler)]
        except Failed as error:
            tell(error)
            return
        if turn != self.turn:
            return
        changed = f", of its base {sampler.base_label}, and their difference" if sampler.base is not None else ""
        self.place.clear()
        with self.place:
            picture(sources[0], f"Weights of {sampler.label}{changed}", "ls-figure")
            picture(sources[1], f"Noise levels of {sampler.label}{' and of its base' * bool(changed)}", "ls-figure")
