"""What all pages of an explorer share: models, the shelf, and what was drawn last."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from threading import Event, Lock
from typing import TypeVar

from longstride.calibration import Calibration
from longstride.calibration.reference.solve import Reference
from longstride.errors import InputError, one_line
from longstride.explorer.calibrating import Effort, Stopped, calibrate_card
from longstride.explorer.drawing import Drawn, converge, draw
from longstride.explorer.samplers import sampler_of
from longstride.explorer.scene import Choice, FromFile, Scene
from longstride.explorer.shelf import Shelf
from longstride.table import SolverTable
from longstride.zoo import Model, load_model

__all__ = ["Shown", "Workbench"]

T = TypeVar("T")
#: Results that are kept: those of a few scenes.
_KEPT = 24


@dataclass(frozen=True, eq=False)
class Shown:
    """A sampler of a scene.

    Attributes:
        drawn: What it drew.
        reference: The converged solution that its errors are measured against, or None if none was asked for.
    """

    drawn: Drawn
    reference: Reference | None


class Workbench:
    """Models, a shelf and a memory of results. Every method may be called from several threads.

    Args:
        models: Names of the models that may be chosen. No other is loaded: a page cannot name a file or a module.
        shelf: Cards, books and outcomes.
        device: Device of the networks.
    """

    def __init__(self, models: Sequence[str], shelf: Shelf, device: str = "cpu") -> None:
        self.names, self.shelf, self.device = tuple(dict.fromkeys(models)), shelf, device
        self._models: dict[str, Model] = {}
        self._kept: OrderedDict[Hashable, object] = OrderedDict()
        self._loading, self._memory, self._calibrating = Lock(), Lock(), Lock()
        self._stop = Event()

    def model(self, name: str) -> Model:
        """A model by its name; it is loaded once.

        Raises:
            InputError: it is not among the names, cannot be loaded, or makes no pictures.
        """
        if name not in self.names:
            raise InputError(
                f"the model {one_line(name)!r} is not among {', '.join(self.names)}: stop the explorer, and start it "
                "with the names of all models after longstride ui"
            )
        with self._loading:
            if name not in self._models:
                found = load_model(name, device=self.device)
                found.check_pictures()
                self._models[name] = found
            return self._models[name]

    def show(self, scene: Scene, choice: Choice, *, errors: bool = False) -> Shown:
        """Draw a scene by a sampler.

        Args:
            scene: The samples.
            choice: The sampler.
            errors: Whether the scene is solved until it has converged, too.

        Raises:
            InputError: what was chosen does not fit together; the message says what to choose.
            CardError: a file is damaged.
            NonFiniteError: the network returned NaN or infinity.
        """
        model = self.model(scene.model)
        stamp = self.shelf.stamp(choice.file) if isinstance(choice, FromFile) else 0

        def made() -> Drawn:
            return draw(model, scene, sampler_of(model, scene, choice, self.shelf))

        drawn = self._remembered((scene, choice, stamp), made)
        return Shown(drawn, self.converged(scene, drawn.sampler.table) if errors else None)

    def converged(self, scene: Scene, table: SolverTable) -> Reference:
        """The converged solution of a scene between the first and the last level of a table."""
        ends = tuple(float(levels[n]) for levels in (table.alphas, table.sigmas) for n in (0, -1))
        return self._remembered((scene, ends), lambda: converge(self.model(scene.model), scene, table))

    def calibrate(
        self,
        scene: Scene,
        effort: Effort,
        progress: Callable[[int, int, str], None],
    ) -> Calibration:
        """Calibrate the model of a scene at its guidance; one calibration at a time.

        Args:
            scene: Its model and guidance.
            effort: How.
            progress: Called with (steps done, steps in all, what is being done).

        Raises:
            Stopped: :meth:`stop` was called.
            InputError: another calibration runs, or what was chosen does not fit together.
            NonFiniteError: the network returned NaN or infinity.
        """
        if not self._calibrating.acquire(blocking=False):
            raise InputError("a calibration is running already: wait for it, or stop it where it was started")

        def say(done: int, total: int, what: str) -> None:
            if self._stop.is_set():
                raise Stopped("the calibration was stopped; nothing was kept")
            progress(done, total, what)

        try:
            self._stop.clear()
            return calibrate_card(self.model(scene.model), scene.guidance, effort, say)
        finally:
            self._calibrating.release()

    def stop(self) -> None:
        """End the calibration that runs, if any, at its next step."""
        self._stop.set()

    def _remembered(self, key: Hashable, make: Callable[[], T]) -> T:
        with self._memory:
            if key in self._kept:
                self._kept.move_to_end(key)
                found: T = self._kept[key]  # type: ignore[assignment]
                return found
        made = make()
        with self._memory:
            self._kept[key] = made
            while len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
        return made
