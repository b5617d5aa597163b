"""The universal solver: the same table in every door, and UniPC with a warning where there is none."""

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    EDMEulerScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
)
from problems import Mixture

import longstride as ls
from longstride.cores.choice import calls, closest_start
from longstride.integrations.diffusers import LongstrideScheduler

LATENT = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
SCHEDULES = {
    "edm": ls.Schedule.edm(),
    "flow": ls.Schedule.flow(),
    "ddpm": ls.Schedule.vp(),
    "latent": ls.Schedule.vp(**LATENT),
}


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("nfe", [3, 6, 9])
def test_a_table_spans_the_schedule(name: str, nfe: int) -> None:
    schedule = SCHEDULES[name]
    table = ls.universal(nfe, schedule=schedule)
    assert table.nfe == nfe
    assert table.exact
    assert table.name == "longstride"
    assert np.isclose(table.sigmas[0], schedule.sigma_range[1])
    assert table.sigmas[-1] == 0
    low = ls.universal(nfe, schedule=schedule, final="sigma_min")
    assert np.isclose(low.sigmas[-1], schedule.sigma_range[0])


def test_it_beats_what_people_use_on_an_exact_mixture() -> None:
    """A mixture that no table was fitted on, from EDM's start, against the converged solution."""
    problem = Mixture()
    noise = 80 * torch.randn(512, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    want = problem.solution(noise, (1.0, 80.0), (1.0, 0.0))

    def error(table: ls.SolverTable) -> float:
        return float((ls.sample(problem, noise, table) - want).square().mean().sqrt())

    for nfe in (5, 8):
        usual = ls.grid("karras", nfe, sigma_min=0.002, sigma_max=80.0)
        ours = error(ls.universal(nfe, schedule=ls.Schedule.edm(), data_std=1.2))
        assert ours < 0.8 * min(error(ls.build(name, usual)) for name in ("ddim", "dpmpp_2m", "unipc"))


def test_other_numbers_of_calls_and_starts_are_refused_with_what_to_run_instead() -> None:
    for nfe in (1, calls()[-1] + 1):
        with pytest.raises(ls.InputError, match=rf"got {nfe}: use longstride.build\('unipc'"):
            ls.universal(nfe, schedule=ls.Schedule.edm())
    with pytest.raises(ls.InputError, match="start at sigma / alpha of at least"):
        ls.universal(5, schedule=ls.Schedule.edm(), sigma_max=0.4 * closest_start())
    for bad in (0.0, -1.0, float("nan")):
        with pytest.raises(ls.InputError, match="positive data_std"):
            ls.universal(5, schedule=ls.Schedule.edm(), data_std=bad)
    with pytest.raises(ls.InputError, match="finite guidance"):
        ls.universal(5, schedule=ls.Schedule.edm(), guidance=float("inf"))


def test_unipc_runs_where_there_is_no_universal_table() -> None:
    levels = ls.grid("karras", 20, sigma_min=0.01, sigma_max=80.0)
    with pytest.warns(UserWarning, match="unipc of order 3 runs in its place"):
        table = ls.build("longstride", levels)
    assert table.distance(ls.build("unipc", levels, order=3)) == 0
    middle = ls.grid("karras", 5, sigma_min=0.01, sigma_max=1.0)
    with pytest.warns(UserWarning, match="too near for a universal table"):
        table = ls.build("longstride", middle)
    assert table.distance(ls.build("unipc", middle, order=3)) == 0


PIPELINES = {
    "edm": (EDMEulerScheduler(), ls.Schedule.edm(), 0.5),
    "flow": (FlowMatchEulerDiscreteScheduler(shift=3.0), ls.Schedule.flow(), 1.0),
    "latent": (DDIMScheduler(**LATENT, clip_sample=False, timestep_spacing="leading"), SCHEDULES["latent"], 1.0),
    "pixels": (DDIMScheduler(clip_sample=True), ls.Schedule.vp(), 0.5),
    "euler": (EulerDiscreteScheduler(**LATENT, timestep_spacing="leading"), SCHEDULES["latent"], 1.0),
}


@pytest.mark.parametrize("name", PIPELINES)
def test_a_pipeline_runs_it_by_its_name(name: str) -> None:
    """From the first level of the schedule, even if the pipeline's own times would begin below it."""
    theirs, schedule, std = PIPELINES[name]
    scheduler = LongstrideScheduler.from_config(theirs.config, solver="longstride")
    scheduler.set_timesteps(6)
    want = ls.universal(6, schedule=schedule, data_std=std)
    got = scheduler.setup.plan.table
    with np.errstate(divide="ignore"):
        ratios = got.sigmas / got.alphas
        assert np.allclose(ratios, want.sigmas / want.alphas, rtol=1e-5)
    assert np.allclose(got.b[1:] / got.alphas[1:, None], want.b[1:] / want.alphas[1:, None], atol=1e-4)
    told = scheduler.timesteps.double().numpy()
    assert np.allclose(told, scheduler.setup.settings.times_of(ratios[:-1]), rtol=1e-4, atol=1e-3)


def test_guidance_and_scale_reach_the_table() -> None:
    config = DDIMScheduler(**LATENT, clip_sample=False).config
    plain = LongstrideScheduler.from_config(config, solver="longstride")
    guided = LongstrideScheduler.from_config(config, solver="longstride", guidance_scale=7.5)
    other = LongstrideScheduler.from_config(config, solver="longstride", solver_options={"data_std": 0.8})
    tables = []
    for one in (plain, guided, other):
        one.set_timesteps(5)
        tables.append(one.setup.plan.table)
    assert [dict(one.options) for one in tables] == [
        {"data_std": 1.0, "guidance": 1.0},
        {"data_std": 1.0, "guidance": 7.5},
        {"data_std": 0.8, "guidance": 1.0},
    ]
    assert tables[0].distance(tables[1]) > 1e-3
    assert tables[0].distance(tables[2]) > 1e-3


def test_levels_for_dark_samples_give_way_to_a_start_that_lies_lower() -> None:
    schedule = ls.Schedule.edm()
    wide, wider = (ls.universal(5, schedule=schedule, data_std=std, dark=True) for std in (1.0, 2.4))
    assert wide.sigmas[1] < 0.9 * 80 + 1e-9
    assert wider.sigmas[1] == pytest.approx(0.9 * 80)
    low = ls.universal(5, schedule=schedule, data_std=0.1, dark=True)
    assert ls.universal(5, schedule=schedule, data_std=0.2, dark=True).sigmas[1:-1] == pytest.approx(
        2 * low.sigmas[1:-1]
    )
    with pytest.raises(ls.InputError, match="universal tables of dark samples make 5 to"):
        ls.universal(4, schedule=schedule, dark=True)


def test_a_pipeline_runs_a_table_for_dark_samples() -> None:
    theirs, schedule, std = PIPELINES["edm"]
    scheduler = LongstrideScheduler.from_config(theirs.config, solver="longstride", solver_options={"dark": True})
    scheduler.set_timesteps(6)
    got, want = scheduler.setup.plan.table, ls.universal(6, schedule=schedule, data_std=std, dark=True)
    assert np.allclose(got.sigmas, want.sigmas, rtol=1e-5)
    assert np.allclose(got.b, want.b, atol=1e-4)
    assert want.distance(ls.universal(6, schedule=schedule, data_std=std)) > 1e-2
