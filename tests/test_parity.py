"""Our solvers, grids and schedules against diffusers' own scheduler classes.

Solvers: both sides integrate the same nonlinear denoiser from the same noise over the scheduler's own levels, and the
final samples are compared. Where diffusers leaves the paper, one test shows the deviation and another what ours does.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from diffusers_reference import (
    MEANS,
    STABLE_DIFFUSION,
    TIGHT,
    Reference,
    assert_differs,
    assert_parity,
    by_sigma,
    by_time,
    clean,
    denoiser,
    difference,
    edm,
    flow_match,
    heun,
    ipndm,
    ours,
)
from torch import Tensor

import longstride as ls

pytestmark = [
    # diffusers announces the end of algorithm_type="dpmsolver".
    pytest.mark.filterwarnings("ignore:`algorithm_type:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*algorithm_type dpmsolver is deprecated:FutureWarning"),
]

DDIM, PNDM, IPNDM = diffusers.DDIMScheduler, diffusers.PNDMScheduler, diffusers.IPNDMScheduler
DEIS, UNIPC, HEUN = diffusers.DEISMultistepScheduler, diffusers.UniPCMultistepScheduler, diffusers.HeunDiscreteScheduler
MULTISTEP, SINGLESTEP = diffusers.DPMSolverMultistepScheduler, diffusers.DPMSolverSinglestepScheduler
EDM_EULER, EDM_MULTISTEP = diffusers.EDMEulerScheduler, diffusers.EDMDPMSolverMultistepScheduler
FLOW_MATCH = diffusers.FlowMatchEulerDiscreteScheduler

STEPS = (5, 10, 20)
SPACINGS: dict[str, dict[str, bool]] = {
    "plain": {},
    "karras": {"use_karras_sigmas": True},
    "lu": {"use_lu_lambdas": True},
    "exponential": {"use_exponential_sigmas": True},
}

POINT = MEANS[0]


def point(x_t: Tensor, alpha: float, sigma: float) -> Tensor:
    """Denoiser of data that are a single point: every consistent solver ends exactly there at sigma 0."""
    return POINT.expand_as(x_t)


# DDIM


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("spacing", ["leading", "trailing"])
@pytest.mark.parametrize("to_one", [True, False])
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_ddim(steps: int, spacing: str, to_one: bool, prediction: str) -> None:
    """With ``leading`` and ``set_alpha_to_one=False`` diffusers' last step goes from time 0 to time 0: a null step."""
    reference = by_time(DDIM, steps, prediction, timestep_spacing=spacing, set_alpha_to_one=to_one, clip_sample=False)
    assert_parity(reference, "ddim", drop=int(spacing == "leading" and not to_one))


@pytest.mark.parametrize("to_one", [True, False])
def test_ddim_with_offset(to_one: bool) -> None:
    """Stable Diffusion's setting: times 1, 101, … and a last step from time 1 to the final level."""
    reference = by_time(DDIM, 10, steps_offset=1, set_alpha_to_one=to_one, clip_sample=False, **STABLE_DIFFUSION)
    assert_parity(reference, "ddim")


@pytest.mark.parametrize("prediction", ["v_prediction", "sample"])
def test_ddim_from_zero_terminal_snr(prediction: str) -> None:
    """A start at alpha = 0, on the process's own scale."""
    reference = by_time(
        DDIM, 10, prediction, timestep_spacing="trailing", rescale_betas_zero_snr=True, clip_sample=False
    )
    assert reference.alphas[0] == 0
    assert_parity(reference, "ddim", own_scale=True)


