"""Times say how far a loop goes through them, and are a tensor in all else."""

from __future__ import annotations

import copy
import io
import pickle

import pytest
import torch

from longstride.integrations.cut_times import CutTimes

TIMES = torch.tensor([900, 700, 500, 300, 100])


@pytest.fixture
def ends() -> list[int]:
    return []


@pytest.fixture
def times(ends: list[int]) -> CutTimes:
    return CutTimes.of(TIMES, ends.append)


def test_a_loop_says_where_it_ends(times: CutTimes, ends: list[int]) -> None:
    for part, end in (
        (times, 5),
        (times[:3], 3),
        (times[:-1], 4),
        (times[2:], 5),
        (times[1:][:2], 3),
        (times[:3][1:], 3),
        (times.to("cpu")[:2], 2),
        (times[:9], 5),
    ):
        assert list(part) == part.tolist()
        assert ends.pop() == end
    for t in enumerate(times[:1]):
        assert t == (0, 900)
    assert ends == [1]


def test_nothing_else_says_anything(times: CutTimes, ends: list[int]) -> None:
    assert torch.equal(times[:3].repeat(2), TIMES[:3].repeat(2))
    assert (times[1], times[-1].item(), len(times), times[:2].tolist()) == (700, 100, 5, [900, 700])
    assert times[::2].tolist() == [900, 500, 100]
    assert (times == 300).nonzero().item() == 3
    assert ends == []


def test_results_are_plain_tensors(times: CutTimes) -> None:
    assert isinstance(times, torch.Tensor)
    for plain in (times + 1, times[2], times[::2], times[[0, 1]], torch.cat([times, times]), next(iter(times))):
        assert type(plain) is torch.Tensor
    assert times.numpy().tolist() == TIMES.tolist()
    assert times.dtype == TIMES.dtype
    assert times.data_ptr() == TIMES.data_ptr()
    assert type(TIMES) is torch.Tensor


def test_copies_are_plain_tensors(times: CutTimes) -> None:
    buffer = io.BytesIO()
    torch.save(times, buffer)
    buffer.seek(0)
    for copied in (copy.deepcopy(times), pickle.loads(pickle.dumps(times)), torch.load(buffer)):
        assert type(copied) is torch.Tensor
        assert torch.equal(copied, TIMES)


def test_they_can_be_compiled(times: CutTimes) -> None:
    def ask(t: torch.Tensor) -> torch.Tensor:
        return t[1:] * 2 + t[0]

    assert torch.equal(torch.compile(ask, backend="eager", fullgraph=True)(times), ask(TIMES))
