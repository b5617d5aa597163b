r"""Which sampler suits a network that nobody calibrated: chosen by a few samples, for less than 100 network calls.

A universal table is right for most networks, and on some a classical solver is better. A rough solution of three
samples tells. It is compared with what a few samplers make of the same noise.

Pictures of a few bright objects on a dark ground have universal tables of their own: the kurtosis of the samples tells
them. The standard deviation says little of such pictures, so that two scales are tried. Their errors have heavy tails,
and three samples tell nothing of a sample in fifty that is lost: a universal table must be clearly better there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from longstride.arrays import Array
from longstride.calibration.reference.solve import least_level, squared_errors
from longstride.calibration.starts.classical import nodes_between
from longstride.cores.dark import SCALES, is_dark, kurtosis_of
from longstride.errors import InputError, NonFiniteError
from longstride.network import as_network
from longstride.nodes import Nodes
from longstride.sampler import DenoiserLike, Run, sample
from longstride.schedule import Schedule
from longstride.solvers import SOLVERS, VARIANTS
from longstride.solvers.universal import universal_table
from longstride.table import SolverTable

__all__ = ["CANDIDATES", "ROUGH", "UNIVERSAL", "Choice", "choose", "preferred"]

#: Steps of the rough solution.
ROUGH = 16
#: Its solver, and its grid: of four that were tried, the one that is near the converged solution on every network.
_ROUGH, _ROUGH_GRID = VARIANTS["ipndm3"], "log_snr"
#: Lead of universal tables on dark samples.
_DARK_LEAD = 0.35
#: Name of the universal solver.
UNIVERSAL = "longstride"
#: What is tried, with its lead: how far the mean logarithm of its errors must be below that of one without a lead.
CANDIDATES: Mapping[str, float] = {UNIVERSAL: 0.0, "unipc3": 0.1, "dpmpp_2m": 0.2}


@dataclass(frozen=True)
class Choice:
    """Result of :func:`choose`.

    Attributes:
        name: Name in :data:`CANDIDATES`.
        solver: Name of the solver, for ``LongstrideScheduler``.
        options: Its options, for ``solver_options`` there.
        sample_std: Standard deviation of the rough samples.
        kurtosis: Their kurtosis.
        errors: Root-mean-square difference of every candidate to the rough solution, by name; a name is followed by
            ``@`` and the scale over the standard deviation of the data, where several were tried.
        calls: Network calls, in samples.
    """

    name: str
    solver: str
    options: Mapping[str, Any]
    sample_std: float
    kurtosis: float
    errors: Mapping[str, float]
    calls: int
    _levels: _Levels = field(repr=False, compare=False)

    def table(self, nfe: int) -> SolverTable:
        """The chosen sampler with a number of network calls.

        If universal tables are chosen and none makes so many calls, UniPC of order 3 runs in its place, with a warning.

        Raises:
            InputError: too few calls for the solver.
        """
        return SOLVERS[self.solver](self._levels.nodes(nfe), **self.options)


@dataclass(frozen=True)
class _Levels:
    """Levels between the two ends of a network's samplers."""

    like: SolverTable
    schedule: Schedule | None

    def nodes(self, steps: int, *names: str) -> Nodes:
        """Levels of the first of some grids that runs between the ends; default: what people use."""
        return nodes_between(self.like, steps, names, self.schedule, least_level(self.schedule, self.like))


