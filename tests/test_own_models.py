"""Models of the user's own code, by module and attribute."""

import sys

import pytest
import torch
from command_line import error, run

import longstride as ls

CODE = """
import torch
import longstride as ls

class Gauss(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.variance = torch.nn.Parameter(torch.tensor(0.25))

    def forward(self, x, t):
        return x * self.variance / (self.variance + t[:, None, None, None] ** 2)

def made():
    network = Gauss().eval().requires_grad_(False)
    return ls.Model("mine", network, ls.Schedule.edm(), "data", (1, 8, 8))

MODEL = made()
NUMBER = 3

def broken():
    raise RuntimeError("no weights")
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "my_gauss", raising=False)
    (tmp_path / "my_gauss.py").write_text(CODE)
    return tmp_path


def test_a_model_or_what_makes_it_is_loaded(here) -> None:
    for name in ("my_gauss:made", "my_gauss:MODEL"):
        model = ls.load_model(name)
        x = torch.ones(2, 1, 8, 8)
        assert torch.allclose(model.denoiser(range(2))(x, 0.5), x * 0.5)


def test_a_command_takes_it(here) -> None:
    run("calibrate", "my_gauss:made", "--nfe", 3, "--budget", 1000, "--out", "card.json")
    assert ls.load_card("card.json").model.name == "mine"


def test_what_is_no_model_is_refused(here) -> None:
    for name, why in (
        ("my_gauss:NUMBER", "TypeError"),
        ("my_gauss:broken", r"RuntimeError: no weights"),
        ("my_gauss:nothing", "AttributeError"),
        ("no_such_module:x", "ModuleNotFoundError"),
    ):
        with pytest.raises(ls.InputError, match=f"cannot load '{name}'.*{why}"):
            ls.load_model(name)
    assert "cannot load 'my_gauss:nothing'" in error("calibrate", "my_gauss:nothing", "--nfe", 3)
