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


def calibrated(folder, std=0.5, label=0, **options):
    def network(x, t, c):
        gain = std**2 / (std**2 + t.view(-1, 1) ** 2)
        return gain * x + c.view(-1, 1)

    sigmas = ls.grid("karras", 3, sigma_min=0.05, sigma_max=10.0)
    noise = 10 * torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    condition = {"c": torch.full((6,), float(label))}
    denoiser = ls.as_denoiser(network, ls.Schedule.edm(0.05, 10.0), "data", condition=condition)
    settings = {"substeps": 2, "reference_steps": 4, "journal": folder, **options}
    return ls.calibrate(denoiser, noise, ls.build("ddim", sigmas), **settings, method="iia")


def test_a_journal_of_another_calibration_is_not_taken_for_this_one(tmp_path):
    first = calibrated(tmp_path)
    assert calibrated(tmp_path).card.dumps() == first.card.dumps()
    for other, names in [
        ({"substeps": 3}, "settings"),
        ({"reference_steps": 5}, "reference"),
        ({"sigma_floor": 0.01}, "sigma_floor"),
        ({"label": 1}, "conditions"),
        ({"batch_size": 2}, "batch_size"),
    ]:
        with pytest.raises(ls.InputError, match=f"unfinished work with another {names}"):
            calibrated(tmp_path, **other)
    with pytest.raises(ls.InputError, match="unfinished work of another network"):
        calibrated(tmp_path, std=0.7)


def test_a_probe_that_holds_nan_is_the_same_probe(tmp_path):
    """A network that returns NaN is told by the work itself, and not as another network."""
    bad = torch.tensor([1.0, float("nan"), 3.0])
    Journal(tmp_path).probe(bad)
    Journal(tmp_path).probe(bad)
    Journal(tmp_path / "nan").probe(bad * float("nan"))
    with pytest.raises(ls.InputError, match="of another network"):
        Journal(tmp_path).probe(torch.tensor([1.0, 2.0, 3.0]))
