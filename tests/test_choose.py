"""A sampler chosen by a few samples: universal where that is right, and classical where it is not."""

from functools import partial

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from problems import Mixture
from tiny_pipelines import make_pipeline

import longstride as ls
from longstride.calibration.choose import CANDIDATES, preferred
from longstride.cores.dark import kurtosis_of
from longstride.integrations.diffusers import LongstrideScheduler
from longstride.integrations.pipelines import choose_solver

EDM = ls.Schedule.edm()


def scaled(factor: float):
    problem = Mixture()
    return lambda x, sigma: factor * problem(x.double() / factor, sigma / factor)


def noise_of(count: int, size: int, seed: int = 0) -> torch.Tensor:
    return 80 * torch.randn(count, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("factor", [0.25, 1.0, 3.0])
def test_the_scale_follows_that_of_the_data(factor: float) -> None:
    found = ls.choose(scaled(factor), noise_of(3, 500), ls.universal(5, schedule=EDM), schedule=EDM)
    assert found.sample_std == pytest.approx(1.215 * factor, rel=0.1)  # of the mixture
    assert (found.solver, found.calls) == ("longstride", 84)
    assert found.options["data_std"] == found.sample_std
    assert found.table(8).distance(ls.universal(8, schedule=EDM, data_std=found.sample_std)) < 1e-12
    told = ls.choose(scaled(factor), noise_of(3, 500), ls.universal(5, schedule=EDM), schedule=EDM, data_std=factor)
    assert told.options["data_std"] == factor


def far(x: torch.Tensor, sigma: float, rare: float = 0.002, bright: float = 20.0) -> torch.Tensor:
    """Exact for numbers that are 0, or far away in a rare case: their standard deviation says little of them."""
    width = bright / 400
    variance = width**2 + sigma**2
    log = np.log(rare / (1 - rare)) + (x**2 - (x - bright) ** 2) / (2 * variance)
    mean = bright * torch.sigmoid(log)
    return mean + (width**2 / variance) * (x - mean)


def test_another_sampler_is_chosen_where_universal_tables_have_no_clear_lead() -> None:
    found = ls.choose(partial(far, rare=0.0005), noise_of(3, 4000), ls.universal(5, schedule=EDM), schedule=EDM)
    assert found.solver != "longstride"


@pytest.mark.parametrize("rare", [0.002, 0.01, 0.025])
def test_dark_tables_serve_dark_data_that_they_were_not_fitted_to(rare: float) -> None:
    """Independent entries that are 0, or bright in a rare case; errors on other noise than that which chose."""
    network = partial(far, rare=rare, bright=2.0)
    found = ls.choose(network, noise_of(3, 4000), ls.universal(5, schedule=EDM), schedule=EDM)
    assert found.options["dark"]
    noise = noise_of(8, 4000, seed=9)

    def sampled(solver: str, steps: int, order: int) -> torch.Tensor:
        return ls.sample(network, noise, ls.build(solver, ls.grid("karras", steps, schedule=EDM), order=order))

    exact = sampled("unipc", 300, 2)
    ours, classical = ls.sample(network, noise, found.table(5)), sampled("unipc", 5, 3)
    assert (ours - exact).square().mean() < 0.7 * (classical - exact).square().mean()


def test_another_candidate_must_lead_by_what_it_says() -> None:
    one = np.array([1.0, 2.0, 4.0])
    for name, lead in list(CANDIDATES.items())[1:]:
        assert preferred({"longstride": one, name: 0.98 * np.exp(-2 * lead) * one}) == name
        assert preferred({"longstride": one, name: 1.02 * np.exp(-2 * lead) * one}) == "longstride"
    assert preferred({"longstride": 0.8 * one, "unipc3": one}) == "longstride"
    assert preferred({"longstride": 0.8 * one, "unipc3": one}, dark=True) == "unipc3"
    assert preferred({"longstride": 0.5 * one, "unipc3": one}, dark=True) == "longstride"
    two = {"longstride@1": 0.6 * one, "longstride@2": 0.4 * one, "unipc3": one}
    assert preferred(two, dark=True) == "longstride@2"
    assert preferred({"unipc3": one, "dpmpp_2m": 0.9 * one}) == "unipc3"
    assert preferred({"unipc3": one, "dpmpp_2m": 0.5 * one}) == "dpmpp_2m"


def test_dark_samples_have_a_scale_of_their_own() -> None:
    """Numbers of which one in 40 is bright."""
    network = partial(far, rare=1 / 40, bright=2.0)
    found = ls.choose(network, noise_of(3, 4000), ls.universal(5, schedule=EDM), schedule=EDM)
    assert 15 < found.kurtosis < 100
    assert {"longstride@1", "longstride@2", "unipc3"} <= found.errors.keys()
    assert found.calls == 96
    if found.solver == "longstride":
        assert found.options["dark"]
        assert found.options["data_std"] in (found.sample_std, 2 * found.sample_std)
    assert kurtosis_of(noise_of(3, 10000)) == pytest.approx(3, rel=0.1)  # of normal data


def test_a_classical_sampler_is_chosen_where_no_universal_table_makes_as_many_calls() -> None:
    levels = ls.grid("karras", 13, schedule=EDM)
    found = ls.choose(Mixture(), noise_of(3, 50), ls.build("ddim", levels), schedule=EDM)
    assert found.solver in ("unipc", "dpmpp_2m")
    assert found.table(13).distance(ls.build(found.solver, levels, **found.options)) == 0


@pytest.mark.filterwarnings("ignore:universal tables make")
def test_a_flow_is_known_by_its_schedule() -> None:
    """A function knows no schedule."""
    schedule = ls.Schedule.flow()

    def network(x: torch.Tensor, sigma: float) -> torch.Tensor:
        alpha = 1 - sigma
        return alpha * x / (alpha**2 + sigma**2)  # exact for standard normal data

    noise, table = noise_of(3, 100) / 80, ls.universal(5, schedule=schedule)
    found = ls.choose(network, noise, table, schedule=schedule)
    assert (found.table(6).alphas[0], found.table(6).sigmas[-1]) == (0.0, 0.0)
    assert found.table(20).name == "unipc"
    with pytest.raises(ls.InputError, match="pass the schedule that it was made with"):
        ls.choose(network, noise, table)


def test_what_has_no_scale_is_refused() -> None:
    with pytest.raises(ls.InputError, match="the samples have standard deviation"):
        ls.choose(lambda x, sigma: 0 * x, noise_of(2, 3), ls.universal(5, schedule=EDM), schedule=EDM)
    with pytest.raises(ls.NonFiniteError, match="NaN or infinity at call"):
        ls.choose(lambda x, sigma: x / 0, noise_of(2, 3), ls.universal(5, schedule=EDM), schedule=EDM)


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize(("name", "guidance"), [("ddpm", None), ("stable_diffusion", 4.0), ("sd3", 4.0)])
def test_a_pipeline_runs_what_was_chosen_for_it(name: str, guidance: float | None, tmp_path) -> None:
    pipe: DiffusionPipeline = make_pipeline(name, tmp_path)
    theirs = pipe.scheduler
    options = {} if name == "ddpm" else {"height": 16, "width": 16}
    found = choose_solver(pipe, guidance_scale=guidance, options=options)
    assert pipe.scheduler is theirs
    assert found.calls <= 100
    scheduler = LongstrideScheduler.from_config(theirs.config, solver=found.solver, solver_options=found.options)
    scheduler.set_timesteps(6)
    if found.solver == "longstride":
        got, want = scheduler.setup.plan.table, found.table(6)
        assert np.allclose(got.b[1:] / got.alphas[1:, None], want.b[1:] / want.alphas[1:, None], atol=1e-4)
        assert found.options["guidance"] == (guidance or 1.0)