def test_ddim_lands_beside_the_next_level_when_steps_do_not_divide_the_times() -> None:
    """``trailing`` rounds its times, but ``step`` always goes ``T // N`` back: 999, then 857, read as if it were 856.

    The state is therefore off its level and not even a single data point is reproduced. Our grid keeps the rounded
    times and every step ends where the next one starts.
    """
    reference = by_time(DDIM, 7, timestep_spacing="trailing", clip_sample=False)
    bars = reference.scheduler.alphas_cumprod.double().numpy()
    times, width = reference.scheduler.timesteps.tolist(), 1000 // 7
    assert [t - width for t in times[:-1]] != times[1:]
    assert times[-1] - width == 0  # nor does it end at the final level, alpha = 1

    x = reference.noise()
    for t in times:
        alphas, sigmas = np.sqrt(bars[[t, t - width]]), np.sqrt(1 - bars[[t, t - width]])
        table = ls.build("ddim", sigmas, alphas=alphas)
        x = ls.sample(denoiser(table), x, table)
    assert difference(reference.run(double=True), x) < TIGHT

    ratios = np.append(np.sqrt((1 - bars[times]) / bars[times]), 0.0)
    schedule = ls.Schedule.from_diffusers(reference.scheduler)
    np.testing.assert_allclose(ls.grid("uniform", 7, schedule=schedule), ratios, rtol=1e-12)
    table = ls.build("ddim", ratios)
    noise = reference.noise() / float(reference.alphas[0])
    assert_differs(reference, ls.sample(denoiser(table), noise, table))
    assert difference(ls.sample(denoiser(table, point), noise, table), POINT.expand(16, -1)) < TIGHT
    assert difference(reference.run(double=True, data=point), POINT.expand(16, -1)) > 1e-3


# PNDM


@pytest.mark.parametrize("steps", [4, 5, 10, 20, 25])
@pytest.mark.parametrize("to_one", [True, False])
@pytest.mark.parametrize("start", ["improved_euler", "runge_kutta"])
def test_pndm(steps: int, to_one: bool, start: str) -> None:
    """With ``set_alpha_to_one=False`` the last step goes from time 0 to time 0: a null step."""
    skip = start == "improved_euler"
    reference = by_time(PNDM, steps, skip_prk_steps=skip, set_alpha_to_one=to_one)
    schedule = ls.Schedule.from_diffusers(reference.scheduler)
    assert_parity(reference, "pndm", start=start, schedule=schedule, drop=int(not to_one))


@pytest.mark.parametrize(("steps", "same"), [(2, True), (3, False)])
def test_spndm_is_the_second_order_cap_that_diffusers_lacks(steps: int, same: bool) -> None:
    """Two steps use order 2 on both sides; from the third on diffusers has order 3 and S-PNDM stays at 2."""
    reference = by_time(PNDM, steps, skip_prk_steps=True, set_alpha_to_one=True)
    if same:
        assert_parity(reference, "spndm")
    else:
        assert_differs(reference, ours("spndm", reference))
        assert_parity(reference, "pndm", order=3, start="improved_euler")


def test_pndm_runge_kutta_misses_the_midpoint_of_an_odd_step() -> None:
    """``T // N // 2`` is not half of an odd ``T // N``: with 40 steps of 25 times diffusers' second stage is written to
    12 times below the start and read 13 below. Ours takes the level halfway in time."""
    reference = by_time(PNDM, 40, set_alpha_to_one=True)
    schedule = ls.Schedule.from_diffusers(reference.scheduler)
    assert_differs(reference, ours("pndm", reference, schedule=schedule), least=1e-6)
    alphas = [call[0] for call in reference.calls[:2] if isinstance(call, tuple)]
    table = reference.scheduler.alphas_cumprod.double().sqrt()
    assert alphas == [float(table[975]), float(table[975 - 13])]
    mine = ls.build("pndm", reference.ratios, schedule=schedule)
    assert schedule.time(mine.sigmas[1]) == pytest.approx(975 - 12.5)


def test_pndm_extrapolates_the_raw_network_output() -> None:
    """diffusers combines network outputs and turns the sum into noise with the current level's alpha and sigma. For
    v that mixes levels: not even a single data point is reproduced. Ours combines noise, whatever the network says."""
    by_noise = by_time(PNDM, 10, "epsilon", skip_prk_steps=True, set_alpha_to_one=True)
    by_v = by_time(PNDM, 10, "v_prediction", skip_prk_steps=True, set_alpha_to_one=True)
    target = POINT.expand(16, -1)
    assert difference(by_noise.run(double=True, data=point), target) < TIGHT
    assert difference(by_v.run(double=True, data=point), target) > 1e-2
    assert_differs(by_v, ours("pndm", by_v, start="improved_euler"), least=1e-2)


