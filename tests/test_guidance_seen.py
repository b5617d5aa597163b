"""The guidance that is in force is solved for, and nothing is said where no two numbers explain it."""

from __future__ import annotations

import copy
import pickle
import threading

import pytest
import torch

from longstride.integrations.guidance_seen import GuidanceWatch, Seen, seen_in


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


U, C = drawn(2, 4, 8, 8, seed=1), drawn(2, 4, 8, 8, seed=2)


@pytest.mark.parametrize("scale", [0.3, 1.0, 4.0, 7.5, 30.0])
@pytest.mark.parametrize("together", [True, False])
def test_two_predictions_have_the_weights_of_guidance(scale: float, together: bool) -> None:
    outputs = [torch.cat([U, C])] if together else [U, C]
    found = seen_in(outputs, U + scale * (C - U))
    assert found is not None
    assert found.weights == pytest.approx((1 - scale, scale), abs=1e-6)
    assert found.scale == pytest.approx(max(scale, 1 - scale), abs=1e-6)
    assert found.residual < 1e-6


def test_the_order_and_the_sign_are_the_pipelines() -> None:
    found = seen_in([C, U], -(U + 5.0 * (C - U)))
    assert found is not None
    assert found.weights == pytest.approx((-5.0, 4.0), abs=1e-6)
    assert found.scale == pytest.approx(5.0, abs=1e-6)


def test_one_prediction_has_a_scale_of_one_or_none() -> None:
    assert seen_in([U], U) == Seen((pytest.approx(1.0),), pytest.approx(0.0, abs=1e-12))
    doubled = seen_in([U], 2 * U)
    assert doubled is not None
    assert (doubled.weights, doubled.scale) == ((pytest.approx(2.0),), None)


def test_a_learned_variance_is_left_out() -> None:
    found = seen_in([torch.cat([U, C], dim=1)], U)
    assert found is not None
    assert found.weights == pytest.approx((1.0,))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("apart", [0.03, 0.3])
def test_rounding_to_half_precision_is_no_other_guidance(dtype: torch.dtype, apart: float) -> None:
    both = drawn(4, 4, 32, 32, seed=1)
    u, c = both.to(dtype), (both + apart * drawn(4, 4, 32, 32, seed=2)).to(dtype)
    found = seen_in([torch.cat([u, c])], u + 7.5 * (c - u))
    assert found is not None
    assert found.differs((-6.5, 7.5)) is None
    assert found.differs((-6.0, 7.0)) is not None


def test_what_two_numbers_do_not_explain_is_not_said() -> None:
    guided = U + 7.5 * (C - U)
    axes = (1, 2, 3)
    rescaled = guided * C.std(axes, keepdim=True) / guided.std(axes, keepdim=True)
    assert seen_in([torch.cat([U, C])], 0.7 * rescaled + 0.3 * guided) is None
    assert seen_in([U, C], guided.clamp(-1, 1)) is None
    assert seen_in([U, C, drawn(2, 4, 8, 8, seed=3)], guided) is None
    assert seen_in([U], C) is None
    assert seen_in([], C) is None
    assert seen_in([U, U], U) is None, "any two weights whose sum is 1 explain it"
    assert seen_in([U[:, :, :4]], U) is None, "an output of another shape"
    # One factor for a single sample leaves two numbers, which are no guidance.
    single = seen_in([U[:1], C[:1]], 0.5 * guided[:1])
    assert single is not None
    assert single.scale is None


def test_what_differs_is_said_in_scales() -> None:
    assert Seen((-6.5, 7.5), 0.0).differs((-6.5, 7.5)) is None
    told = Seen((-2.0, 3.0), 0.0).differs((-6.5, 7.5))
    assert told is not None
    assert "guidance 3" in told
    assert "guidance 7.5" in told
    assert Seen((1.0,), 0.0).differs((-6.5, 7.5)) is not None


