"""Seeds by purpose: two purposes never share a seed."""

from __future__ import annotations

from typing import Literal, get_args

from longstride.errors import InputError

__all__ = ["Purpose", "seed_range"]

#: ``calibration`` fits and gates. ``evaluation`` measures. ``teacher`` is the teacher's independent set, the yardstick
#: of every distance. ``axes`` chooses the directions in which distances are measured.
Purpose = Literal["calibration", "evaluation", "teacher", "axes"]
_BLOCK = 1_000_000


def seed_range(purpose: Purpose, seed: int, count: int) -> range:
    """Seeds of ``count`` samples; every pair of a purpose and a seed has its own block of seeds.

    Raises:
        InputError: a block holds fewer samples, or the seed lies beyond the last block.
    """
    purposes = get_args(Purpose)
    if count > _BLOCK:
        raise InputError(f"at most {_BLOCK:,} samples have seeds of their own, got {count:,}")
    first = (seed * len(purposes) + purposes.index(purpose)) * _BLOCK
    if first + count > 2**32:  # a CPU generator keeps 32 bits of its seed
        raise InputError(f"seed must be at most {2**32 // (len(purposes) * _BLOCK) - 1}, got {seed}")
    return range(first, first + count)
