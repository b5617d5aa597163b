"""The run of one sample, call by call, by all samplers side by side."""

from __future__ import annotations

import math
from typing import Any

from nicegui import html, ui

from longstride.explorer.pictures import Film, film_of
from longstride.explorer.web.parts import Failed, picture, tell, work
from longstride.explorer.web.session import Session

__all__ = ["Steps"]


class Steps:
    """The part of the page that steps through trajectories.

    Args:
        session: The page's choices.
    """

    def __init__(self, session: Session) -> None:
        self.session = session
        self.columns: list[_Column] = []
        self.turn, self.position = 0, 1
        self.seen: object = None
        with html.div().classes("ls-bar"):
            self.noise = ui.select([1], value=1, label="Noise", on_change=self.show)
            self.noise.props("dense outlined options-dense").classes("ls-number")
            ui.label("Network call").classes("ls-soft")
            # A range of the browser itself: the keys of Quasar's slider do not reach its role.
            self.slider = html.input_(type="range", min=1, max=2, value=1).classes("ls-range")
            self.slider.props('aria-label="Network call"')
            self.slider.on("input", lambda event: self._go(int(event.args)), js_handler="(e) => emit(e.target.value)")
            self.told = ui.label().classes("ls-soft")
        self.place = html.div().classes("ls-columns")

    async def renew(self) -> None:
        """Show what was drawn last, unless it is shown."""
        if self.seen is self.session.shown or self.session.drawn is None:
            return
        self.seen = self.session.shown
        numbers = list(range(1, int(self.session.drawn.count) + 1))
        self.noise.set_options(numbers, value=min(int(self.noise.value), len(numbers)))
        await self.show()

    async def show(self) -> None:
        """Show the runs of the chosen noise; of several calls the last one stays."""
        self.turn += 1
        turn, scene, good = self.turn, self.session.drawn, self.session.good
        if scene is None:
            return
        try:
            model = self.session.bench.model(scene.model)
            films = [await work(film_of, model, one.drawn, int(self.noise.value) - 1) for one in good]
        except Failed as error:
            tell(error)
            return
        if turn != self.turn:
            return
        self.place.clear()
        with self.place:
            self.columns = [_Column(one.drawn.sampler.label, film) for one, film in zip(good, films, strict=True)]
        self.slider.props["max"] = self._most + 1
        self._go(min(self.position, self._most + 1))

    @property
    def _most(self) -> int:
        return max((column.film.calls for column in self.columns), default=1)

    def _go(self, position: int) -> None:
        """Show a call of all samplers, from 1; beyond the last one, the end."""
        self.position = position
        with self.slider.props.suspend_updates():  # the browser has it already
            self.slider.props["value"] = position
        self.told.set_text("the end" if position > self._most else f"{position} of {self._most}")
        for column in self.columns:
            column.go(position)


class _Column:
    """A sampler's run."""

    def __init__(self, label: str, film: Film) -> None:
        self.film = film
        with html.div().classes("ls-column"):
            html.h2(label)
            self.told = ui.label().classes("ls-soft")
            with html.div().classes("ls-pair"):
                with html.figure().classes("ls-cell"):
                    self.prediction = picture(film.predictions[0], f"{label}: clean prediction", "ls-small")
                    html.figcaption("clean prediction")
                with html.figure().classes("ls-cell"):
                    self.state = picture(film.states[0], f"{label}: state", "ls-small")
                    html.figcaption("state")
            with html.div().classes("ls-film"):
                self.film_strip: list[Any] = [
                    picture(source, f"{label}: " + (f"prediction {n + 1}" if n < film.calls else "end"), "ls-small")
                    for n, source in enumerate(film.predictions)
                ]

    def go(self, position: int) -> None:
        """Show a call, from 1; beyond the last one, the end."""
        n = min(position - 1, self.film.calls)
        for element, sources in ((self.prediction, self.film.predictions), (self.state, self.film.states)):
            element.props["src"] = sources[n]
        for place, element in enumerate(self.film_strip):
            element.classes(add="ls-now" if place == n else "", remove="" if place == n else "ls-now")
        if n == self.film.calls:
            again = ", made again by the base" if self.film.flagged else ""
            self.told.set_text(f"end after {self.film.calls} calls{again}")
        else:
            ratio = self.film.ratios[n]
            level = "pure noise" if math.isinf(ratio) else f"σ/α = {ratio:.3g}"
            self.told.set_text(f"call {n + 1} of {self.film.calls} · {level}")
