"""A whole pipeline as what a study draws from: every sample is an ordinary call of the pipeline.

So what is measured is what a user of the pipeline gets: its own levels, guidance, prompts and conditions. A sampler is
a scheduler and a number of steps. Samples are the last states of a call, or what the pipeline makes of them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from copy import copy
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from longstride.book import CardBook
from longstride.card import Card
from longstride.cli.drawing_pipelines import Caller
from longstride.cli.made import made_by
from longstride.cli.with_card import put_card
from longstride.errors import InputError
from longstride.journal import digest

__all__ = ["PipelineSampler", "PipelineSource", "cards_of", "settings_of"]

#: One sample of so many estimates the error of the converged solution.
_CHECKED = 8


@dataclass(frozen=True, eq=False)
class PipelineSampler:
    """A classical solver or a card in a pipeline.

    Attributes:
        steps: Steps that the pipeline is asked for.
        solver: Name of the solver.
        options: The solver's options.
        card: The card, or None for the classical solver.
        any_model: Whether the card may be of other weights.
        many: Network calls of the converged run between the same two levels, or None for the solver itself.
    """

    steps: int
    solver: str = "ddim"
    options: Mapping[str, Any] = field(default_factory=dict)
    card: Card | None = None
    any_model: bool = False
    many: int | None = None

    @functools.cached_property
    def digest(self) -> str:
        """Equal samplers draw the same samples."""
        card = "" if self.card is None else self.card.dumps()
        return digest(repr((self.steps, self.solver, sorted(self.options.items()), self.many, card)))

    def put(self, pipeline: Any, config: Any, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Put the scheduler into a pipeline; the arguments of the call, completed by what a card knows.

        Args:
            pipeline: The pipeline.
            config: Configuration of its own scheduler.
            arguments: Arguments of the call.

        Raises:
            CardError: the card is for another call or other weights.
        """
        from longstride.cli.converged_scheduler import ConvergedScheduler
        from longstride.integrations.diffusers import LongstrideScheduler

        if self.card is not None:
            return put_card(pipeline, self.card, arguments, any_model=self.any_model)[0]
        options: dict[str, Any] = {"solver_options": dict(self.options)} if self.options else {}
        # The levels of a calibration, for all solvers: they begin and end where the cards do.
        levels = type(settings_of(config).own_scheduler).__name__
        kind = LongstrideScheduler if self.many is None else ConvergedScheduler
        pipeline.scheduler = kind.from_config(config, solver=self.solver, levels=levels, **options)
        if self.many is not None:
            pipeline.scheduler.many = self.many
        return dict(arguments)


def settings_of(config: Any) -> Any:
    """Settings of a pipeline's process, with the levels that a calibration visits."""
    from longstride.integrations.diffusers import LongstrideScheduler
    from longstride.integrations.scheduler_settings import SchedulerSettings

    return SchedulerSettings.of(LongstrideScheduler.from_config(config).config)


@dataclass(frozen=True)
class Drawn:
    """A sample, and what the scheduler made of the call.

    Attributes:
        values: The last state, or what the pipeline made of it; float32, without an axis of samples.
        calls: Network calls, as the scheduler counted them.
        ends: ``sigma / alpha`` (sigma for flows) of the first and the last level.
    """

    values: Tensor
    calls: int
    ends: tuple[float, float]


