"""Calibration from the page: settings, progress as it goes, and the card."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from nicegui import html, ui

from longstride.calibration import Calibration
from longstride.errors import LongstrideError
from longstride.explorer.calibrating import Effort, cost_of, method_labels, summary_of, usual_effort
from longstride.explorer.scene import MOST_CALLS, FromFile
from longstride.explorer.web.parts import Failed, number, tell, work
from longstride.explorer.web.session import Session

__all__ = ["Calibrate"]

#: The page looks so often at the progress, in seconds.
_LOOK = 0.25
_WORDS = (
    "Fits the model of the scene at its guidance, on noise that no scene shows. Held-out samples decide whether the "
    "calibrated table is kept. A calibration takes minutes on a small network; the page may be used meanwhile."
)


@dataclass
class _Progress:
    """How far a calibration is; written by its thread, read by the page."""

    done: int = 0
    total: int = 1
    what: str = "converging"
    began: float = 0.0

    def __call__(self, done: int, total: int, what: str) -> None:
        self.done, self.total, self.what = done, total, what

    @property
    def text(self) -> str:
        passed = time.monotonic() - self.began
        return f"{self.what}, step {self.done} of {self.total}, {passed:.0f} s"


class Calibrate:
    """The part of the page that calibrates.

    Args:
        session: The page's choices.
        read: Takes the scene from the page's fields; whether it can be used.
        saved: Called when a card has been written and added to the choices.
    """

    def __init__(self, session: Session, read: Callable[[], bool], saved: Callable[[], None]) -> None:
        self.session, self.read, self.saved = session, read, saved
        self.found: Calibration | None = None
        self.progress = _Progress()
        usual = usual_effort(6)
        ui.label(_WORDS).classes("ls-text ls-soft")
        with html.div().classes("ls-bar"):
            self.method = ui.select(method_labels(), value=usual.method, label="Method", on_change=self._adapt)
            self.method.props("dense outlined options-dense").classes("ls-wide")
            options = {"precision": 0, "on_change": self._tell_cost}
            self.calls = number("Calls", usual.calls, 1, MOST_CALLS, precision=0, on_change=self._adapt)
            self.fitted = number("Fitted", usual.fitted, 1, 10_000, **options)
            self.held_out = number("Held out", usual.held_out, 1, 10_000, **options)
            self.scouts = number("Starts", usual.scouts, 0, 20, **options)
            self.iterations = number("Steps", usual.iterations, 1, 50, **options)
            self.seed = number("Seed", 0, 0, 10**6, precision=0)
        self.cost = ui.label().classes("ls-soft")
        with html.div().classes("ls-bar"):
            self.start = ui.button("Calibrate", on_click=self.run).props("no-caps unelevated color=primary")
            self.stop = ui.button("Stop", on_click=session.bench.stop).props("no-caps outline")
            self.bar = ui.linear_progress(0, show_value=False).style("width: 18rem; max-width: 100%")
            self.bar.props('aria-label="Progress of the calibration"')
            self.state = ui.label().classes("ls-soft").props("role=status")
        self.result = html.div().classes("ls-text").props("role=status data-result")
        with html.div().classes("ls-bar") as self.keep:
            self.name = ui.input("File name", value="card.json").props("dense outlined").classes("ls-wide")
            ui.button("Save the card", on_click=self.save).props("no-caps unelevated color=primary")
        self.timer = ui.timer(_LOOK, self._look, active=False)
        self._show_running(False)
        self.keep.set_visibility(False)
        self._tell_cost()

    def _show_running(self, running: bool) -> None:
        self.start.set_enabled(not running)
        for part in (self.stop, self.bar, self.state):
            part.set_visibility(running)
        self.timer.active = running

    def _adapt(self) -> None:
        """The usual numbers of a method and a number of calls."""
        try:
            usual = usual_effort(int(self.calls.value or 1), str(self.method.value))
        except LongstrideError as error:
            self.cost.set_text(str(error))
            return
        self.fitted.set_value(usual.fitted)
        self.held_out.set_value(usual.held_out)
        for name in ("scouts", "iterations"):
            getattr(self, name).set_visibility(name in usual.settings)
        self._tell_cost()

    def _effort(self) -> Effort:
        names = ("calls", "fitted", "held_out", "iterations", "scouts", "seed")
        values = {name: int(getattr(self, name).value or 0) for name in names}
        return Effort(method=str(self.method.value), **values)

    def _tell_cost(self) -> None:
        try:
            text = cost_of(self._effort(), self.session.scene.guidance)
        except LongstrideError as error:
            text = str(error)
        self.cost.set_text(text)

    def _look(self) -> None:
        self.bar.set_value(self.progress.done / max(1, self.progress.total))
        self.state.set_text(self.progress.text)

    async def run(self) -> None:
        """Calibrate, and say what came of it."""
        if not self.read():
            return
        self.progress = _Progress(began=time.monotonic())
        self.result.clear()
        self.keep.set_visibility(False)
        self._look()
        self._show_running(True)
        try:
            scene, effort = self.session.scene, self._effort()
            self.found = await work(self.session.bench.calibrate, scene, effort, self.progress)
        except (Failed, LongstrideError) as error:
            with self.result:
                html.span(str(error)).classes("ls-wrong")
            return
        finally:
            self._show_running(False)
        with self.result:
            html.span(summary_of(self.found))
        self.name.set_value(f"card-{effort.calls}.json")
        self.keep.set_visibility(True)

    def save(self) -> None:
        """Write the card, and add it to the samplers."""
        if self.found is None:
            return
        try:
            name = self.session.bench.shelf.save(self.found.card, str(self.name.value or ""))
        except LongstrideError as error:
            tell(error)
            return
        self.session.add(FromFile(name, self.found.card.nfe))
        self.keep.set_visibility(False)
        with self.result:
            html.span(f" Saved as {name}, and added to the samplers.")
        self.saved()
