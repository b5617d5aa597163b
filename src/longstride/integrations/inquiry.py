"""Which way a pipeline is to be asked: found out by questions, before any work.

The same questions are asked by true calls and by a standing call, with others between, and neighbours in time one after
the other. A run of many steps tells whether the loop calls the same networks in all of its steps. Where all answers are
the same, the standing call will do. Otherwise true calls are needed, and they must have one answer to one question:

- the answer does not depend on what the steps before have computed (a step cache, guidance with momentum);
- the answer does not depend on the times of other steps (a network of two times).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from longstride.arrays import Array
from longstride.errors import InputError, LongstrideError
from longstride.families import told_levels
from longstride.integrations.channel import Told

if TYPE_CHECKING:
    from longstride.integrations.pipeline_denoiser import PipelineDenoiser

__all__ = ["Keeps", "depends_on_its_step"]

#: Steps of the run whose neighbours in time are near each other.
_FINE = 64
#: Least relative difference of two answers, in float32.
_SAME = 1e-5
#: The same in other precisions, in units of rounding.
_ROUNDINGS = 4


_KEEPS = (
    "this pipeline answers one question in two ways: it keeps something from one step to the next, such as a step "
    "cache (First Block Cache, TeaCache) or guidance with momentum; switch it off for the calibration"
)


class Keeps(InputError):
    """A pipeline keeps something from one step to the next."""


def depends_on_its_step(network: PipelineDenoiser) -> bool:
    """Whether answers depend on the number of the step.

    Args:
        network: The pipeline as a network.

    Raises:
        InputError: answers depend on more than the state, its level and its step, or the pipeline cannot be driven from
            outside. Errors of the pipeline itself are raised as they are.
    """
    asking = _Inquiry(network)
    try:
        known = asking.true_answers()
        if not asking.uniform or not asking.stands(known):
            asking.check_levels(known)
            return True
        return False
    finally:
        network.end()


#: A question: whether it belongs to the fine run, and its step.
_Place = tuple[bool, int]


class _Inquiry:
    """Questions to a pipeline.

    Args:
        network: The pipeline as a network.

    Attributes:
        uniform: Whether the loop called the same networks in all steps.
    """

    def __init__(self, network: PipelineDenoiser) -> None:
        self.network, self.uniform = network, True
        self.numbers = tuple(range(network.batch_size))
        self.own = network.told
        self.fine = self._fine(_even(float(self.own.times[0]), self._lowest(), _FINE))
        self.noise = network.states(network.batch_size)

    def _lowest(self) -> float:
        times = self.own.times
        return float(times[-1]) if len(times) > 1 else float(times[0]) * 0.05 if times[0] > 0 else float(times[0]) - 1

    def _fine(self, times: Array) -> Told:
        process = self.network.setup.settings.noise_process
        ratios = told_levels(process.family, *process.noise_levels(times))
        return Told(times, np.append(ratios, self.own.ratios[-1]))

    def told(self, place: _Place) -> Told:
        """The run that a question belongs to."""
        return self.fine if place[0] else self.own

    def state(self, place: _Place) -> Tensor:
        """The state of a question, shape ``(b, *)``: near in neighbouring steps, on the scale of its level."""
        fine, k = place
        if k == 0:
            return self.noise  # the only first state that every pipeline can be asked for
        times = self.told(place).times
        alphas, sigmas = self.network.setup.settings.noise_levels(np.array([times[0], times[k]]))
        scale = float(np.hypot(alphas[1], sigmas[1]) / np.hypot(alphas[0], sigmas[0]))
        return self.noise * (scale * (1 + 0.001 * k if fine else 0.9))

    @property
    def questions(self) -> list[_Place]:
        """Questions of the fine run, and the last of the pipeline's own levels."""
        return [(True, 0), (True, 1), (True, 32), (True, 33), (False, self.own.calls - 1)]

    def ask(self, place: _Place, *, fresh: bool = False) -> Tensor:
        """The answer of a true call."""
        return self.network.true(self.numbers, self.state(place), self.told(place), place[1], fresh=fresh)

    def true_answers(self) -> dict[_Place, Tensor]:
        """Answers of true calls.

        Raises:
            Keeps: they depend on what the steps before have computed.
            InputError: the pipeline runs at its scheduler's own levels alone.
        """
        found, patterns = dict[_Place, Tensor](), set[object]()
        for place in self.questions:
            try:
                found[place] = self.ask(place)
            except (LongstrideError, torch.OutOfMemoryError):
                raise
            except Exception as error:  # its first call, at its own levels, has worked
                raise InputError(
                    "this pipeline runs at the levels of its own scheduler alone, and calibration asks for others: "
                    f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
                ) from error
            if place == (True, 33):
                self.network.run_out(self.numbers, self.fine)
            patterns |= set(self.network.calls.patterns[1:])  # the first step makes calls of its own
        self.uniform = len(patterns) <= 1
        for place in ((True, 1), (True, 33)):
            again = self.ask(place, fresh=True)
            self.network.end()
            if not _alike(again, found[place], self.network):
                raise Keeps(_KEEPS)
        # Steps that are answered are answered by NaN.
        if torch.isfinite(found[True, 0]).all() and not all(bool(torch.isfinite(one).all()) for one in found.values()):
            raise Keeps(_KEEPS)
        return found

    def stands(self, known: dict[_Place, Tensor]) -> bool:
        """Whether a standing call gives the same answers, asked in another order and more often than there are steps.

        Args:
            known: Answers of true calls.
        """
        order = self.questions
        order += [(True, 33), (False, self.own.calls - 1), (True, 1), (True, 0)]
        order += order[: max(0, self.own.calls + 2 - len(order))]
        for place in order:
            time = torch.tensor(float(self.told(place).times[place[1]]), dtype=torch.float32)
            time = time.to(self.noise.device)
            try:
                found = self.network.standing(self.numbers, self.state(place), time)
            except torch.OutOfMemoryError:
                raise
            except Exception:  # a loop without an end is not for this pipeline
                return False
            if not _alike(found, known[place], self.network):
                return False
        return True

    def check_levels(self, known: dict[_Place, Tensor]) -> None:
        """Make sure that answers do not depend on the times of other steps.

        Args:
            known: Answers of true calls.

        Raises:
            InputError: they do.
        """
        k, times = 33, self.fine.times
        bent = np.append(_even(times[0], times[k], k + 1, 2.0), _even(times[k], times[-1], _FINE - k, 0.5)[1:])
        bent[k] = times[k]
        other = self.network.true(self.numbers, self.state((True, k)), self._fine(bent), k, fresh=True)
        if not _alike(other, known[True, k], self.network):
            raise InputError(
                "the network of this pipeline is told the time of another step, too (mean flow, flow maps, networks "
                "of two times): it is no function of a state and its level, so it cannot be calibrated"
            )


def _even(first: float, last: float, count: int, power: float = 1.0) -> Array:
    return first + (last - first) * np.linspace(0, 1, count) ** power


def _alike(a: Tensor, b: Tensor, network: PipelineDenoiser) -> bool:
    """Whether two answers are the same, up to rounding."""
    if torch.equal(a, b):
        return True
    dtypes = {a.dtype, b.dtype, getattr(network.pipeline, "dtype", a.dtype)}
    rounding = max(torch.finfo(dtype).eps for dtype in dtypes if dtype.is_floating_point)
    bound = max(_SAME, _ROUNDINGS * rounding if rounding > 1e-6 else 0.0)
    if not bool(torch.isfinite(a).all() and torch.isfinite(b).all()):
        return bool(torch.equal(torch.isfinite(a), torch.isfinite(b)) and torch.equal(a.nan_to_num(), b.nan_to_num()))
    return float((a.float() - b.float()).abs().max()) <= bound * float(b.float().abs().max())
