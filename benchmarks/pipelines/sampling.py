"""The trial of sampling: our scheduler in place of the pipeline's own, and the same picture."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import diffusers
import numpy as np
import torch
from torch import Tensor

from benchmarks.pipelines.catalogue import taken
from benchmarks.pipelines.parts import Built, fresh_inputs
from benchmarks.pipelines.records import Outcome, Status, of_error
from longstride.integrations.diffusers import LongstrideScheduler

__all__ = [
    "STEPS",
    "Drawing",
    "Seen",
    "draws",
    "matching_solver",
    "relative",
    "sampling_trial",
    "set_scheduler",
    "watched",
]

#: Steps of every run.
STEPS = 4
#: Numbers of steps that divide 1000 times, where DDIM's own class misses no level.
_DIVISORS = (STEPS, 5, 8, 10, 20, 25, 40, 50)
#: Largest relative difference of pictures that count as the same: float32, through the pipeline's own casts.
_SAME = 5e-4


@dataclass(frozen=True)
class _Decision:
    """What the two schedulers do differently, and how they are compared in spite of it.

    Attributes:
        remark: What is said of it.
        settings: Settings of both schedulers.
        copies: Whether the pipeline's own scheduler is handed copies.
        before_end: Whether the states before the last step are compared, if that has no length in diffusers.
        whole: Whether runs are whole that the tests begin late.
    """

    remark: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    copies: bool = False
    before_end: bool = False
    whole: bool = False


#: Tried one after the other until the pictures are the same.
_DECISIONS = (
    _Decision(),
    _Decision("with clip_sample=False in both", {"clip_sample": False}),
    _Decision("with clip_sample=False and steps_offset=1 in both", {"clip_sample": False, "steps_offset": 1}),
    _Decision("with thresholding=False in both", {"clip_sample": False, "thresholding": False}),
    _Decision("with timestep_spacing='trailing' in both", {"clip_sample": False, "timestep_spacing": "trailing"}),
    _Decision("the pipeline writes into states that its own scheduler still reads: compared with copies", copies=True),
    _Decision("compared before the last step, which has no length in diffusers and ends at 0 here", before_end=True),
    _Decision("with strength=1: in runs that begin late, diffusers' PNDM is one time ahead of its states", whole=True),
)
_BY_ORDER = {
    ("dpmsolver++", 1): "ddim",
    ("dpmsolver++", 2): "dpmpp_2m",
    ("dpmsolver++", 3): "dpmpp_3m",
    ("dpmsolver", 1): "ddim",
    ("dpmsolver", 2): "dpm_solver_2m",
    ("dpmsolver", 3): "dpm_solver_3m",
}
_SOLVERS = {
    "CogVideoXDDIMScheduler": "ddim",
    "CogVideoXDPMScheduler": "dpmpp_2m",
    "DDIMScheduler": "ddim",
    "DDPMScheduler": "ddim",
    "DEISMultistepScheduler": "deis",
    "DPMSolverSinglestepScheduler": "dpmpp_2s",
    "EDMEulerScheduler": "ddim",
    "EulerDiscreteScheduler": "ddim",
    "FlowMatchEulerDiscreteScheduler": "ddim",
    "FlowMatchHeunDiscreteScheduler": "heun",
    "HeunDiscreteScheduler": "heun",
    "PNDMScheduler": "pndm",
    "UniPCMultistepScheduler": "unipc",
}


class Drawing:
    """How a pipeline is run here: the inputs of its tests, a fixed seed, few steps, and states if it gives them.

    Args:
        built: The pipeline.

    Attributes:
        failure: Why the pipeline does not run here with its own scheduler; None if it runs.
        takes: Names of the arguments of its call.
        latent: Whether it hands out states.
    """

    def __init__(self, built: Built) -> None:
        self.built, self.failure = built, None
        modular = hasattr(built.pipeline, "blocks")
        self.takes = set(built.pipeline.blocks.input_names) if modular else taken(type(built.pipeline).__call__)
        own, latent = built.pipeline.scheduler, "output_type" in self.takes and not modular
        # Some pipelines hand out no states, or run with one number of steps alone, or with no picture beside.
        for self.latent, self._own_steps, self._bare in dict.fromkeys(
            [(latent, False, False), (False, False, False), (False, True, False), (False, False, True)]
        ):
            try:
                seen, output = self.run(own)
                finite = bool(torch.isfinite(seen[-1].following if seen else output).all())
                self.failure = None if finite else "its tiny networks return numbers that are not finite"
                return
            except Exception as error:
                self.failure = self.failure or of_error(error).remark

    def arguments(self, *, whole: bool = False) -> dict[str, Any]:
        """Arguments of the call, new objects every time.

        Args:
            whole: Whether a run that the tests begin late is whole.
        """
        found = fresh_inputs(self.built, bare=self._bare)
        if whole:
            found["strength"] = 1.0
        for name in ("sigmas", "timesteps"):
            found.pop(name, None)
        if "num_inference_steps" in self.takes and not self._own_steps:
            least = STEPS / (found.get("strength") or 1)
            found["num_inference_steps"] = next(steps for steps in _DIVISORS if steps >= min(least, _DIVISORS[-1]))
        found["generator"] = torch.Generator().manual_seed(5)
        if self.latent:
            found["output_type"] = "latent"
        return found

    def run(self, scheduler: Any, *, copies: bool = False, whole: bool = False) -> tuple[list[Seen], Tensor]:
        """A run with a scheduler; the pipeline's own scheduler is put back.

        Args:
            scheduler: The scheduler, or the pipeline's own, of which a copy runs.
            copies: Whether the scheduler is handed copies.
            whole: Whether a run that the tests begin late is whole.

        Returns:
            What the scheduler was handed, and the output.
        """
        pipeline = self.built.pipeline
        own = pipeline.scheduler
        seen: list[Seen] = []
        used = copy.deepcopy(scheduler) if scheduler is own else scheduler
        set_scheduler(pipeline, watched(used, seen, copies=copies))
        try:
            with torch.no_grad():
                return seen, draws(pipeline, self.arguments(whole=whole))
        finally:
            set_scheduler(pipeline, own)


@dataclass(frozen=True)
class Seen:
    """What a scheduler was handed in one step, and what it returned.

    Attributes:
        output: Prediction, shape ``(B, *)``.
        state: State, shape ``(B, *)``.
        following: The next state, shape ``(B, *)``.
    """

    output: Tensor
    state: Tensor
    following: Tensor


def watched(scheduler: Any, seen: list[Seen], *, copies: bool = False) -> Any:
    """The scheduler itself, whose steps, and whose copies' steps, are written down.

    Args:
        scheduler: The scheduler; its class becomes a class of the same name.
        seen: Where the steps are written to.
        copies: Whether the scheduler is handed copies.
    """
    kind = type(scheduler)

    def step(self: Any, model_output: Tensor, timestep: Any, sample: Tensor, *args: Any, **others: Any) -> Any:
        before = model_output.detach().clone(), sample.detach().clone()
        if copies:
            model_output, sample = model_output.clone(), sample.clone()
        found = kind.step(self, model_output, timestep, sample, *args, **others)
        seen.append(Seen(*before, found[0].detach().clone()))
        return found

    scheduler.__class__ = type(kind.__name__, (kind,), {"step": step, "__module__": kind.__module__})
    return scheduler


class _WithoutNoise(diffusers.DDIMScheduler):  # type: ignore[misc]
    """DDIM in place of DDPM, for networks whose outputs have channels of a learned variance, too."""

    def step(self, model_output: Tensor, timestep: Any, sample: Tensor, *args: Any, **others: Any) -> Any:
        return super().step(model_output[:, : sample.shape[1]], timestep, sample, *args, **others)


def set_scheduler(pipeline: Any, scheduler: Any) -> None:
    """Give a pipeline another scheduler."""
    if hasattr(pipeline, "blocks"):
        pipeline.update_components(scheduler=scheduler)
    else:
        pipeline.scheduler = scheduler


def draws(pipeline: Any, arguments: Mapping[str, Any]) -> Tensor:
    """The first output of a call of a pipeline, float32. Noise that is drawn without a generator is the same, too."""
    torch.manual_seed(0)
    if hasattr(pipeline, "blocks"):
        state = pipeline(**arguments)
        found = state.get("latents")
        return _numbers(found if found is not None else state.get("images"))
    return _numbers(pipeline(**arguments))


def _numbers(output: Any) -> Tensor:
    """Numbers of an output: a tensor, an array, a picture, or the first of what holds these."""
    if isinstance(output, Tensor):
        return output.float()
    if isinstance(output, np.ndarray):
        return torch.from_numpy(output.astype(np.float32))
    if isinstance(output, (list, tuple)) and output and not isinstance(output[0], (list, tuple)):
        return torch.stack([_numbers(np.asarray(one) if not isinstance(one, Tensor) else one) for one in output])
    return _numbers(output[0])


def relative(found: Tensor, expected: Tensor) -> float:
    """Largest difference, relative to the largest number that is expected; infinite if shapes or finiteness differ."""
    if found.shape != expected.shape or not bool(torch.isfinite(found).all() == torch.isfinite(expected).all()):
        return float("inf")
    found, expected = torch.nan_to_num(found), torch.nan_to_num(expected)
    return float((found - expected).abs().max() / expected.abs().max().clamp_min(1e-12))


def matching_solver(scheduler: Any) -> str | None:
    """Our solver with the formula of a scheduler of diffusers; None if there is none."""
    name, config = type(scheduler).__name__, scheduler.config
    if name in ("DPMSolverMultistepScheduler", "EDMDPMSolverMultistepScheduler"):
        return _BY_ORDER.get((config.algorithm_type, config.solver_order))
    return _SOLVERS.get(name)


def sampling_trial(drawing: Drawing) -> Outcome:
    """Whether a run with our scheduler draws what a run with the pipeline's own scheduler draws."""
    own = drawing.built.pipeline.scheduler
    solver = matching_solver(own)
    theirs = type(own)
    note = "" if solver else f"no solver of longstride is {theirs.__name__}'s; ddim was tried"
    if theirs is diffusers.DDPMScheduler:
        theirs, note = _WithoutNoise, "DDIMScheduler in place of DDPMScheduler, which draws noise"
    first: Outcome | None = None
    for decision in _DECISIONS:
        known = {name: value for name, value in decision.settings.items() if name in own.config}
        if known != dict(decision.settings):
            continue
        if decision.whole and not (theirs is diffusers.PNDMScheduler and "strength" in drawing.takes):
            continue
        try:
            run = partial(drawing.run, whole=decision.whole)
            reference, _ = run(theirs.from_config(own.config, **known), copies=decision.copies)
            mine = LongstrideScheduler.from_config(own.config, solver=solver or "ddim", **known)
            made, _ = run(mine)
        except Exception as error:
            return first or of_error(error)
        if not reference or not made:
            return Outcome("not tried", "its scheduler makes no step: other pipelines in it do the work")
        if decision.before_end and not torch.equal(reference[-1].following, reference[-1].state):
            continue
        difference = relative(*(_end(run, before=decision.before_end) for run in (made, reference)))
        status: Status = "same" if difference <= _SAME else "differs"
        outcome = Outcome(status, "; ".join(filter(None, (note, decision.remark))), difference)
        if status == "same":
            return outcome
        first = first or outcome
    assert first is not None
    return first


def _end(run: Sequence[Seen], *, before: bool) -> Tensor:
    """The state at the end of a run, or before its last step."""
    return (run[-1].state if before else run[-1].following).float()
