"""Finished work is kept to the bit; damaged or foreign work is not mistaken for it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import longstride as ls
from longstride.journal import Journal, digest


def test_a_finished_part_is_not_computed_again(tmp_path):
    made = []

    def compute():
        made.append(1)
        return {"x": np.array([0.1, np.pi]), "n": np.array(3)}

    first = Journal(tmp_path / "j", {"seed": 1})("a/b", compute)
    again = Journal(tmp_path / "j", {"seed": 1})("a/b", compute)
    assert len(made) == 1
    assert first["x"].tobytes() == again["x"].tobytes()
    assert again["n"] == 3


def test_without_a_folder_everything_is_computed():
    values, journal = iter([1.0, 2.0]), Journal()
    assert [float(journal("a", lambda: {"x": np.array(next(values))})["x"]) for _ in range(2)] == [1.0, 2.0]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_tensors_come_back_to_the_bit(tmp_path, dtype):
    value = torch.randn(5, 3, generator=torch.Generator().manual_seed(0)).to(dtype)
    for _ in range(2):
        kept = Journal(tmp_path).tensor("x", lambda: value, like=value)
        assert kept.dtype == dtype
        assert torch.equal(kept, value)


def test_damaged_parts_are_computed_again_and_other_work_is_refused(tmp_path, caplog):
    journal = Journal(tmp_path, {"seed": 1})
    journal("a", lambda: {"x": np.ones(100)})
    (tmp_path / "a.npz").write_bytes((tmp_path / "a.npz").read_bytes()[:60])
    assert journal("a", lambda: {"x": np.zeros(2)})["x"].tolist() == [0, 0]
    assert "is damaged" in caplog.text
    with pytest.raises(ls.InputError, match="unfinished work with another grid, seed"):
        Journal(tmp_path, {"seed": 2, "grid": "karras"})
    (tmp_path / "identity.json").write_text("{")
    with pytest.raises(ls.InputError, match="is damaged: delete the folder"):
        Journal(tmp_path, {"seed": 1})


def test_a_digest_tells_numbers_apart():
    x = torch.arange(6.0)
    assert digest(x, {"a": 1}) == digest(x.clone(), {"a": 1})
    others = [digest(x, {"a": 2}), digest(x.view(2, 3), {"a": 1}), digest(x.double(), {"a": 1}), digest(x + 1e-6)]
    assert len({digest(x, {"a": 1}), *others}) == 5
