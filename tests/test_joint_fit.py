"""Joint fits: exact denoisers are posterior means, and a step's equations are those of the loss."""

import numpy as np
import pytest
import torch

from benchmarks.networks.joint import Goal, Joint
from benchmarks.networks.members import Member
from benchmarks.networks.mixtures import mixture
from benchmarks.networks.solved import Solved
from longstride.cores import choice
from longstride.cores.core import Core

RNG = np.random.default_rng(0)
ROWS = np.concatenate([RNG.normal(size=(150, 3)) @ np.diag([1, 0.3, 0.2]) + 2, RNG.normal(size=(150, 3)) * 0.4 - 2])
CLASSES = np.repeat([0, 1], 150)


def model(labels=None):
    return mixture("rows", ROWS, labels, 4)


def log_density(network, x, sigma, prior):
    """Logarithm of the density of noisy rows, from the parts of the mixture."""
    parts = []
    for mean, values, vectors, log in zip(network.means, network.values, network.vectors, prior, strict=True):
        covariance = vectors.double() @ torch.diag(values.double() + sigma**2) @ vectors.double().T
        normal = torch.distributions.MultivariateNormal(mean.double(), covariance, validate_args=False)
        parts.append(log.double() + normal.log_prob(x))
    return torch.logsumexp(torch.stack(parts), 0)


@pytest.mark.parametrize("sigma", [0.05, 0.4, 5.0])
@pytest.mark.parametrize("label", [None, 0, 1])
def test_the_denoiser_is_the_posterior_mean(sigma, label) -> None:
    """Tweedie: D = x + sigma² ∇ log p."""
    made = model(None if label is None else CLASSES)
    denoiser = made.denoiser(range(6), labels=None if label is None else torch.full((6,), label))
    x = (
        torch.randn(6, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * (0.5 + sigma)
    ).requires_grad_()
    prior = made.network.prior[-1 if label is None else label]
    (score,) = torch.autograd.grad(log_density(made.network, x, sigma, prior).sum(), x)
    want = x.detach() + sigma**2 * score
    assert torch.allclose(denoiser(x.detach().float(), sigma).double(), want, atol=2e-4)


@pytest.fixture(scope="module")
def goal() -> Goal:
    member = Member("rows", "tables", model)
    return Goal.of(Solved(member, range(24), near=False), nfe=4, count=24)


def test_equations_are_those_of_the_loss(goal) -> None:
    """The gradient of the loss is minus twice the moment, as for any sum of squares with weights held."""
    core = choice.chosen_core(4, np.inf, 1.0)
    numbers = core.numbers
    steps = np.full(len(numbers), 1e-3)
    _, moment, loss = goal.equations(core, numbers, steps)
    assert loss == pytest.approx(goal.loss(core), rel=1e-5)

    def shifted(n, h):
        return goal.loss(Core.of(numbers + h * np.eye(len(numbers))[n], 4, core.start))

    slope = np.array([(shifted(n, 2e-3) - shifted(n, -2e-3)) / 4e-3 for n in range(len(numbers))])
    assert np.allclose(slope, -2 * moment, rtol=0.05, atol=0.02 * np.abs(slope).max())


def test_a_fit_lowers_the_aggregate_and_keeps_levels_falling(goal) -> None:
    told = []
    joint = Joint([goal], 80.0, 4.0, told.append)
    start = choice.chosen_core(4, np.inf, 1.0)
    before = joint.aggregate(joint.losses(start))
    found = Core.of(joint.fit(start.numbers, 4, 3), 4, 80.0)
    after = joint.aggregate(joint.losses(found))
    assert after < 0.9 * before
    assert (np.diff(np.concatenate([[80.0], found.levels, [0.0]])) < 0).all()
    assert told


def test_the_worst_network_counts_most() -> None:
    joint = Joint([], 80.0, 4.0, print)
    assert joint.aggregate(np.array([0.5, 0.5, 2.0])) > np.mean([0.5, 0.5, 2.0])
    assert joint.aggregate(np.array([0.7, 0.7])) == pytest.approx(0.7)
    assert joint.aggregate(np.array([0.7, np.inf])) == np.inf
