"""What one open page has chosen, and what it shows."""

from __future__ import annotations

from dataclasses import dataclass, field

from longstride.explorer.samplers import solver_labels
from longstride.explorer.scene import MOST_SAMPLERS, Choice, Classical, FromFile, Scene
from longstride.explorer.workbench import Shown, Workbench

__all__ = ["Session"]

#: What an empty page draws: what calibration is compared with, at a number of calls that it helps.
_FIRST = ("ddim", "dpmpp_2m", "unipc3", "longstride")
_FIRST_CALLS = 6


@dataclass
class Session:
    """The choices of a page.

    Attributes:
        bench: What all pages share.
        scene: The samples.
        errors: Whether errors against the converged solution are asked for.
        choices: The samplers, up to four.
        shown: What each of them drew for :attr:`drawn`, or why it did not; a new list for every drawing.
        drawn: The scene of :attr:`shown`.
    """

    bench: Workbench
    scene: Scene
    errors: bool = False
    choices: list[Choice] = field(default_factory=lambda: [Classical(name, _FIRST_CALLS) for name in _FIRST])
    shown: list[Shown | str] = field(default_factory=list)
    drawn: Scene | None = None

    @property
    def good(self) -> list[Shown]:
        """The samplers that drew."""
        return [one for one in self.shown if isinstance(one, Shown)]

    def add(self, choice: Choice) -> None:
        """Add a sampler; of a full page the last one goes."""
        if choice not in self.choices:
            self.choices = [*self.choices[: MOST_SAMPLERS - 1], choice]

    def options(self) -> dict[str, str]:
        """Samplers that can be chosen, by key, with their words."""
        files = {f"file:{name}": name for name in self.bench.shelf.samplers()}
        return {**files, **{f"solver:{name}": label for name, label in solver_labels().items()}}

    @staticmethod
    def key(choice: Choice) -> str:
        """Key of a choice among :meth:`options`."""
        return f"file:{choice.file}" if isinstance(choice, FromFile) else f"solver:{choice.solver}"

    @staticmethod
    def choice(key: str, calls: int, grid: str) -> Choice:
        """The choice of a key."""
        kind, _, name = key.partition(":")
        return FromFile(name, calls) if kind == "file" else Classical(name, calls, grid)