# iPNDM


@pytest.mark.parametrize("steps", [1, 2, 3, *STEPS])
def test_ipndm(steps: int) -> None:
    assert_parity(ipndm(IPNDM, steps, first=0.99), "ipndm", order=4)


def test_ipndm_drops_the_first_prediction_on_its_own_levels() -> None:
    """diffusers' iPNDM starts at alpha = 0, turns v into noise and divides ``x - noise = 0`` by alpha: the clean
    prediction that v holds there is lost, as if it were 0. Ours takes a DDIM step from alpha = 0."""
    reference = ipndm(IPNDM, 10)
    assert reference.alphas[0] == 0
    table = ls.build("ipndm", reference.sigmas, alphas=reference.alphas)

    def forgetful(x_t: Tensor, alpha: float, sigma: float) -> Tensor:
        return torch.zeros_like(x_t) if alpha == 0 else clean(x_t, alpha, sigma)

    theirs = reference.run(double=True)
    assert difference(theirs, ls.sample(denoiser(table, forgetful), reference.noise(), table)) < TIGHT
    assert_differs(reference, ours("ipndm", reference, own_scale=True), least=1e-2)


# DEIS


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("lower", [True, False])
@pytest.mark.parametrize("config", [{}, STABLE_DIFFUSION], ids=["ddpm", "stable_diffusion"])
def test_deis(steps: int, order: int, lower: bool, config: dict[str, Any]) -> None:
    """diffusers evaluates the third order's antiderivatives in float32, where their difference loses three
    digits: 1e-4 as shipped, against 1e-12 for the same formulas in double. Its levels end at sigma_min."""
    reference = by_sigma(DEIS, steps, solver_order=order, lower_order_final=lower, **config)
    assert_parity(
        reference,
        "deis",
        order=order,
        variable="log_rho",
        lower_order_final=lower and steps < 15,
        shipped=1e-3 if order == 3 else 1e-5,
    )


@pytest.mark.parametrize("order", [1, 2])
def test_deis_repeats_the_last_karras_level(order: int) -> None:
    """The level appended to Karras levels is the last one again: one network call for a null step."""
    reference = by_sigma(DEIS, 10, solver_order=order, use_karras_sigmas=True)
    assert reference.sigmas[-1] == reference.sigmas[-2]
    assert_parity(reference, "deis", order=order, variable="log_rho", drop=1)


@pytest.mark.parametrize("order", [2, 3])
def test_deis_is_log_rho_in_diffusers_and_time_in_the_paper(order: int) -> None:
    """The paper's tAB-DEIS fits polynomials in the network's time; diffusers implements the log-rho variant alone."""
    reference = by_sigma(DEIS, 20, solver_order=order)
    schedule = ls.Schedule.from_diffusers(reference.scheduler)
    assert_differs(reference, ours("deis", reference, order=order, schedule=schedule), least=1e-4)
    table = ls.build("deis", reference.ratios, order=order, schedule=schedule)
    assert table.distance(ls.build("deis", reference.ratios, order=order, variable="t", schedule=schedule)) == 0


# DPM-Solver, multistep


def multistep_options(order: int, lower: bool, solver_type: str, data: bool) -> dict[str, Any]:
    if order == 1:
        return {"name": "ddim"}
    name = {(2, True): "dpmpp_2m", (3, True): "dpmpp_3m", (2, False): "dpm_solver_2m", (3, False): "dpm_solver_3m"}
    return {"name": name[order, data], "lower_order_final": None if lower else False, "variant": solver_type}


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize(
    ("order", "solver_type"), [(1, "midpoint"), (2, "midpoint"), (2, "heun"), (3, "midpoint"), (3, "heun")]
)
@pytest.mark.parametrize("lower", [True, False])
@pytest.mark.parametrize(
    ("algorithm", "final", "spacing"),
    [
        ("dpmsolver++", "zero", "plain"),
        ("dpmsolver++", "zero", "karras"),
        ("dpmsolver++", "zero", "lu"),
        ("dpmsolver++", "sigma_min", "plain"),
        ("dpmsolver", "sigma_min", "plain"),
    ],
)
def test_dpm_solver_multistep(
    steps: int, order: int, solver_type: str, lower: bool, algorithm: str, final: str, spacing: str
) -> None:
    reference = by_sigma(
        MULTISTEP,
        steps,
        solver_order=order,
        solver_type=solver_type,
        lower_order_final=lower,
        algorithm_type=algorithm,
        final_sigmas_type=final,
        **SPACINGS[spacing],
    )
    assert_parity(reference, **multistep_options(order, lower, solver_type, algorithm == "dpmsolver++"))


