"""What a proof of concept is asked to measure, and on how many samples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from longstride.calibration.endpoint.settings import FITTED, HELD_OUT
from longstride.errors import InputError
from longstride.evaluation.contestants import contestant
from longstride.evaluation.study import Study

__all__ = ["FULL", "QUICK", "Asked", "Effort"]


@dataclass(frozen=True)
class Effort:
    """On how much is measured.

    Attributes:
        fitted: Samples that calibration fits.
        held_out: Samples that its gate looks at.
        samples: Samples that all samplers draw.
        batch: Samples per network call while measuring and timing. Fréchet intervals want 8 batches or more.
        reference_steps: Steps of the converged solution.
        dimensions: Dimensions of the Fréchet distance; 0: none.
        rounds: Timed rounds; an interval wants 8 or more.
        others: Classical solvers that are measured beside today's, by the names of contestants.
        between: How many numbers of calls above the largest calibrated one classical solvers are measured at.
        settings: Settings of the calibration in place of its defaults.
    """

    fitted: int
    held_out: int
    samples: int
    batch: int
    reference_steps: int
    dimensions: int
    rounds: int
    others: tuple[str, ...]
    between: int = 2
    settings: Mapping[str, Any] = field(default_factory=dict)


FULL = Effort(FITTED, HELD_OUT, 1024, 32, 64, 64, 10, ("ddim", "dpmpp_2m", "unipc3"))
#: 149 samples, none of them much worse, bound their share by 2 %.
QUICK = Effort(40, 32, 160, 16, 32, 16, 8, (), 1, {"scouts": 2, "scout_samples": 8, "iterations": 3, "final_calls": 0})


@dataclass(frozen=True)
class Asked:
    """What is asked for.

    Attributes:
        model: Name of the model, as the user wrote it.
        nfes: Numbers of network calls to calibrate.
        today: Name of the sampler that is in use now, a classical contestant.
        today_nfe: Its number of network calls.
        effort: On how much is measured.
        quick: Whether that is little.
        guidance: Guidance scale, or None.
        seed: Seed of all noise.

    Raises:
        InputError: no such sampler, no calibrated number below today's, or counts that cannot be used.
    """

    model: str
    nfes: tuple[int, ...]
    today: str
    today_nfe: int
    effort: Effort
    quick: bool = False
    guidance: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if contestant(self.today).method is not None:
            raise InputError(f"today's sampler is a classical one such as dpmpp_2m, not {self.today!r}")
        if not self.nfes or min(self.nfes) < 1 or min(self.nfes) >= self.today_nfe:
            raise InputError(
                f"expected a number of network calls below today's {self.today_nfe}, got {list(self.nfes)}: choose "
                "others, or say --today-nfe"
            )
        _ = self.study

    @property
    def study(self) -> Study:
        """The settings of the evaluation; its contestants are today's sampler and the others."""
        effort = self.effort
        return Study(
            contestants=tuple(dict.fromkeys((self.today, *effort.others))),
            nfes=self.nfes,
            samples=effort.samples,
            batch_size=effort.batch,
            calibration_samples=effort.fitted + effort.held_out,
            reference_steps=effort.reference_steps,
            dimensions=effort.dimensions,
            guidance=self.guidance,
            seed=self.seed,
        )

    @property
    def between(self) -> tuple[int, ...]:
        """Numbers of calls between the largest calibrated one and today's: how far classical solvers get there."""
        low, high, count = max(n for n in self.nfes if n < self.today_nfe), self.today_nfe, self.effort.between
        found = (round(low * (high / low) ** (part / (count + 1))) for part in range(1, count + 1))
        return tuple(sorted({n for n in found if low < n < high}))

    @property
    def command(self) -> str:
        """The command that measures it again."""
        words = ["longstride", "poc", self.model, "--nfe", ",".join(map(str, self.nfes))]
        words += ["--today-sampler", self.today, "--today-nfe", str(self.today_nfe)]
        words += [] if self.guidance is None else ["--guidance", f"{self.guidance:g}"]
        words += ["--quick"] if self.quick else []
        usual = (QUICK if self.quick else FULL).samples
        words += [] if self.effort.samples == usual else ["--samples", str(self.effort.samples)]
        words += ["--seed", str(self.seed)] if self.seed else []
        return " ".join(words)

    def identity(self) -> dict[str, Any]:
        """What the measured numbers depend on, besides the model's weights."""
        return {key: value for key, value in asdict(self).items() if key not in ("model", "quick")}
