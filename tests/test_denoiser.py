"""One function for every network: predictions, guidance, times, counting."""

from __future__ import annotations

from collections import OrderedDict
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from problems import Mixture

import longstride as ls

SCHEDULES = {
    "ve": ls.Schedule.edm(),
    "vp": ls.Schedule.vp(),
    "continuous": ls.Schedule.vp_continuous(),
    "zero_snr": ls.Schedule.vp(np.append(np.linspace(0.999, 0.01, 999), 0.0)),
    "flow": ls.Schedule.flow(),
}
#: What a network that knows the clean picture and the noise returns.
TARGETS = {
    "noise": lambda clean, noise, alpha, sigma: noise,
    "data": lambda clean, noise, alpha, sigma: clean,
    "v": lambda clean, noise, alpha, sigma: alpha * noise - sigma * clean,
    "flow": lambda clean, noise, alpha, sigma: noise - clean,
    "score": lambda clean, noise, alpha, sigma: -noise / sigma,
}
WHERE = [(name, kind) for name in SCHEDULES for kind in TARGETS if kind != "flow" or name == "flow"]


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def frame_levels(schedule):
    """Levels at whole and fractional times, in the sampler's frame."""
    low, high = schedule.t_range
    return schedule.frame_sigma(low + (high - low) * np.array([0.02, 0.3, 0.5123, 0.9])).tolist()


class Recorder:
    """A network that keeps what it was given."""

    def __init__(self, answer=lambda x, t, **condition: x):
        self.answer, self.seen = answer, []

    def __call__(self, x, t, **condition):
        self.seen.append((x, t, condition))
        return self.answer(x, t, **condition)


# Predictions


@pytest.mark.parametrize(("name", "kind"), WHERE)
def test_every_prediction_recovers_the_clean_picture(name, kind):
    """A network that is right about one pair (clean, noise) on its own scale gives back the clean one."""
    schedule, clean, noise = SCHEDULES[name], normal(2, 3, 4, 4), normal(2, 3, 4, 4, seed=1)

    def network(x_t, t):
        alpha, sigma = float(schedule.alpha(level_time)), float(schedule.sigma(level_time))
        torch.testing.assert_close(x_t, alpha * clean + sigma * noise, rtol=1e-9, atol=1e-9)
        return TARGETS[kind](clean, noise, alpha, sigma)

    denoiser = ls.as_denoiser(network, schedule, kind)
    for level in frame_levels(schedule):
        level_time = schedule.time(level)
        x = float(schedule.frame_alpha(level)) * clean + level * noise
        torch.testing.assert_close(denoiser(x, level), clean, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("name", "kind"), [pair for pair in WHERE if pair[0] in ("zero_snr", "flow")])
def test_pure_noise_tells_the_clean_picture_to_some_predictions(name, kind):
    clean, noise = normal(2, 3), normal(2, 3, seed=1)
    denoiser = ls.as_denoiser(lambda x, t: TARGETS[kind](clean, noise, 0.0, 1.0), SCHEDULES[name], kind)
    if kind in ("noise", "score"):
        with pytest.raises(ls.InputError, match=f"a {kind} prediction does not tell the clean picture at alpha = 0"):
            denoiser(noise, 1.0)
    else:
        torch.testing.assert_close(denoiser(noise, 1.0), clean)


@pytest.mark.parametrize(("name", "kind"), WHERE)
def test_sampling_does_not_depend_on_the_prediction(name, kind):
    """The exact network of a mixture, seen through every prediction, draws the samples of its exact denoiser."""
    schedule, problem = SCHEDULES[name], Mixture()
    low, high = schedule.t_range
    levels = schedule.frame_sigma(high + (low - high) * np.linspace(0.1, 0.9, 6))

    def network(x_t, t):
        # The level from the denoiser's own state: the times that a network is told are float32.
        alpha, sigma = (float(f(schedule.time(current))) for f in (schedule.alpha, schedule.sigma))
        clean = problem(x_t, sigma, alpha)
        return TARGETS[kind](clean, (x_t - alpha * clean) / sigma, alpha, sigma)

    wrapped = ls.as_denoiser(network, schedule, kind)

    def denoiser(x, sigma):
        nonlocal current
        current = sigma
        return wrapped(x, sigma)

    current = levels[0]
    table, start = ls.build("dpmpp_2m", levels, schedule=schedule), levels[0] * normal(4, 3)
    wanted = ls.sample(lambda x, sigma: problem(x, sigma, float(schedule.frame_alpha(sigma))), start, table)
    torch.testing.assert_close(ls.sample(denoiser, start, table), wanted, rtol=1e-9, atol=1e-9)