@pytest.mark.parametrize("prediction", ["v_prediction", "sample"])
@pytest.mark.parametrize("algorithm", ["dpmsolver++", "dpmsolver"])
def test_dpm_solver_multistep_of_other_predictions(prediction: str, algorithm: str) -> None:
    reference = by_sigma(MULTISTEP, 10, prediction, algorithm_type=algorithm, final_sigmas_type="sigma_min")
    assert_parity(reference, **multistep_options(2, True, "midpoint", algorithm == "dpmsolver++"))


@pytest.mark.parametrize("name", ["dpmpp_3m", "dpm_solver_3m"])
def test_third_order_multistep_starts_with_the_exact_weight(name: str) -> None:
    """The second-order step before the third-order ones: ours weighs the difference by the exact integral, as the
    third-order formula does; diffusers does so with ``solver_type="heun"`` and not by default."""
    algorithm = "dpmsolver++" if name == "dpmpp_3m" else "dpmsolver"
    config = {"solver_order": 3, "algorithm_type": algorithm, "final_sigmas_type": "sigma_min"}
    assert_parity(by_sigma(MULTISTEP, 10, solver_type="heun", **config), name)
    assert_differs(by_sigma(MULTISTEP, 10, **config), ours(name, by_sigma(MULTISTEP, 10, **config)), least=1e-5)


@pytest.mark.parametrize("spacing", ["karras", "lu"])
@pytest.mark.parametrize(("solver_type", "finite"), [("midpoint", True), ("heun", False)])
def test_dpm_solver_repeats_the_last_level(spacing: str, solver_type: str, finite: bool) -> None:
    """Karras and Lu levels already end at sigma_min, and ``final_sigmas_type="sigma_min"`` appends it once more: a
    null step, and 0 / 0 where the weight divides by its width. Our grids end there once."""
    config = {"final_sigmas_type": "sigma_min", "lower_order_final": False, **SPACINGS[spacing]}
    reference = by_sigma(MULTISTEP, 10, solver_type=solver_type, **config)
    assert reference.sigmas[-1] == reference.sigmas[-2]
    options = multistep_options(2, False, solver_type, data=True)
    if finite:
        assert_parity(reference, drop=1, **options)
    else:
        assert not reference.run(double=True).isfinite().all()
        assert ours(reference=reference, drop=1, **options).isfinite().all()
    schedule = ls.Schedule.from_diffusers(reference.scheduler)
    grid = ls.grid("karras" if spacing == "karras" else "log_snr", 9, schedule=schedule, final="sigma_min")
    np.testing.assert_allclose(grid, reference.ratios[:-1], rtol=1e-6)


# DPM-Solver, single-step


def segments(order_list: list[int]) -> list[int]:
    """diffusers' orders, one per network call (1, 2, 3, 1, 2), as one order per step (3, 2)."""
    starts = [i for i, order in enumerate(order_list) if order == 1]
    return [end - start for start, end in pairwise([*starts, len(order_list)])]


def singlestep_options(reference: Reference, order: int, data: bool) -> dict[str, Any]:
    orders = {"orders": segments(reference.scheduler.order_list), "stages": "grid"}
    if order == 1:
        return {"name": "ddim"}
    if order == 2:
        return {"name": "dpmpp_2s" if data else "dpm_solver_2", **orders}
    return {
        "name": "dpm_solver_3",
        **orders,
        "prediction": "data" if data else "noise",
        "exact_second_stage": False,
    }


