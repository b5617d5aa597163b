"""Asking diffusers' own scheduler for levels: what it refuses is refused in one clear sentence."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from longstride.errors import InputError

__all__ = ["ask"]


def ask(theirs: Any, steps: int | None, **given: Any) -> None:
    """Call ``set_timesteps`` of diffusers' own scheduler.

    Args:
        theirs: A scheduler of diffusers; it is changed.
        steps: Number of steps, or None if the levels are given.
        **given: Levels, times or a shift. None is left out.

    Raises:
        InputError: diffusers' scheduler refuses them.
    """
    said = {name: value for name, value in given.items() if value is not None}
    try:
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            theirs.set_timesteps(steps, **said)
    except (ValueError, TypeError, AssertionError, IndexError, NotImplementedError) as error:
        if theirs.config.get("use_dynamic_shifting") and given.get("mu") is None:
            raise InputError(
                "this scheduler shifts its levels by the resolution (use_dynamic_shifting): pass mu= to set_timesteps, "
                "as diffusers' pipelines do"
            ) from error
        asked = ", ".join([f"{steps} steps"] * (steps is not None) + [f"{name}=" for name in said])
        why = str(error) or "a shift mu= needs use_dynamic_shifting and time_shift_type 'exponential'"
        raise InputError(f"{type(theirs).__name__} of diffusers refuses {asked}: {why}") from error
