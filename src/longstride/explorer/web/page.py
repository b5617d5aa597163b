"""The page: the scene above, five looks at it below."""

from __future__ import annotations

from nicegui import context, html, ui

from longstride.errors import InputError
from longstride.explorer.about import can_be_guided, facts_of, labels_of
from longstride.explorer.scene import MOST_SAMPLES, Scene
from longstride.explorer.web.calibrate import Calibrate
from longstride.explorer.web.compare import Compare
from longstride.explorer.web.outcome import OutcomePart
from longstride.explorer.web.parts import STYLE, number, tell
from longstride.explorer.web.session import Session
from longstride.explorer.web.steps import Steps
from longstride.explorer.web.weights import Weights
from longstride.explorer.workbench import Workbench

__all__ = ["build"]

_COMPARE, _STEPS, _TABLES, _CALIBRATE, _OUTCOME = "Compare", "Step through", "Tables", "Calibrate", "Proof of concept"
#: Stands for all classes in turn.
_ALL = -1


def build(bench: Workbench) -> None:
    """Build the page of one visitor."""
    _Page(Session(bench, Scene(bench.names[0])))


class _Page:
    def __init__(self, session: Session) -> None:
        self.session = session
        ui.add_css(STYLE)
        ui.colors(primary="#16191d")
        context.client.content.props('role="main"')
        with html.div().classes("ls-head"):
            html.h1("longstride explorer")
            self.facts = ui.label().classes("ls-soft")
        self._scene()
        with ui.tabs().props("no-caps align=left dense").classes("ls-tabs") as self.tabs:
            for name in (_COMPARE, _STEPS, _TABLES, _CALIBRATE, _OUTCOME):
                ui.tab(name)
        with ui.tab_panels(self.tabs, value=_COMPARE, keep_alive=True, animated=False):
            with ui.tab_panel(_COMPARE).classes("ls-panel"):
                self.compare = Compare(session)
            with ui.tab_panel(_STEPS).classes("ls-panel"):
                self.steps = Steps(session)
            with ui.tab_panel(_TABLES).classes("ls-panel"):
                self.weights = Weights(session)
            with ui.tab_panel(_CALIBRATE).classes("ls-panel"):
                Calibrate(session, self._read, self.compare.build)
            with ui.tab_panel(_OUTCOME).classes("ls-panel"):
                OutcomePart(session, self._taken)
        self.tabs.on_value_change(self._look)
        self._adapt()
        ui.timer(0.1, self.draw, once=True)

    def _scene(self) -> None:
        """The fields of the scene."""
        bench, scene = self.session.bench, self.session.scene
        with html.div().classes("ls-bar"):
            self.model = ui.select(list(bench.names), label="Model", value=scene.model, on_change=self._adapt)
            self.model.props("dense outlined options-dense").classes("ls-model")
            self.guidance = number("Guidance", scene.guidance, 0, 100, step=0.5)
            self.label = ui.select({_ALL: "all in turn"}, label="Class", value=_ALL, with_input=True)
            self.label.props("dense outlined options-dense").classes("ls-class")
            self.seed = number("Seed", scene.seed, 0, 10**6, precision=0)
            self.count = number("Samples", scene.count, 1, MOST_SAMPLES, precision=0)
            self.errors = ui.checkbox("Errors against the converged solution", value=self.session.errors)
            self.button = ui.button("Draw", on_click=self.draw).props("no-caps unelevated color=primary")

    def _adapt(self) -> None:
        """Offer what the chosen model can do."""
        try:
            model = self.session.bench.model(str(self.model.value))
        except InputError as error:
            tell(error)
            return
        labels = labels_of(model)
        self.label.set_options({_ALL: "all in turn", **labels}, value=_ALL)
        self.label.set_visibility(bool(labels))
        self.guidance.set_visibility(can_be_guided(model))
        self.guidance.set_value(self.guidance.value if can_be_guided(model) else None)
        self.facts.set_text(facts_of(model))
        self._read()

    def _read(self) -> bool:
        """Take the scene from its fields; whether it can be drawn."""
        label, guidance = self.label.value, self.guidance.value
        try:
            self.session.scene = Scene(
                str(self.model.value),
                None if guidance is None else float(guidance),
                None if label in (None, _ALL) else int(label),
                self.seed.value,
                self.count.value,
            )
        except InputError as error:
            tell(error)
            return False
        self.session.errors = bool(self.errors.value)
        return True

    async def draw(self) -> None:
        """Draw what the fields say."""
        if not self._read() or self.compare.busy:
            return
        self.button.disable()
        try:
            await self.compare.draw()
        finally:
            self.button.enable()
        await self._look()

    async def _look(self) -> None:
        """Renew the part that is looked at, if it shows a drawing."""
        if self.compare.busy:
            return
        if self.tabs.value == _STEPS:
            await self.steps.renew()
        elif self.tabs.value == _TABLES:
            await self.weights.renew()

    async def _taken(self) -> None:
        """Show the scene and the choices of the session, which were chosen elsewhere."""
        scene = self.session.scene
        self.model.set_value(scene.model)
        self._adapt()
        self.guidance.set_value(scene.guidance)
        self.seed.set_value(scene.seed)
        self.compare.build()
        self.tabs.set_value(_COMPARE)
        await self.draw()