@pytest.mark.parametrize("steps", [5, 6, 7, 20])
@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("spacing", ["plain", "karras", "exponential"])
def test_dpm_solver_pp_singlestep(steps: int, order: int, spacing: str) -> None:
    reference = by_sigma(SINGLESTEP, steps, solver_order=order, lower_order_final=True, **SPACINGS[spacing])
    assert_parity(reference, **singlestep_options(reference, order, data=True))


@pytest.mark.parametrize("lower", [True, False])
@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("algorithm", ["dpmsolver++", "dpmsolver"])
@pytest.mark.parametrize("steps", [6, 12, 18])
def test_dpm_solver_singlestep_to_sigma_min(steps: int, algorithm: str, order: int, lower: bool) -> None:
    """On DDPM's schedule the noise prediction cancels states 157 times larger: float32 keeps three digits there, while
    the same steps in double agree. Stable Diffusion's schedule, up to 14.6, keeps the usual five as shipped."""
    config = {"solver_order": order, "lower_order_final": lower, "final_sigmas_type": "sigma_min"}
    data = algorithm == "dpmsolver++"
    for schedule, shipped in (({}, 1e-5 if data else 1e-3), (STABLE_DIFFUSION, 1e-5)):
        reference = by_sigma(SINGLESTEP, steps, algorithm_type=algorithm, **config, **schedule)
        assert_parity(reference, **singlestep_options(reference, order, data), shipped=shipped)


@pytest.mark.parametrize(
    ("name", "order", "options"),
    [
        ("dpmpp_2s", 2, {}),
        ("dpm_solver_2", 2, {}),
        ("dpm_solver_3", 3, {"exact_second_stage": False}),
        ("dpm_solver_3", 3, {"exact_second_stage": False, "prediction": "data"}),
    ],
)
def test_stages_lie_on_the_grid_in_diffusers_and_within_steps_in_the_papers(
    name: str, order: int, options: dict[str, Any]
) -> None:
    """A call of diffusers' single-step scheduler takes the next grid level as its stage, the papers a fraction of the
    step in lambda. Where the levels are even in lambda the two coincide: ours on every second (third) level."""
    data = name == "dpmpp_2s" or options.get("prediction") == "data"
    reference = by_sigma(
        SINGLESTEP,
        7,
        solver_order=order,
        lower_order_final=True,
        algorithm_type="dpmsolver++" if data else "dpmsolver",
        final_sigmas_type="zero" if data else "sigma_min",
        use_exponential_sigmas=True,
        **STABLE_DIFFUSION,
    )
    assert reference.scheduler.order_list[-1] == 1
    ratios = reference.ratios
    coarse = np.append(ratios[:-1:order], ratios[-1]) if data else ratios[:-1:order]  # else the last level repeats
    table = ls.build(name, coarse, **options)
    samples = ls.sample(denoiser(table), reference.noise() / float(reference.alphas[0]), table)
    # The scheduler's levels are rounded to float32, so they are even in lambda to 1e-7 only.
    assert difference(reference.run(double=True), samples) < 1e-5
    if order == 3:
        # Paper: the second stage weighs the difference by the exact integral; diffusers: by half of the first weight.
        exact = ls.build(name, coarse, **{**options, "exact_second_stage": True})
        noise = reference.noise() / float(reference.alphas[0])
        assert_differs(reference, ls.sample(denoiser(exact), noise, exact), least=1e-4)


# UniPC