def test_axes_of_length_one_and_lists_of_samples_are_the_same_predictions() -> None:
    class Listed(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> tuple[list[torch.Tensor]]:
            return (list(x[:, :, None]),)

    network = Listed()
    with GuidanceWatch([network]) as watch:
        network(torch.cat([U, C]))
        found = watch.read(-(U + 5.0 * (C - U)))
    assert found is not None
    assert found.weights == pytest.approx((4.0, -5.0), abs=1e-6)


def test_a_scale_that_a_network_is_told_is_read() -> None:
    class Told(torch.nn.Module):
        def forward(self, x: torch.Tensor, guidance: torch.Tensor | None = None) -> torch.Tensor:
            return x

    network = Told()
    watch = GuidanceWatch([network], (1.0,), 3.5)
    for told, said in ((3.5, None), (5.0, "the network is told guidance 5, the card was made with 3.5")):
        watch.arm()
        watch.compare(network(U, guidance=torch.full((2,), told)))
        assert (watch.told, watch.why) == (told, said)
    watch.arm()
    watch.compare(network(U))
    assert (watch.told, watch.why) == (None, None)


def test_a_watch_copies_the_outputs_of_a_first_step_alone() -> None:
    network = torch.nn.Linear(3, 3)
    watch = GuidanceWatch([network], (1.0,))
    x = drawn(2, 3)
    network(x)
    watch.compare(network(x))
    assert watch.why is None, "it was not armed"
    watch.arm()
    output = network(x)
    kept = output.detach().clone()
    with torch.no_grad():
        output.zero_()  # a network that reuses its buffer
    watch.compare(2 * kept)
    assert watch.why is not None
    watch.compare(kept)
    assert watch.why is None, "only the first step is compared"
    watch.close()
    assert not network._forward_hooks


def test_threads_are_watched_each_for_itself() -> None:
    network, x = torch.nn.Linear(3, 3), drawn(2, 3)
    watch = GuidanceWatch([network], (1.0,))
    watch.arm()
    other = threading.Thread(target=lambda: network(-x))
    other.start()
    other.join()
    watch.compare(network(x))
    assert watch.why is None
    with GuidanceWatch([network], everywhere=True) as everywhere:
        other = threading.Thread(target=lambda: network(-x))
        other.start()
        other.join()
        assert everywhere.read(network(-x).detach()) is None, "the outputs of both threads are the same"
        everywhere.arm()
        other = threading.Thread(target=lambda: network(x))
        other.start()
        other.join()
        found = everywhere.read(watch.read(x) or network.forward(x).detach())  # type: ignore[arg-type]
        assert found is not None
        assert found.weights == pytest.approx((1.0,), abs=1e-6)


def test_copies_of_a_watched_network_are_not_watched() -> None:
    network, x = torch.nn.Linear(3, 3), drawn(2, 3)
    watch = GuidanceWatch([network], (1.0,))
    copies = copy.deepcopy(network), pickle.loads(pickle.dumps(network))
    watch.arm()
    for one in copies:
        one(x)
    assert watch.read(x) is None
    assert copy.deepcopy(watch) is watch
    assert pickle.loads(pickle.dumps(watch)) is None


def test_a_watch_that_nobody_holds_takes_its_hooks_away() -> None:
    network = torch.nn.Linear(3, 3)
    watch = GuidanceWatch([network])
    assert network._forward_hooks
    del watch
    assert not network._forward_hooks


def test_a_compiled_network_is_watched_from_outside() -> None:
    network, x = torch.compile(torch.nn.Linear(3, 3), backend="eager"), drawn(2, 3)
    watch = GuidanceWatch([network], (1.0,))
    watch.arm()
    found = watch.read(network(x).detach())
    assert found is not None
    assert found.weights == pytest.approx((1.0,), abs=1e-6)
    inside = torch.nn.Linear(3, 3)
    again = GuidanceWatch([inside], (1.0,))
    inside.compile(backend="eager", fullgraph=True)
    again.arm()
    assert again.read(inside(x).detach()) is None, "the hook is folded away"
