"""The scale of universal tables, chosen by a few samples."""

import numpy as np
import pytest
import torch
from problems import Mixture

import longstride as ls
from longstride.calibration.scale import chosen


def scaled(factor: float):
    problem = Mixture()
    return lambda x, sigma: factor * problem(x.double() / factor, sigma / factor)


@pytest.mark.parametrize("factor", [0.25, 1.0, 3.0])
def test_the_scale_follows_that_of_the_data(factor: float) -> None:
    schedule = ls.Schedule.edm()
    noise = 80 * torch.randn(3, 500, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = ls.measure_std(scaled(factor), noise, ls.universal(5, schedule=schedule, data_std=factor))
    assert found.sample_std == pytest.approx(1.215 * factor, rel=0.1)  # of the mixture
    assert found.calls == 93
    assert found.data_std in found.errors
    assert {round(scale / found.sample_std, 6) for scale in found.errors} <= {0.5, 1.0, 2.0}


def test_of_the_tables_the_nearest_is_chosen() -> None:
    noise = 80 * torch.randn(4, 500, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = ls.measure_std(scaled(1.0), noise, ls.universal(6, schedule=ls.Schedule.edm()))
    assert found.errors[found.data_std] <= 1.3 * min(found.errors.values())


def test_another_scale_must_be_clearly_better_on_every_sample() -> None:
    one = np.array([1.0, 2.0, 4.0])
    assert chosen({0.5: 0.5 * one, 1.0: one, 2.0: 3 * one}) == 0.5
    assert chosen({0.5: 0.7 * one, 1.0: one}) == 1.0  # not clearly
    assert chosen({0.5: np.array([0.1, 0.2, 4.1]), 1.0: one}) == 1.0  # not on every sample
    assert chosen({0.5: 0.5 * one, 1.0: one, 2.0: 0.2 * one}) == 2.0
    assert chosen({0.25: one, 0.5: 0.9 * one}) == 0.5


def test_what_has_no_scale_is_refused() -> None:
    table = ls.universal(5, schedule=ls.Schedule.edm())
    with pytest.raises(ls.InputError, match="have standard deviation 0"):
        ls.measure_std(lambda x, sigma: 0 * x, 80 * torch.randn(2, 3), table)
    near = ls.build("ddim", ls.grid("karras", 5, sigma_min=0.1, sigma_max=2.0))
    with pytest.raises(ls.InputError, match="no universal table of 5 calls between these levels"):
        ls.measure_std(scaled(1.0), 2 * torch.randn(3, 500, dtype=torch.float64), near)