@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("variant", ["bh1", "bh2"])
@pytest.mark.parametrize("lower", [True, False])
@pytest.mark.parametrize("corrector", [True, False])
@pytest.mark.parametrize("prediction", ["data", "noise"])
def test_unipc(order: int, variant: str, lower: bool, corrector: bool, prediction: str) -> None:
    """As for the single-step solvers, float32 keeps three digits of the noise prediction on DDPM's schedule."""
    three_digits = 1e-5 if prediction == "data" else 1e-3
    for steps, schedule, shipped in ((5, {}, three_digits), (10, {}, three_digits), (10, STABLE_DIFFUSION, 1e-5)):
        reference = by_sigma(
            UNIPC,
            steps,
            solver_order=order,
            solver_type=variant,
            lower_order_final=lower,
            disable_corrector=[] if corrector else list(range(steps)),
            predict_x0=prediction == "data",
            final_sigmas_type="sigma_min",
            **schedule,
        )
        assert_parity(
            reference,
            "unipc",
            order=order,
            variant=variant,
            lower_order_final=lower,
            corrector=corrector,
            prediction=prediction,
            shipped=shipped,
        )


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("spacing", ["plain", "karras", "exponential"])
@pytest.mark.parametrize("corrector", [True, False])
def test_unipc_to_zero(steps: int, order: int, spacing: str, corrector: bool) -> None:
    """diffusers' default: B(h) = e^h - 1, a last step of first order to sigma 0."""
    off = [] if corrector else list(range(steps))
    reference = by_sigma(UNIPC, steps, solver_order=order, disable_corrector=off, **SPACINGS[spacing])
    assert_parity(reference, "unipc", order=order, corrector=corrector)


@pytest.mark.parametrize(
    ("variant", "prediction", "lower"),
    [("bh1", "data", True), ("bh1", "noise", True), ("bh2", "noise", True), ("bh2", "data", False)],
)
def test_unipc_returns_nan_at_sigma_zero_where_ours_takes_the_limit(variant: str, prediction: str, lower: bool) -> None:
    """At sigma 0 lambda is infinite: diffusers multiplies 0 by B(h) = infinity with ``bh1``, 0 by e^h with the noise
    prediction, and divides by 0 / h at a last order above 1. Ours takes the limit of the first-order step."""
    config = {"solver_type": variant, "predict_x0": prediction == "data", "lower_order_final": lower}
    reference = by_sigma(UNIPC, 10, **config)
    assert reference.sigmas[-1] == 0
    assert not reference.run(double=True).isfinite().all()
    options = {"variant": variant, "prediction": prediction, "lower_order_final": lower}
    samples = ours("unipc", reference, **options)
    assert samples.isfinite().all()
    if lower:
        almost = np.append(reference.ratios[:-1], 1e-9)
        table = ls.build("unipc", almost, **options)
        noise = reference.noise() / float(reference.alphas[0])
        assert difference(ls.sample(denoiser(table), noise, table), samples) < 1e-6


# Heun and EDM


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("config", [{}, {"use_karras_sigmas": True}, {"timestep_spacing": "trailing"}])
def test_heun(steps: int, prediction: str, config: dict[str, Any]) -> None:
    assert_parity(heun(HEUN, steps, prediction, **config), "heun")


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("spacing", ["karras", "exponential"])
def test_edm_euler(steps: int, spacing: str) -> None:
    assert_parity(edm(EDM_EULER, steps, sigma_schedule=spacing), "ddim")


def test_edm_euler_repeats_the_last_level() -> None:
    """``final_sigmas_type="sigma_min"`` appends sigma_min to levels that end there: a null step."""
    reference = edm(EDM_EULER, 10, final_sigmas_type="sigma_min")
    assert reference.sigmas[-1] == reference.sigmas[-2]
    assert_parity(reference, "ddim", drop=1)


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("solver_type", ["midpoint", "heun"])
@pytest.mark.parametrize("lower", [True, False])
def test_edm_dpm_solver_multistep(steps: int, order: int, solver_type: str, lower: bool) -> None:
    reference = edm(EDM_MULTISTEP, steps, solver_order=order, solver_type=solver_type, lower_order_final=lower)
    assert_parity(reference, **multistep_options(order, lower, solver_type, data=True))


