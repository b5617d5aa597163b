"""Runs of the scheduler whose tensors are written in place, and runs that are copied in the middle."""

from __future__ import annotations

import copy
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from tiny_pipelines import STABLE_DIFFUSION, make_pipeline
from torch import Tensor
from torch.overrides import TorchFunctionMode

import longstride as ls
from longstride.integrations.diffusers import LongstrideScheduler

EVERY = pytest.mark.parametrize("solver", ls.SOLVERS)
PREDICTIONS = pytest.mark.parametrize("prediction", ["epsilon", "sample", "v_prediction"])


def noise(seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(seed)).to(dtype)


def network(x: Tensor, t: Any) -> Tensor:
    return torch.tanh(0.3 * x.float() + float(t) / 1000).to(x.dtype)


def prepared(solver: str, steps: int = 8, **settings: Any) -> LongstrideScheduler:
    ours = LongstrideScheduler(solver=solver, **settings)
    ours.set_timesteps(steps)
    return ours


def clean_run(ours: LongstrideScheduler, x: Tensor) -> Tensor:
    for t in ours.timesteps:
        (x,) = ours.step(network(x, t), t, x, return_dict=False)
    return x


# Tensors of others


def written_whole(ours: LongstrideScheduler, x: Tensor) -> Tensor:
    """One tensor of latents and one of outputs for all steps."""
    latents, output = x.clone(), torch.empty_like(x)
    for t in ours.timesteps:
        output.copy_(network(latents, t))
        latents.copy_(ours.step(output, t, latents).prev_sample)
    return latents


def written_in_part(ours: LongstrideScheduler, x: Tensor) -> Tensor:
    """Latents behind a first frame, as image-to-video pipelines keep them."""
    whole = torch.cat([torch.zeros_like(x[:1]), x])
    for t in ours.timesteps:
        whole[1:] = ours.step(network(whole, t)[1:], t, whole[1:], return_dict=False)[0]
    return whole[1:]


def spoiled_afterwards(ours: LongstrideScheduler, x: Tensor) -> Tensor:
    """Every tensor that was handed over is overwritten after its step."""
    x = x.clone()
    for t in ours.timesteps:
        output = network(x, t)
        made = ours.step(output, t, x)
        for spoiled in (x, output, made.pred_original_sample):
            spoiled.fill_(float("nan"))
        x = made.prev_sample
    return x


@EVERY
@PREDICTIONS
@pytest.mark.parametrize("loop", [written_whole, written_in_part, spoiled_afterwards])
def test_tensors_of_others_may_be_written(solver: str, prediction: str, loop: Callable[..., Tensor]) -> None:
    ours = prepared(solver, prediction_type=prediction)
    expected = clean_run(prepared(solver, prediction_type=prediction), noise())
    assert torch.equal(loop(ours, noise()), expected)


@EVERY
def test_tensors_of_others_may_be_written_in_half_precision(solver: str) -> None:
    """The state that was returned is told from a changed one by its version, so nothing is rounded between steps."""
    expected = clean_run(prepared(solver), noise(dtype=torch.float16))
    assert torch.equal(spoiled_afterwards(prepared(solver), noise(dtype=torch.float16)), expected)


