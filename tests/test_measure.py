"""Groups of batches, and errors in closed form."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from longstride.calibration.reference.solve import errors
from longstride.evaluation.frechet import Moments, frechet_distance
from longstride.evaluation.measure import GROUPS, split_batches


def test_rmse_and_median_in_closed_form():
    target = torch.zeros(4, 1, 2, 2)
    samples = torch.stack([torch.full((1, 2, 2), v) for v in (0.1, 0.2, 0.4, 2.0)])
    found = errors(samples, target)
    assert found.rmse == pytest.approx(((0.01 + 0.04 + 0.16 + 4) / 4) ** 0.5)
    assert found.median == pytest.approx(0.3)


@pytest.mark.parametrize(("samples", "batch"), [(1, 4), (10, 3), (100, 1), (1000, 7)])
def test_groups_of_batches_cover_the_seeds_once_and_evenly(samples, batch):
    groups = split_batches(range(5, 5 + samples), batch)
    assert [seed for group in groups for part in group for seed in part] == list(range(5, 5 + samples))
    assert len(groups) == min(GROUPS, -(-samples // batch))
    sizes = {len(group) for group in groups}
    assert max(sizes) - min(sizes) <= 1


def test_the_distance_of_a_study_is_the_distance_of_its_coordinates():
    """Moments of groups, summed, give the distance of all samples."""
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(40, 3)), rng.normal(size=(40, 3)) * 1.5 + 0.3
    packed = [sum(Moments.of(part).pack() for part in np.split(x, 4)) for x in (a, b)]
    grouped = frechet_distance(*(Moments.unpack(p, 3) for p in packed))
    assert grouped == pytest.approx(frechet_distance(Moments.of(a), Moments.of(b)), rel=1e-9)