# Flow matching


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_flow_match_euler(steps: int, shift: float) -> None:
    """From alpha = 0, on the process's own scale."""
    reference = flow_match(FLOW_MATCH, steps, shift=shift)
    assert reference.alphas[0] == 0
    assert_parity(reference, "ddim", own_scale=True)


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize(("cls", "name"), [(MULTISTEP, "dpmpp_2m"), (UNIPC, "unipc")])
def test_flow_sigmas(cls: Any, name: str, steps: int) -> None:
    """Flow models: diffusers starts just below sigma 1, where lambda is still finite."""
    reference = by_sigma(cls, steps, "flow_prediction", use_flow_sigmas=True, flow_shift=3.0)
    assert_parity(reference, name, own_scale=True)


# Grids


@pytest.mark.parametrize("steps", [5, 7, 10, 20, 30])
@pytest.mark.parametrize(("spacing", "offset"), [("leading", 0), ("leading", 1), ("trailing", 0)])
def test_grid_of_ddim(steps: int, spacing: str, offset: int) -> None:
    scheduler = DDIM(timestep_spacing=spacing, steps_offset=offset)
    scheduler.set_timesteps(steps)
    schedule = ls.Schedule.from_diffusers(scheduler)
    grid = ls.grid("uniform", steps, schedule=schedule, spacing=spacing, steps_offset=offset)
    np.testing.assert_allclose(schedule.time(grid[:-1]), scheduler.timesteps.numpy(), atol=1e-9)
    assert grid[-1] == 0


@pytest.mark.parametrize("steps", [5, 7, 10, 20, 30])
@pytest.mark.parametrize(
    ("name", "spacing", "final"),
    [
        ("uniform", "plain", "zero"),
        ("uniform", "plain", "sigma_min"),
        ("karras", "karras", "zero"),
        ("log_snr", "lu", "zero"),
        ("log_snr", "exponential", "zero"),
    ],
)
@pytest.mark.parametrize("config", [{}, STABLE_DIFFUSION], ids=["ddpm", "stable_diffusion"])
def test_grid_of_dpm_solver(steps: int, name: str, spacing: str, final: Any, config: dict[str, Any]) -> None:
    scheduler = MULTISTEP(final_sigmas_type=final, **SPACINGS[spacing], **config)
    scheduler.set_timesteps(steps)
    schedule = ls.Schedule.from_diffusers(scheduler)
    grid = ls.grid(name, steps, schedule=schedule, spacing="linspace", final=final)
    np.testing.assert_allclose(grid, scheduler.sigmas.double().numpy(), rtol=1e-6)


@pytest.mark.parametrize("steps", [5, 10, 20])
def test_grid_of_edm(steps: int) -> None:
    scheduler = EDM_EULER()
    scheduler.set_timesteps(steps)
    grid = ls.grid("karras", steps, schedule=ls.Schedule.from_diffusers(scheduler))
    np.testing.assert_allclose(grid, scheduler.sigmas.double().numpy(), rtol=1e-6)


@pytest.mark.parametrize("steps", [4, 10, 28])
@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_grid_of_flow_pipelines(steps: int, shift: float) -> None:
    """Flux's pipeline passes ``linspace(1, 1 / N, N)`` and the scheduler shifts it."""
    scheduler = FLOW_MATCH(shift=shift)
    scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / steps, steps))
    schedule = ls.Schedule.from_diffusers(scheduler)
    grid = ls.grid("uniform", steps, schedule=schedule, spacing="trailing")
    np.testing.assert_allclose(grid, scheduler.sigmas.double().numpy(), rtol=1e-6)
    np.testing.assert_allclose(schedule.time(grid[:-1]), scheduler.timesteps.double().numpy(), rtol=1e-6)


def test_flow_match_shifts_its_own_range_twice() -> None:
    """Without ``sigmas`` the scheduler spaces levels down to its already shifted least level and shifts them again,
    so they end at 0.0089 where the network's range ends at 0.0030. Our grids shift once."""
    scheduler = FLOW_MATCH(shift=3.0)

    def shifted(sigma: float) -> float:
        return 3 * sigma / (1 + 2 * sigma)

    assert scheduler.sigma_min == pytest.approx(shifted(0.001), rel=1e-5)
    scheduler.set_timesteps(5)
    assert float(scheduler.sigmas[-2]) == pytest.approx(shifted(shifted(0.001)), rel=1e-5)
    grid = ls.grid("uniform", 5, schedule=ls.Schedule.from_diffusers(scheduler), spacing="trailing")
    assert grid[-2] == pytest.approx(shifted(1 / 5))


