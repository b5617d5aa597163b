"""The converged solution of a calibration's samples: the one that is solved at once, of the samples that are needed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from problems import Mixture
from toy_fits import SIGMAS, exact, noise_of

import longstride as ls
from longstride.calibration.converged import given, solved
from longstride.calibration.samples import Samples

TABLE = ls.build("ddim", SIGMAS)


def samples_of(**options):
    return Samples.of(Mixture(), noise_of(40), TABLE, held_out=19, **options)


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("options", [{}, {"unit": 3}, {"batch_size": 2}, {"unit": 5, "batch_size": 11}])
def test_unit_by_unit_it_is_the_solution_of_all_at_once(options, whole):
    """Its error is estimated on the first held-out unit, on eight samples at most."""
    found = solved(samples_of(steps=32, **options), whole=whole)
    noise = noise_of(40) if whole else noise_of(40)[21:]
    wanted = ls.solve_reference(Mixture(), noise, TABLE, steps=32)
    checked = min(options.get("unit", 8), 8)
    few = ls.solve_reference(Mixture(), noise_of(40)[21 : 21 + checked], TABLE, steps=32)
    torch.testing.assert_close(found.reference.samples, wanted.samples, rtol=1e-12, atol=1e-12)
    assert found.reference.error == pytest.approx(few.error, rel=1e-9)
    assert (found.reference.nfe, found.reference.start) == (wanted.nfe, wanted.start)
    assert found.ledger.calls == len(noise) * 32 + checked * 16
    assert found.held_out == 19


def test_it_meets_the_exact_solution():
    found = solved(samples_of(steps=256), whole=True).reference
    error = float((found.samples - exact(Mixture(), noise_of(40))).square().mean().sqrt())
    assert error < found.error < 1e-2


def test_a_solution_that_is_given_is_the_same_as_one_that_is_solved():
    mine = solved(samples_of(steps=32), whole=True).reference
    assert given(samples_of(), mine, whole=True).reference is mine
    short = ls.solve_reference(Mixture(), noise_of(40)[21:], TABLE, steps=32)
    assert given(samples_of(), short, whole=False).reference is short
    assert given(samples_of(), mine, whole=False).reference is mine


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: replace(r, samples=r.samples[1:]), "holds 39 samples, but all 40 are needed"),
        (lambda r: replace(r, samples=r.samples[:, :3]), r"shape \(3,\), but the noise has \(6,\)"),
        (lambda r: replace(r, samples=r.samples * np.nan), "holds NaN or infinity"),
        (lambda r: replace(r, start="other"), "does not start from the 40 all samples at sigma 10 and end at 0.05"),
    ],
)
def test_solutions_of_other_work_are_refused(change, message):
    mine = ls.solve_reference(Mixture(), noise_of(40), TABLE, steps=4)
    with pytest.raises(ls.InputError, match=message):
        given(samples_of(), change(mine), whole=True)
    unknown = replace(mine, start="")  # of no known start: taken as it is
    assert given(samples_of(), unknown, whole=True).reference is unknown
