"""What a study compares, and on how many samples."""

from __future__ import annotations

from dataclasses import dataclass

from longstride.errors import InputError
from longstride.evaluation.contestants import Contestant, base_table, contestant
from longstride.grid import LastLevel
from longstride.schedule import Schedule
from longstride.table import SolverTable

__all__ = ["Study"]


@dataclass(frozen=True)
class Study:
    """What is compared, and on how many samples.

    Attributes:
        contestants: Names from :data:`~longstride.evaluation.contestants.CONTESTANTS`. The base of a calibrated
            contestant takes part too.
        nfes: Network calls per sample. If a solver cannot spend a number exactly, it spends the most it can below.
        grid: Grid of all solvers. ``"auto"`` is ``karras`` for variance-exploding models and for Heun, as in EDM, and
            ``uniform`` for others.
        final: Last level of the grid.
        samples: Evaluation samples, and as many of the teacher's from other noise.
        batch_size: Samples per network call.
        calibration_samples: Samples that calibration sees. Half of them decide what is accepted.
        substeps: IIA's M.
        reference_steps: Steps of the converged solution (UniPC).
        features: Feature extractor of the Fréchet distance.
        dimensions: Principal components of the Fréchet distance; with 0 only errors are measured.
        guidance: Classifier-free guidance scale, or None.
        seed: Shift of every seed.
    """

    contestants: tuple[str, ...] = ("iia_ddim", "iia_spndm", "iia_ipndm", "dpmpp_2m", "unipc3")
    nfes: tuple[int, ...] = (5, 6, 8, 10)
    grid: str = "auto"
    final: LastLevel = "sigma_min"
    samples: int = 1024
    batch_size: int = 32
    calibration_samples: int = 128
    substeps: int = 10
    reference_steps: int = 64
    features: str = "efficientnet-lite0"
    dimensions: int = 64
    guidance: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.nfes or min(self.nfes) < 1:
            raise InputError(f"nfes must be one or more numbers of calls, got {self.nfes}")
        if self.samples < 2 or self.calibration_samples < 2 or self.batch_size < 1:
            raise InputError("a study needs at least 2 samples, 2 calibration samples and a batch size of 1")
        if self.dimensions >= self.samples:
            raise InputError(
                f"a Fréchet distance in {self.dimensions} dimensions needs more than {self.samples} samples"
            )
        for name in self.contestants:
            contestant(name)

    @property
    def entrants(self) -> list[Contestant]:
        """The contestants, each after its base, without repeats."""
        wanted = [contestant(name) for name in self.contestants]
        bases = [[b for b in (one.base, one.name) if b is not None] for one in wanted]
        return [contestant(name) for name in dict.fromkeys(name for pair in bases for name in pair)]

    def table(self, schedule: Schedule, one: Contestant, nfe: int) -> SolverTable:
        """Base table of a contestant with at most ``nfe`` calls."""
        grid = (one.grid if self.grid == "auto" else None) or self.grid
        return base_table(schedule, one.solver, nfe, grid=grid, final=self.final, exactly=False, **one.options)