# Schedules


@pytest.mark.parametrize(
    ("config", "rule"),
    [
        ({}, {}),
        (STABLE_DIFFUSION, STABLE_DIFFUSION),
        ({"beta_schedule": "squaredcos_cap_v2"}, {"beta_schedule": "cosine"}),
    ],
    ids=["linear", "scaled_linear", "cosine"],
)
def test_schedule_of_ddpm(config: dict[str, Any], rule: dict[str, Any]) -> None:
    """Read exactly from the scheduler's float32 table, and the same as our own rule up to its rounding.

    Squared-cosine tables end at sigma / alpha = 2e4; levels above 2^12 are not told apart, so alpha is compared below.
    """
    scheduler = diffusers.DDPMScheduler(**config)
    schedule, times = ls.Schedule.from_diffusers(scheduler), np.arange(1000)
    bars = scheduler.alphas_cumprod.double().numpy()
    assert schedule.family == "vp"
    assert schedule.t_range == (0, 999)
    np.testing.assert_allclose(schedule.sigma(times) ** 2, 1 - bars, atol=1e-7)
    np.testing.assert_allclose(schedule.time(schedule.ratio(times)), times, atol=1e-6)
    told_apart = bars > 2.0**-24
    assert told_apart[:999].all()
    times, bars = times[told_apart], bars[told_apart]
    np.testing.assert_allclose(schedule.alpha(times) ** 2, bars, rtol=1e-12)
    np.testing.assert_allclose(ls.Schedule.vp(**rule).alpha(times) ** 2, bars, rtol=2e-4)


def test_schedule_of_zero_terminal_snr() -> None:
    scheduler = DDIM(rescale_betas_zero_snr=True)
    schedule = ls.Schedule.from_diffusers(scheduler)
    assert not schedule.scaled
    assert (float(schedule.alpha(999)), float(schedule.sigma(999))) == (0, 1)
    assert schedule.sigma_range[1] == 1
    bars = scheduler.alphas_cumprod.double().numpy()
    np.testing.assert_allclose(schedule.alpha(np.arange(998)) ** 2, bars[:998], rtol=1e-9, atol=2**-24)


def test_zero_terminal_snr_rises_at_the_end_in_the_multistep_schedulers() -> None:
    """To keep lambda finite they put 2^-24 in the place of 0, which is above the entry before it: the last training
    time is less noisy than the one before. The levels actually visited still fall, and parity holds on them."""
    scheduler = MULTISTEP(rescale_betas_zero_snr=True)
    assert float(scheduler.alphas_cumprod[-1]) == 2**-24
    assert scheduler.alphas_cumprod[-1] > scheduler.alphas_cumprod[-2]
    for cls, name in ((MULTISTEP, "dpmpp_2m"), (UNIPC, "unipc")):
        config = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
        assert_parity(by_sigma(cls, 10, "v_prediction", **config), name)


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_schedule_of_flow_match(shift: float) -> None:
    scheduler = FLOW_MATCH(shift=shift)
    schedule = ls.Schedule.from_diffusers(scheduler)
    assert schedule.family == "flow"
    sigmas = scheduler.sigmas.double().numpy()
    np.testing.assert_allclose(schedule.sigma(scheduler.timesteps.double().numpy()), sigmas, rtol=1e-6)
    np.testing.assert_allclose(schedule.paced_time(np.arange(1000, 0, -1) / 1000), 1000 * sigmas, rtol=1e-6)


@pytest.mark.parametrize("cls", [EDM_EULER, EDM_MULTISTEP])
def test_schedule_of_edm(cls: Any) -> None:
    schedule = ls.Schedule.from_diffusers(cls(sigma_min=0.01, sigma_max=40.0))
    assert schedule.family == "ve"
    assert schedule.sigma_range == (0.01, 40.0)
    assert float(schedule.time(3.0)) == 3.0