def test_thresholding_belongs_to_the_denoiser():
    denoiser = ls.as_denoiser(lambda x, t: x, ls.Schedule.edm(), "data", threshold=lambda clean: clean.clamp(-1, 1))
    torch.testing.assert_close(denoiser(torch.tensor([[-3.0, 0.5, 2.0]]), 1.0), torch.tensor([[-1.0, 0.5, 1.0]]))


# What the network is told


@pytest.mark.parametrize("name", SCHEDULES)
def test_times_are_the_schedule_s(name):
    schedule, network = SCHEDULES[name], Recorder()
    denoiser = ls.as_denoiser(network, schedule, "data")
    for level in frame_levels(schedule):
        denoiser(torch.ones(3, 2), level)
        t = network.seen[-1][1]
        assert t.dtype == torch.float32
        assert t.tolist() == pytest.approx([float(schedule.time(level))] * 3, rel=1e-6)


def test_fractional_times_are_not_rounded():
    schedule, network = ls.Schedule.vp(), Recorder()
    ls.as_denoiser(network, schedule)(torch.ones(1, 2), float(schedule.frame_sigma(123.25)))
    assert network.seen[0][1].item() == pytest.approx(123.25, rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_network_s_precision(dtype):
    """The network reads and writes half precision; the clean prediction is formed in float32."""
    network = Recorder()
    x = normal(2, 3).float()
    clean = ls.as_denoiser(network, ls.Schedule.edm(), "noise", dtype=dtype)(x, 0.5)
    assert network.seen[0][0].dtype == dtype
    torch.testing.assert_close(clean, x - 0.5 * x.to(dtype).float(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda out: (out, "more"),
        lambda out: SimpleNamespace(sample=out),
        lambda out: type("BaseOutput", (OrderedDict,), {"sample": out})(),
        lambda out: torch.cat([out, torch.full_like(out, 9.0)], 1),  # learned variance
        lambda out: SimpleNamespace(sample=torch.cat([out, torch.full_like(out, 9.0)], 1)),
    ],
    ids=["tuple", "object", "diffusers", "variance", "diffusers-variance"],
)
@pytest.mark.parametrize("guided", [False, True])
def test_what_networks_return(wrap, guided):
    options = {"condition": {"c": torch.zeros(2)}, "uncondition": {"c": torch.zeros(1)}, "guidance": 2.0}
    denoiser = ls.as_denoiser(lambda x, t, **c: wrap(0.5 * x), ls.Schedule.edm(), "data", **(options if guided else {}))
    x = normal(2, 3, 4, 4)
    torch.testing.assert_close(denoiser(x, 1.0), 0.5 * x)


def test_one_number_per_sample():
    denoiser = ls.as_denoiser(lambda x, t: 0.5 * x, ls.Schedule.edm(), "data")
    torch.testing.assert_close(denoiser(normal(4), 1.0), 0.5 * normal(4))


# Guidance and conditions


def labelled(x, t, label, scale=1.0):
    """A network whose output depends on the label of every sample and on its time."""
    return scale * (x * (1 + label.view(-1, *(1,) * (x.ndim - 1))) + t.view(-1, *(1,) * (x.ndim - 1)))


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("weight", [0.0, 1.0, 3.5])
def test_guidance_is_two_separate_calls(name, weight):
    """u + w (c - u) on the clean predictions too, since these are affine in the output."""
    schedule, x, labels, null = SCHEDULES[name], normal(3, 2, 4), torch.tensor([1.0, 2.0, 5.0]), torch.tensor([-1.0])
    level = frame_levels(schedule)[1]
    guided = ls.as_denoiser(
        labelled,
        schedule,
        "v",
        condition={"label": labels, "scale": 0.5},
        uncondition={"label": null},
        guidance=weight,
    )
    c, u = (
        ls.as_denoiser(labelled, schedule, "v", condition={"label": value, "scale": 0.5})(x, level)
        for value in (labels, null.expand(3))
    )
    torch.testing.assert_close(guided(x, level), u + weight * (c - u), rtol=1e-10, atol=1e-10)


def test_guidance_is_one_call_at_twice_the_batch():
    network = Recorder(labelled)
    denoiser = ls.as_denoiser(
        network,
        ls.Schedule.edm(),
        "data",
        condition={"label": torch.ones(3)},
        uncondition={"label": torch.zeros(1)},
        guidance=2.0,
    )
    denoiser(normal(3, 2), 1.0)
    (x, t, condition), *others = network.seen
    assert not others
    assert (len(x), len(t), condition["label"].tolist()) == (6, 6, [1, 1, 1, 0, 0, 0])
    torch.testing.assert_close(x[:3], x[3:])


@pytest.mark.parametrize(("guidance", "cost"), [(None, 1), (2.0, 2)])
def test_counting(guidance, cost):
    denoiser = ls.as_denoiser(
        labelled,
        ls.Schedule.edm(),
        condition={"label": torch.ones(5)},
        uncondition={"label": torch.zeros(1)},
        guidance=guidance,
    )
    assert (denoiser.calls, denoiser.cost) == (0, cost)
    table = ls.build("heun", ls.grid("karras", 4, schedule=denoiser.schedule))
    ls.sample(denoiser, normal(5, 2), table)
    assert denoiser.calls == 5 * table.nfe * cost == 5 * 7 * cost


def test_views_share_the_count_and_keep_their_own_conditions():
    denoiser = ls.as_denoiser(
        labelled, ls.Schedule.edm(), "data", condition={"label": torch.tensor([0.0, 1.0, 2.0]), "scale": 0.5}
    )
    x = normal(3, 2)
    whole, part = denoiser(x, 1.0), denoiser.select(slice(1, 3))(x[1:], 1.0)
    torch.testing.assert_close(part, whole[1:])
    other = denoiser.with_condition(label=torch.full((3,), 7.0))
    torch.testing.assert_close(other(x, 1.0), 0.5 * (8 * x + 1))
    torch.testing.assert_close(denoiser(x, 1.0), whole)
    assert denoiser.calls == other.calls == 3 + 2 + 3 + 3


# Errors


@pytest.mark.parametrize(
    ("schedule", "options", "message"),
    [
        ("vp", {"prediction": "epsilon"}, "unknown prediction 'epsilon'.*known: data, flow, noise, score, v"),
        ("vp", {"prediction": "nois"}, "unknown prediction 'nois': did you mean 'noise'"),
        ("vp", {"prediction": "flow"}, "a flow prediction needs a flow schedule, got family 'vp'"),
        ("ve", {"guidance": 2.0}, "guidance needs uncondition="),
        ("ve", {"guidance": 2.0, "uncondition": {}}, "guidance needs uncondition="),
    ],
)
def test_refusals(schedule, options, message):
    with pytest.raises(ls.InputError, match=message):
        ls.as_denoiser(labelled, SCHEDULES[schedule], **options)


def test_guidance_without_a_condition_is_not_silently_dropped():
    denoiser = ls.as_denoiser(lambda x, t: x, ls.Schedule.edm(), uncondition={"label": torch.zeros(1)}, guidance=2.0)
    with pytest.raises(ls.InputError, match=r"uncondition gives \['label'\], which condition lacks"):
        denoiser(normal(3, 2), 1.0)
    with_label = ls.as_denoiser(
        labelled, ls.Schedule.edm(), uncondition={"label": torch.zeros(1)}, guidance=2.0
    ).with_condition(label=torch.ones(3))
    assert with_label(normal(3, 2), 1.0).shape == (3, 2)