class Clones(TorchFunctionMode):
    """Counts copies of tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func is Tensor.clone
        return func(*args, **(kwargs or {}))


@EVERY
@PREDICTIONS
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_a_step_copies_only_what_a_later_row_reads(solver: str, prediction: str, dtype: torch.dtype) -> None:
    """States in half precision are widened anyway. Outputs become clean predictions, new tensors, unless they are."""
    ours = prepared(solver, prediction_type=prediction)
    states, outputs = ours.setup.plan.table.last_reader
    later_states = sum(last > k + 1 for k, last in enumerate(states[:-1]))
    later_outputs = sum(last > k + 1 for k, last in enumerate(outputs))
    with Clones() as clones:
        clean_run(ours, noise(dtype=dtype))
    expected = later_states if dtype == torch.float32 else 0
    if prediction == "sample" and dtype == torch.float32:
        expected += later_outputs
    assert clones.count == expected
    if solver in ("ddim", "dpmpp_2m", "unipc") and prediction != "sample":
        assert clones.count == 0


# Copies in the middle of a run


@EVERY
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
@pytest.mark.parametrize("after", [1, 3, 5])
def test_a_copy_goes_on_from_the_middle_of_a_run(solver: str, dtype: torch.dtype, after: int) -> None:
    expected = clean_run(prepared(solver), noise(dtype=dtype))
    ours, x = prepared(solver), noise(dtype=dtype)
    for t in ours.timesteps[:after]:
        x = ours.step(network(x, t), t, x).prev_sample
    copies = [copy.deepcopy(ours), copy.deepcopy(copy.deepcopy(ours)), ours]
    for one in copies:
        assert one.step_index == after
    for one in copies:  # one after the other: none of them moves another
        y = x
        for t in one.timesteps[after:]:
            y = one.step(network(y, t), t, y).prev_sample
        assert torch.equal(y, expected)


@EVERY
def test_several_views_share_a_scheduler_by_its_dictionary(solver: str) -> None:
    """As panorama pipelines do: the place of every view is saved and restored, and all begin with one saved place."""
    ours = prepared(solver)
    states = [noise(seed) for seed in range(3)]
    expected = [clean_run(prepared(solver), x) for x in states]
    saved = [copy.deepcopy(ours.__dict__)] * 3
    for t in ours.timesteps:
        for n, x in enumerate(states):
            ours.__dict__.update(saved[n])
            states[n] = ours.step(network(x, t), t, x).prev_sample
            saved[n] = copy.deepcopy(ours.__dict__)
    for found, right in zip(states, expected, strict=True):
        assert torch.equal(found, right)


def test_copies_share_what_does_not_change_and_no_run() -> None:
    ours = prepared("ipndm")
    ours.step(noise(), ours.timesteps[0], noise())
    other = copy.deepcopy(ours)
    assert other.setup is ours.setup
    other.set_timesteps(4)
    assert (other.step_index, len(other.timesteps)) == (None, 4)
    assert (ours.step_index, len(ours.timesteps)) == (1, 8)


def test_a_copy_holds_the_run_of_the_thread_that_made_it() -> None:
    """Other threads begin anew in it, also if they come first; the thread that made it goes on."""
    ours, expected = prepared("ipndm"), clean_run(prepared("ipndm"), noise())
    x = ours.step(network(noise(), ours.timesteps[0]), ours.timesteps[0], noise()).prev_sample
    other = copy.deepcopy(ours)
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(lambda: other.step_index).result() is None
        assert torch.equal(pool.submit(clean_run, other, noise()).result(), expected)
    assert other.step_index == 1
    for t in other.timesteps[1:]:
        x = other.step(network(x, t), t, x).prev_sample
    assert torch.equal(x, expected)


@pytest.mark.parametrize(
    ("solver", "theirs"),
    [("dpmpp_2m", diffusers.DPMSolverMultistepScheduler), ("deis", diffusers.DEISMultistepScheduler)],
)
def test_a_panorama_is_that_of_diffusers(solver: str, theirs: Any, tmp_path: Path) -> None:
    parts = make_pipeline("stable_diffusion", tmp_path).components
    pipe = diffusers.StableDiffusionPanoramaPipeline(**parts, requires_safety_checker=False)
    pipe.set_progress_bar_config(disable=True)
    call = {"prompt": "a cat", "height": 16, "width": 160, "num_inference_steps": 6, "output_type": "latent"}

    def drawn() -> Tensor:
        found: Tensor = pipe(**call, generator=torch.Generator().manual_seed(0)).images
        return found

    pipe.scheduler = theirs(**STABLE_DIFFUSION)
    expected = drawn()
    pipe.scheduler = LongstrideScheduler.from_config(pipe.scheduler.config, solver=solver)
    torch.testing.assert_close(drawn(), expected, rtol=1e-4, atol=1e-4)