@dataclass
class PipelineSource:
    """Draws with a whole pipeline, one call per sample.

    Attributes:
        caller: Calls the pipeline.
        own: The pipeline's own scheduler.
        reference: The converged run.
        decoded: Whether samples are what the pipeline makes of the last states, and not the states.
        guidance: Guidance scale that was asked for, or None for the pipeline's own.
        fingerprint: Digest of the weights, or None.
    """

    caller: Caller
    own: Any
    reference: PipelineSampler
    decoded: bool
    guidance: float | None
    fingerprint: str | None
    cost: int = 1
    _ready: dict[str, tuple[Any, dict[str, Any]]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Where the pipeline comes from."""
        return str(getattr(self.caller.pipeline, "name_or_path", "") or type(self.caller.pipeline).__name__)

    @property
    def device(self) -> torch.device:
        """Samples are kept on the CPU: videos are large."""
        return torch.device("cpu")

    @property
    def about(self) -> dict[str, Any]:
        """Facts for the results."""
        kind = type(self.caller.pipeline).__name__
        model = {"name": self.name, "fingerprint": self.fingerprint, "classes": 0, "pipeline": kind}
        return {"model": {**model, "decoded": self.decoded}, "grid": "the pipeline's own"}

    def know(self, card: Card, *, any_model: bool) -> None:
        """Make what a card knows of the call, such as its guidance, part of every call.

        Raises:
            CardError: the card is for another call or other weights.
            InputError: another card knows something else.
        """
        arguments = self.caller.arguments(0, card.nfe)
        completed, notes = put_card(self.caller.pipeline, card, arguments, any_model=any_model)
        self.caller.pipeline.scheduler = self.own
        self.caller.known = {**self.caller.known, **{k: v for k, v in completed.items() if k not in arguments}}
        self.caller.notes += notes

    def batch(self, seeds: range) -> _PipelineBatch:
        """The samples of some seeds."""
        return _PipelineBatch(self, seeds)

    def pictures(self, samples: Tensor) -> Tensor:
        """The samples themselves, which are pictures if distances are measured."""
        if samples.ndim != 4 or samples.shape[1] not in (1, 3):
            raise InputError(f"samples of shape {tuple(samples.shape[1:])} are no pictures: leave --dimensions out")
        return samples

    def draw(self, sampler: PipelineSampler, seed: int) -> Drawn:
        """A sample of a seed.

        Raises:
            CardError: the card is for another call or other weights.
            InputError: the pipeline refuses its arguments, or does not call its scheduler.
        """
        pipeline = self.caller.pipeline
        arguments = self.caller.arguments(seed, sampler.steps, latent=not self.decoded)
        if sampler.digest not in self._ready:
            pipeline.scheduler = self.own  # a card compares its settings with those of the pipeline's own scheduler
            completed = sampler.put(pipeline, self.own.config, arguments)
            known = {name: value for name, value in completed.items() if name not in arguments}
            self._ready[sampler.digest] = pipeline.scheduler, known
        scheduler, known = self._ready[sampler.digest]
        pipeline.scheduler = watched = copy(scheduler)
        states, count = _watched(watched)
        try:
            output = self.caller.call({**arguments, **known}, seed)
        finally:
            pipeline.scheduler = self.own
        if not states:
            raise InputError(f"{type(pipeline).__name__} does not call its scheduler: it cannot be measured")
        values = made_by(pipeline, output)[0].values if self.decoded else states[0].float().cpu()
        ratios = watched.setup.plan.ratios
        return Drawn(values, count[0], (float(ratios[0]), float(ratios[-1])))


@dataclass
class _PipelineBatch:
    source: PipelineSource
    seeds: range

    def converged(self, check: int) -> tuple[Tensor, float, float]:
        source, reference = self.source, self.source.reference
        samples, calls = self.drawn(reference)
        checked = [n for n, seed in enumerate(self.seeds) if check and seed % _CHECKED == 0]
        coarse = replace(reference, many=max(1, (reference.many or 2) // 2))
        drawn = {n: source.draw(coarse, self.seeds[n]).values for n in checked}
        squares = [(one - samples[n]).double().square().mean() for n, one in drawn.items()]
        error = float(torch.stack(squares).mean().sqrt()) if squares else float("nan")
        return samples, error, calls

    def drawn(self, sampler: PipelineSampler) -> tuple[Tensor, float]:
        found = [self.source.draw(sampler, seed) for seed in self.seeds]
        return torch.stack([one.values for one in found]), float(sum(one.calls for one in found))


def _watched(scheduler: Any) -> tuple[list[Tensor], list[int]]:
    """Where the last state of a run, and the number of its steps, will be found."""
    states: list[Tensor] = []
    count = [0]
    step: Callable[..., Any] = scheduler.step

    @functools.wraps(step)
    def watched(*args: Any, **kwargs: Any) -> Any:
        made = step(*args, **kwargs)
        last = made[0] if isinstance(made, tuple) else made.prev_sample
        states[:] = [last[0].detach().clone()]  # the pipeline may write into its state; some carry it twice
        count[0] += 1
        return made

    scheduler.step = watched
    return states, count


def cards_of(loaded: Card | CardBook, guidance: float | None) -> list[Card]:
    """The cards of a file at a guidance scale; None: any."""
    if isinstance(loaded, Card):
        return [loaded]
    return [one.card for one in loaded.entries if guidance in (None, one.guidance)]