@torch.inference_mode()
def choose(
    denoiser: DenoiserLike,
    noise: Tensor,
    table: SolverTable,
    *,
    schedule: Schedule | None = None,
    data_std: float | None = None,
    guidance: float | None = None,
) -> Choice:
    """Choose a sampler for a network that nobody calibrated, by a few samples.

    Three samples at 5 network calls cost 84 calls, and 96 on dark pictures. What is chosen then serves every number of
    calls.

    Args:
        denoiser: The network, bound to the conditions of the samples.
        noise: ``table.sigmas[0]`` times standard normal noise, shape ``(B, *)``; three samples do.
        table: Gives the number of calls at which samplers are compared, and the first and last level; such as
            ``longstride.universal(5, schedule=...)``.
        schedule: The network's schedule; default: the one that the denoiser tells, if it does.
        data_std: Standard deviation of the data, where it is known; default: that of the samples. A few samples can be
            far off.
        guidance: Guidance scale; default: the one that the denoiser tells, if it does, or 1.

    Raises:
        InputError: the table is not of the schedule, no universal table has as many calls or starts so near, or the
            samples have no scale.
        NonFiniteError: the network returned NaN or infinity.

    Examples:
        >>> import torch, longstride as ls
        >>> schedule = ls.Schedule.edm()
        >>> def denoiser(x, sigma):  # exact for data of variance 1/4
        ...     return x / (1 + 4 * sigma**2)
        >>> noise = 80 * torch.randn(3, 8, generator=torch.Generator().manual_seed(0))
        >>> choice = ls.choose(denoiser, noise, ls.universal(5, schedule=schedule), schedule=schedule)
        >>> choice.solver, choice.calls, choice.table(8).nfe
        ('longstride', 84, 8)
    """
    network = as_network(denoiser)
    before, schedule = network.calls, schedule or network.schedule
    levels = _Levels(table, schedule)
    # All samplers begin with the same call, unless the network reads the number of the step.
    first = None if network.positional else Run(noise, table).ask(network).clone()
    rough = sample(
        network, noise, SOLVERS[_ROUGH.solver](levels.nodes(ROUGH, "log_snr"), **_ROUGH.options), first=first
    )
    std = float(rough.float().std())
    if not std > 1e-9 * float(noise.float().std()):
        raise InputError(
            f"the samples have standard deviation {std:.1g}: check the network, its schedule and precision"
        )
    scale, kurtosis = std if data_std is None else data_std, kurtosis_of(rough)
    told = guidance if guidance is not None else network.guidance if network.guidance is not None else 1.0
    dark = is_dark(kurtosis)
    nodes, scales = levels.nodes(table.nfe), SCALES if dark else (1.0,)
    options: dict[str, dict[str, Any]] = {}
    for part in scales:
        label = UNIVERSAL if len(scales) == 1 else f"{UNIVERSAL}@{part:g}"
        options[label] = {"data_std": part * scale, "guidance": told, **({"dark": True} if dark else {})}
    options |= {name: dict(VARIANTS[name].options) for name in CANDIDATES if name != UNIVERSAL}
    squared = dict[str, Array]()
    for label, own in options.items():
        build = universal_table if _name(label) == UNIVERSAL else SOLVERS[VARIANTS[label].solver]
        try:
            ends = sample(network, noise, build(nodes, **own), first=first)
        except (InputError, NonFiniteError):  # no universal table serves it, or it overflows here
            continue
        squared[label] = squared_errors(ends, rough)
    if not squared:
        raise InputError(f"no sampler of {table.nfe} calls ends in finite samples: check the schedule and precision")
    label = preferred(squared, dark=dark)
    name = _name(label)
    errors = {key: float(np.sqrt(found.mean())) for key, found in squared.items()}
    return Choice(name, VARIANTS[name].solver, options[label], std, kurtosis, errors, network.calls - before, levels)


def preferred(squared: Mapping[str, Array], *, dark: bool = False) -> str:
    """The candidate with the least mean logarithm of errors, plus its lead.

    Args:
        squared: Squared errors ``(B,)`` by name in :data:`CANDIDATES`, with an ``@`` and a scale behind it or not.
        dark: Whether the samples are dark, so that universal tables need a lead.
    """
    leads = {**CANDIDATES, UNIVERSAL: _DARK_LEAD} if dark else CANDIDATES
    logs = {name: 0.5 * float(np.log(np.maximum(found, 1e-30)).mean()) for name, found in squared.items()}
    return min(logs, key=lambda label: logs[label] + leads[_name(label)])


def _name(label: str) -> str:
    return label.partition("@")[0]
