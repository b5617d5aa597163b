"""The simulated roll-outs of the benchmark, on small made-up pools."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from problems import Mixture

import longstride as ls
from benchmarks.rollout_samples import Pool, shuffled, worse_by
from benchmarks.rollouts import CANARY, many
from longstride.rollout import Stage

#: Over sooner than the default stages.
STAGES = (
    Stage(share=0.1, requests=20),
    Stage(share=0.5, requests=40, measured=20, at_most={"error": 1.5}),
    Stage(share=1.0, requests=40, measured=30),
)


@pytest.fixture(scope="module")
def pool() -> Pool:
    rng = np.random.default_rng(0)
    base = rng.lognormal(-3, 0.5, 200)
    errors = {"base": base, "better": 0.6 * base * rng.lognormal(0, 0.2, 200), "worse": 1.5 * base}
    flags = {name: rng.random(200) < 0.03 for name in errors}
    return Pool(errors, {**flags, "worse": rng.random(200) < 0.5})


def test_most_roll_outs_end_as_they_should(pool):
    """In 12 runs each; an equal card goes back in one of twenty at most, so in none or one of these."""
    better = many(pool, "better", STAGES, 12, flags=True, measured=0.5)
    assert (better["complete"], better["rolled back"]) == (12, 0)
    equal = many(pool, "base", STAGES, 12, flags=True, measured=0.5, errors="apart")
    assert equal["rolled back"] <= 1
    by_errors = many(pool, "worse", CANARY, 12, flags=False, measured=1.0)
    by_flags = many(pool, "worse", CANARY, 12, flags=True, measured=0.0)
    assert by_errors["reasons"] == {"typical error": 12}
    assert by_flags["reasons"] == {"samples that the guard flags": 12}
    assert max(by_errors["requests"]["most"], by_flags["requests"]["most"]) < 1200


def test_a_pool_survives_its_file(pool):
    again = Pool.of(pool.arrays())
    assert again.about() == pool.about()
    assert again.about()["worse"]["rmse"] == pytest.approx(1.5 * again.about()["base"]["rmse"], rel=1e-3)


def test_bad_samplers_are_made_as_bad_as_they_should_be():
    table = ls.build("dpmpp_2m", ls.grid("karras", 4, sigma_min=0.05, sigma_max=20.0))
    mixed = shuffled(table)
    assert sorted(mixed.b[np.tril_indices(5, -1)]) == pytest.approx(sorted(table.b[np.tril_indices(5, -1)]))
    assert mixed.distance(table) > 0.1
    noise = 20 * np.random.default_rng(0).standard_normal((32, 6))
    start = torch.from_numpy(noise)
    converged = ls.solve_reference(Mixture(), start, table, check_samples=0).samples

    def rmse(sampler: ls.SolverTable) -> float:
        return float((ls.sample(Mixture(), start, sampler) - converged).square().mean().sqrt())

    assert rmse(worse_by(1.5, table, rmse)) == pytest.approx(1.5 * rmse(table), rel=0.01)
