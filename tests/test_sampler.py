"""The sampling loop: shapes, precisions, what it tells and checks, and what it holds in memory."""

from __future__ import annotations

import weakref

import numpy as np
import pytest
import torch
from problems import Mixture
from torch import Tensor
from torch.overrides import TorchFunctionMode

import longstride as ls
from longstride.sampler import Run
from longstride.solvers import CLASSICAL_SOLVERS

EVERY = pytest.mark.parametrize("name", CLASSICAL_SOLVERS)


class Clones(TorchFunctionMode):
    """Counts copies of tensors."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        self.count += func is Tensor.clone
        return func(*args, **(kwargs or {}))


def table_of(name="dpmpp_2m", steps=8, **options):
    sigmas = np.append(np.geomspace(10.0, 0.1, steps), 0.0)
    return ls.build(name, sigmas, **options)


def noise_of(*shape, dtype=torch.float64):
    return 10 * torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype)


# Shapes and precisions


@EVERY
def test_any_shape_is_sampled_coordinate_by_coordinate(name):
    """Images, sound, video, point sets, single vectors and scalars, each equal to the flat list of its numbers."""
    table, problem = table_of(name), Mixture()
    for shape in [(2, 3, 4, 4), (2, 1, 24), (2, 2, 3, 2, 2), (2, 8, 3), (24,), ()]:
        noise = noise_of(*shape)
        samples = ls.sample(problem, noise, table)
        assert samples.shape == shape
        torch.testing.assert_close(
            samples.flatten(), ls.sample(problem, noise.flatten(), table), rtol=1e-12, atol=1e-12
        )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_dtypes_of_states_and_samples(dtype):
    seen = set()

    def denoiser(x, sigma):
        seen.add((x.dtype, type(sigma)))
        return x / (1 + sigma**2)

    assert ls.sample(denoiser, noise_of(3, dtype=dtype), table_of()).dtype == dtype
    assert seen == {(dtype, float)}


@EVERY
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_networks_are_summed_in_float32(name, dtype):
    """Only what the network reads and writes is rounded: the result is that of a float32 run which rounds there."""
    table, noise = table_of(name, 12), noise_of(64, dtype=dtype)
    half = ls.sample(Mixture(), noise, table)
    single = ls.sample(lambda x, sigma: Mixture()(x.to(dtype), sigma).float(), noise.float(), table)
    torch.testing.assert_close(half, single.to(dtype), rtol=0, atol=0)


def test_states_are_not_rounded_to_half_between_steps():
    """A hundred steps that each add less than half precision resolves at 1 still add up."""
    sigmas = np.linspace(10.0, 9.0, 101)
    noise = torch.full((4,), 10.0, dtype=torch.float16)
    samples = ls.sample(lambda x, sigma: torch.zeros_like(x), noise, ls.build("ddim", sigmas))
    torch.testing.assert_close(samples, torch.full((4,), 9.0, dtype=torch.float16), rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_float32_network_does_not_narrow_float64_states(dtype):
    """The sum stays in the wider precision whatever the network returns."""
    table, noise = table_of(), noise_of(16)
    samples = ls.sample(lambda x, sigma: Mixture()(x, sigma).to(dtype), noise, table)
    assert samples.dtype == torch.float64
    torch.testing.assert_close(samples, ls.sample(Mixture(), noise, table), rtol=1e-5, atol=1e-5)


def test_noise_is_left_alone():
    noise = noise_of(5)
    before = noise.clone()
    samples = ls.sample(Mixture(), noise, table_of())
    assert torch.equal(noise, before)
    assert samples.data_ptr() != noise.data_ptr()


# What it tells


@EVERY
def test_callback_sees_every_call_in_order(name):
    table, calls, seen = table_of(name), [], []

    def denoiser(x, sigma):
        calls.append((sigma, x.clone()))
        return Mixture()(x, sigma)

    ls.sample(denoiser, noise_of(4), table, callback=lambda *call: seen.append(call))
    assert [k for k, *_ in seen] == list(range(table.nfe))
    assert [sigma for _, sigma, *_ in seen] == [sigma for sigma, _ in calls] == table.sigmas[:-1].tolist()
    for (_, sigma, x, prediction), (_, given) in zip(seen, calls, strict=True):
        assert torch.equal(x, given)
        assert torch.equal(prediction, Mixture()(given, sigma))


def test_no_gradients_are_recorded():
    weight, modes = torch.ones(4, dtype=torch.float64, requires_grad=True), []

    def network(x, sigma):
        modes.append(torch.is_inference_mode_enabled())
        return weight * x / (1 + sigma**2)

    assert not ls.sample(network, noise_of(4), table_of()).requires_grad
    assert all(modes)
    assert len(modes) == 8


@EVERY
def test_a_run_step_by_step_is_the_loop(name):
    table, noise = table_of(name), noise_of(16)
    run = Run(noise, table, keep=True)
    while run.k < table.nfe:
        run.see(Mixture()(run.x, run.sigma))
        run.advance(table.rows[run.k])
    assert torch.equal(run.x, ls.sample(Mixture(), noise, table))
    assert sorted(run.history.states) == list(range(table.nfe + 1))
    assert sorted(run.history.outputs) == list(range(table.nfe))


def test_other_rows_and_forks():
    noise, table = noise_of(4), table_of(steps=2)
    run = Run(noise, table, keep=True)
    run.see(Mixture()(noise, run.sigma))
    fork = run.fork(table)
    run.advance(ls.Row({0: 2.0}, {0: -1.0}))
    torch.testing.assert_close(run.x, 2 * noise - Mixture()(noise, 10.0))
    fork.advance()
    fork.see(Mixture()(fork.x, fork.sigma))
    fork.advance()
    assert torch.equal(fork.x, ls.sample(Mixture(), noise, table))
    assert (run.k, fork.k) == (1, 2)


@EVERY
def test_a_known_first_output_saves_the_call(name):
    table, noise, calls = table_of(name), noise_of(4), []

    def counted(x, sigma):
        calls.append(sigma)
        return Mixture()(x, sigma)

    first = Mixture()(noise, float(table.sigmas[0]))
    assert torch.equal(ls.sample(counted, noise, table, first=first), ls.sample(Mixture(), noise, table))
    assert calls == table.sigmas[1:-1].tolist()


# Tensors of others


class WithBuffer:
    """A denoiser that returns one and the same tensor at every call, and writes into the state that it gets."""

    def __init__(self) -> None:
        self.buffer = None

    def __call__(self, x, sigma):
        found = Mixture()(x, sigma)
        self.buffer = found if self.buffer is None else self.buffer
        self.buffer.copy_(found)
        x.fill_(float("nan"))
        return self.buffer


@EVERY
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_a_denoiser_may_write_into_its_state_and_use_its_output_again(name, dtype):
    table, noise = table_of(name), noise_of(16, dtype=dtype)
    before = noise.clone()
    expected = ls.sample(Mixture(), noise, table)
    assert torch.equal(ls.sample(WithBuffer(), noise, table), expected)
    assert torch.equal(Run(noise, table).finish(WithBuffer()), expected)
    assert torch.equal(noise, before)


@EVERY
def test_a_callback_may_write_into_what_it_is_told(name):
    def clamp_preview(k, sigma, x, prediction):
        x.zero_()
        prediction.zero_()

    table, noise = table_of(name), noise_of(16)
    assert torch.equal(ls.sample(Mixture(), noise, table, callback=clamp_preview), ls.sample(Mixture(), noise, table))


@EVERY
def test_forks_do_not_share_a_buffer(name):
    """A prefix that is kept for other tables, and every run that goes on from it."""
    table, noise, network = table_of(name), noise_of(16), WithBuffer()
    run, forks = Run(noise, table, keep=True), []
    while run.k < table.nfe:
        run.see(run.ask(network))
        forks.append(run.fork(table))
        run.advance()
    expected = ls.sample(Mixture(), noise, table)
    assert torch.equal(run.x, expected)
    for fork in forks:
        fork.advance()
        assert torch.equal(fork.finish(network), expected)


@EVERY
def test_a_fork_for_another_table_reads_what_the_first_did_not(name):
    noise, euler, table = noise_of(16), table_of("ddim", 8), table_of(name)
    written = noise.clone()
    fork = Run(written, euler).fork(table)
    written.zero_()
    assert torch.equal(fork.finish(Mixture()), ls.sample(Mixture(), noise, table))


@EVERY
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_only_what_a_later_row_reads_is_copied(name, dtype):
    """The states and outputs of a run whose caller may write into both; half precision is widened, not copied."""
    table, noise, clones = table_of(name), noise_of(4, dtype=dtype), Clones()
    run = Run(noise, table)
    with clones:
        while run.k < table.nfe:
            if run.k:
                run.replace(run.x)
            run.see(Mixture()(run.x, run.sigma))
            run.advance()
    states, outputs = table.last_reader
    later_states = sum(last > k + 1 for k, last in enumerate(states[:-1]))
    later_outputs = sum(last > k + 1 for k, last in enumerate(outputs))
    assert clones.count == later_outputs + (later_states if dtype == torch.float32 else 0)
    if name == "ddim":
        assert clones.count == 0


@EVERY
def test_the_denoiser_gets_a_copy_only_of_what_is_read_again(name):
    table, noise, clones = table_of(name), noise_of(4), Clones()
    with clones:
        ls.sample(Mixture(), noise, table)
    states, outputs = table.last_reader
    lent = sum(k == 0 or any(k in row.states for row in table.rows[k:]) for k in range(table.nfe))
    later = sum(last > k + 1 for k, last in enumerate(outputs)) + (states[0] > 1)
    assert clones.count == lent + later


# What it checks


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["ddim", "dpmpp_3m", "heun"])
def test_a_network_that_breaks_is_named_by_call_and_level(name, bad):
    table = table_of(name)

    def network(x, sigma):
        return torch.full_like(x, bad) if sigma < 1 else Mixture()(x, sigma)

    k = int(np.flatnonzero(table.sigmas < 1)[0])
    message = rf"returned NaN or infinity at call {k + 1} \(sigma = {table.sigmas[k]:g}\)"
    with pytest.raises(ls.NonFiniteError, match=message):
        ls.sample(network, noise_of(4), table)


def test_samples_that_overflow_half_precision_are_told_from_a_broken_network():
    """The largest half-precision number, doubled."""
    table = ls.SolverTable("double", np.ones(2), np.array([2.0, 1.0]), (ls.Row({0: 2.0}),), (0, 1), exact=False)
    with pytest.raises(ls.NonFiniteError, match=r"overflow torch.float16 although every network output is finite"):
        ls.sample(lambda x, sigma: x, torch.full((2,), 65504.0, dtype=torch.float16), table)


def test_large_half_precision_batches_of_ordinary_size_do_not_overflow():
    """The sum of 100 000 ones exceeds half precision; none of the samples does."""
    samples = ls.sample(lambda x, sigma: torch.ones_like(x), torch.zeros(100_000, dtype=torch.float16), table_of())
    assert torch.equal(samples, torch.ones_like(samples))


def test_wrong_shape_from_the_network():
    with pytest.raises(ls.InputError, match=r"shape \(2, 6\) for a state of shape \(2, 3\) at call 1 of 8"):
        ls.sample(lambda x, sigma: torch.cat([x, x], 1), noise_of(2, 3), table_of())


@pytest.mark.parametrize(
    ("noise", "message"),
    [
        (torch.zeros(2, dtype=torch.int64), "must be a floating-point tensor, got torch.int64"),
        (torch.zeros(2, dtype=torch.complex64), "got torch.complex64"),
        (np.zeros(2), "must be a floating-point tensor, got float64"),
        ([0.0, 1.0], "got list"),
    ],
)
def test_noise_must_be_a_float_tensor(noise, message):
    with pytest.raises(ls.InputError, match=message):
        ls.sample(Mixture(), noise, table_of())


# Memory


class LiveTensors(TorchFunctionMode):
    """Most tensors of one shape, results of operations while it is active, that were alive at once."""

    def __init__(self, shape):
        super().__init__()
        self.shape, self.seen, self.most = shape, {}, 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if isinstance(out, Tensor) and out.shape == self.shape:
            self.seen[id(out)] = weakref.ref(out)
            self.most = max(self.most, sum(tensor() is not None for tensor in self.seen.values()))
        return out


def most_alive(table, dtype=torch.float64, **options):
    noise = noise_of(7, dtype=dtype)
    with LiveTensors(noise.shape) as counter:
        ls.sample(lambda x, sigma: x * 0.5, noise, table, **options)
    return counter.most


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
@EVERY
def test_memory_is_the_window_of_the_recurrence(name, dtype):
    """The window, the row being summed, and the noise, which belongs to the caller."""
    for steps in (6, 24):
        table = table_of(name, steps)
        assert most_alive(table, dtype) <= table.window + 2


@EVERY
def test_a_run_that_keeps_everything_frees_nothing(name):
    """All states and outputs; it also shows that the counter above sees what is held."""
    table, noise = table_of(name, 24), noise_of(7)
    with LiveTensors(noise.shape) as counter:
        run = Run(noise, table, keep=True)
        while run.k < table.nfe:
            run.see(run.x * 0.5)
            run.advance()
    assert counter.most >= 2 * table.nfe


@EVERY
def test_some_samples_of_a_run_go_on_alone(name):
    """From any state; the run they were taken from goes on as it would have."""
    table = table_of(name, 6)
    noise, index = noise_of(5, 3), torch.tensor([4, 0])
    whole = Run(noise, table).finish(Mixture())
    for k in range(table.nfe + 1):
        run = Run(noise, table)
        run.go(k, Mixture())
        assert run.k == k
        torch.testing.assert_close(run.select(index).finish(Mixture()), whole[index], rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(run.finish(Mixture()), whole, rtol=1e-12, atol=1e-12)
