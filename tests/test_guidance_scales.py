"""A guidance scale of every call, on a network that packages hold: what it means, and that fits take it."""

from __future__ import annotations

import numpy as np
import torch

import longstride as ls
from benchmarks.guidance_scales import Guided, fitted
from longstride.calibration.loss import Loss
from longstride.cores.choice import chosen_core

CORE = chosen_core(4, 160.0, 3.0)


def test_scales_of_one_are_the_guided_run_and_its_inverse_is_the_plain_one(tmp_path):
    few = Guided("wine@3", range(6), tmp_path)
    table = few.solved.core(CORE)
    told = few.ends(CORE, np.zeros(4))
    torch.testing.assert_close(told, ls.sample(few.solved.denoiser, few.solved.noise, table), rtol=1e-4, atol=1e-5)
    unguided = few.ends(CORE, np.full(4, -np.log(3.0)))
    torch.testing.assert_close(unguided, ls.sample(few.plain, few.solved.noise, table), rtol=1e-4, atol=1e-5)
    assert float((told - unguided).abs().max()) > 0.01


def test_a_fit_with_scales_moves_them_and_lowers_the_loss(tmp_path):
    few = Guided("wine@3", range(8), tmp_path)
    own, logs = fitted(few, CORE, True)
    before, after = few.squared(CORE, np.zeros(4)), few.squared(own, logs)
    loss = Loss(float(np.median(before)))
    assert loss.value(after).mean() < 0.5 * loss.value(before).mean()
    assert np.abs(logs).max() > 1e-3
    assert not fitted(few, CORE, False)[1].any()
