r"""Trajectories in their two principal components.

A state is drawn on the scale :math:`x / \sqrt{\alpha^2 + \sigma^2}`. On it noise and data are of about one size; else
the large levels would hide the small ones. In many dimensions the path of one sample lies nearly in a plane (Chen et
al.). So every sample has a plane of its own, that of the two principal components of all its paths together, and the
share of their variance that the plane holds is written above. Paths are flat arcs, so the second component has a scale
of its own.

References:
    Chen et al., On the Trajectory Regularity of ODE-based Diffusion Sampling, 2024. https://arxiv.org/abs/2405.11326
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from longstride.arrays import Array, double
from longstride.errors import InputError
from longstride.plots.style import CURVES, FAINT, INK, Look, new_figure, styled
from longstride.sampler import DenoiserLike, Run, raise_if_not_finite
from longstride.table import SolverTable

__all__ = ["draw_paths", "paths_of", "principal_plane", "states_of"]

#: A path of more calls is a line without markers: it stands for the converged solution.
_MOST_MARKERS = 20
#: The end of a path without markers: the other ends lie within, or do not.
_RING = {"marker": "o", "ms": 11, "mfc": "none", "mec": INK, "zorder": 4}
#: Panels in a row.
_COLUMNS = 4


@torch.inference_mode()
def states_of(denoiser: DenoiserLike, noise: Tensor, table: SolverTable) -> Tensor:
    """All states of a run, from the noise to the sample, shape ``(K + 1, B, *)``.

    Args:
        denoiser: The network, bound to the conditions of all samples.
        noise: First states, shape ``(B, *)``.
        table: The sampler.

    Raises:
        NonFiniteError: the network returned NaN or infinity.
    """
    run = Run(noise, table, keep=True)
    run.finish(denoiser, raise_if_not_finite)
    return torch.stack([run.history.states[k] for k in range(table.nfe + 1)])


def paths_of(denoiser: DenoiserLike, noise: Tensor, tables: Mapping[str, SolverTable]) -> dict[str, Tensor]:
    """States of a run of every table, on the scale of one size; see the module.

    Args:
        denoiser: The network, bound to the conditions of all samples.
        noise: First states, shape ``(B, *)``.
        tables: The samplers by name; they start at one level.

    Returns:
        States ``(K + 1, B, *)`` by name.

    Raises:
        InputError: a table starts at another level than the first table.
        NonFiniteError: the network returned NaN or infinity.
    """
    first = next(iter(tables.values()))
    found = {}
    for name, table in tables.items():
        if not np.isclose(table.sigmas[0], first.sigmas[0], rtol=1e-6):
            raise InputError(
                f"{name!r} starts at sigma {table.sigmas[0]:g}, another table at {first.sigmas[0]:g}: paths from the "
                "same noise need one first level"
            )
        states = states_of(denoiser, noise, table)
        scale = torch.as_tensor(1 / np.hypot(table.alphas, table.sigmas), dtype=states.dtype, device=states.device)
        found[name] = states * scale.view(-1, *(1,) * (states.ndim - 1))
    return found


def principal_plane(paths: Mapping[str, Array]) -> tuple[dict[str, Array], float]:
    """The paths of one sample in their common plane.

    Every path counts the same, however many states it has. Signs are such that the first path starts on the left, and
    that its highest state lies above.

    Args:
        paths: States ``(K + 1, D)`` by name.

    Returns:
        Places ``(K + 1, 2)`` by name, and the share of the variance that the plane holds; 1 if nothing varies.
    """
    points = np.concatenate(list(paths.values()))
    weights = np.concatenate([np.full(len(path), 1 / len(path)) for path in paths.values()])
    middle = np.average(points, axis=0, weights=weights)
    _, sizes, axes = np.linalg.svd((points - middle) * np.sqrt(weights)[:, None], full_matrices=False)
    plane = np.zeros((2, points.shape[1]))
    plane[: min(2, len(axes))] = axes[:2]
    first = (next(iter(paths.values())) - middle) @ plane.T
    farthest = first[np.abs(first[:, 1]).argmax(), 1]
    plane *= np.array([[1.0 if first[0, 0] <= 0 else -1.0], [1.0 if farthest >= 0 else -1.0]])
    total = float((sizes**2).sum())
    share = float((sizes[:2] ** 2).sum()) / total if total > 0 else 1.0
    return {name: (path - middle) @ plane.T for name, path in paths.items()}, share


@styled
def draw_paths(paths: Mapping[str, Tensor], looks: Mapping[str, Look] | None = None) -> Any:
    """Paths from the same noise, a panel per sample, each in the plane of its two principal components.

    Args:
        paths: States ``(K + 1, B, *)`` by name, on one scale; see :func:`paths_of`.
        looks: How some of the paths are drawn; default: a path of more than 20 calls as a thin line without markers,
            the others one after another.

    Returns:
        A matplotlib figure.

    Raises:
        InputError: no paths, or paths of different numbers of samples.
    """
    counts = {path.shape[1] for path in paths.values()}
    if len(counts) != 1:
        raise InputError(f"expected paths of one number of samples, got {sorted(counts) or 'none'}")
    samples = counts.pop()
    columns = min(samples, _COLUMNS)
    rows = -(-samples // columns)
    figure, axes = new_figure(2.6 * columns, 2.3 * rows + 0.35, rows, columns)
    chosen = _looks(paths) | dict(looks or {})
    for sample, ax in enumerate(axes.flat):
        if sample >= samples:
            ax.set_visible(False)
            continue
        flat = {name: double(path[:, sample].flatten(1)).cpu().numpy() for name, path in paths.items()}
        places, share = principal_plane(flat)
        for name, place in places.items():
            _draw_path(ax, place, name, chosen[name])
        ax.set_title(f"sample {sample + 1}: {100 * share:.3g} % of the variance", fontsize=8)
        ax.set_xticks([])
        ax.set_yticks([])
        ax.margins(0.08)
        ax.set_xlabel("first component", fontsize=8)
    axes[0, 0].set_ylabel("second component", fontsize=8)
    handles, names = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=len(names))
    return figure


def _looks(paths: Mapping[str, Tensor]) -> dict[str, Look]:
    others = iter(CURVES * len(paths))
    long = Look(INK, "", True, width=0.9)
    return {name: long if len(path) > _MOST_MARKERS + 1 else next(others) for name, path in paths.items()}


def _draw_path(ax: Any, place: Array, name: str, look: Look) -> None:
    """A path; its end has a larger marker."""
    ax.plot(*place.T, label=name, ms=3.5, **look.curve)
    end = {"ms": 7, "zorder": 3, **look.points, "mec": "white"} if look.marker else _RING
    ax.plot(*place[-1], ls="", **end)
    ax.plot(*place[0], ls="", marker=".", color=FAINT.color)
