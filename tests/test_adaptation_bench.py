"""The benchmark of adaptation: its stream goes through roll-outs, and on after a kill; hostile traffic is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

import longstride as ls
from benchmarks import adaptation as bench
from benchmarks.adaptation_table import adaptation_sections
from benchmarks.adaptation_traffic import TRAFFIC, hostile
from longstride.rollout import Stage

SCHEDULE = ls.Schedule.edm(0.05, 10.0)
SHORT = (Stage(share=1.0, requests=3, measured=3),)


class Modes(torch.nn.Module):
    """The exact denoiser of data N(±mode, spread²)."""

    def __init__(self, mode: float) -> None:
        super().__init__()
        self.mode = torch.nn.Parameter(torch.tensor([[mode]]))

    def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        level = t.view(-1, 1, 1, 1) ** 2
        variance = 0.09 + level
        return (x * 0.09 + self.mode * torch.tanh(self.mode * x / variance) * level) / variance


def model_of(mode: float) -> ls.Model:
    return ls.Model("modes", Modes(mode).eval(), SCHEDULE, "data", (1, 24, 24))


@pytest.fixture(scope="module")
def card() -> ls.Card:
    model, table = model_of(1.0), ls.build("ddim", ls.grid("karras", 3, schedule=SCHEDULE, final="sigma_min"))
    noise = model.noise(range(64), float(table.sigmas[0]))
    return ls.calibrate(model.denoiser(range(64)), noise, table, scouts=1, monitor=64).card


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(bench, "Fresh", lambda model, ends, count: Few(model, ends))


class Few:
    """Errors on a few samples."""

    def __init__(self, model: ls.Model, ends: ls.SolverTable) -> None:
        self.model, self.ends = model, ends

    def squared(self, table: ls.SolverTable) -> np.ndarray:
        denoiser, noise = self.model.denoiser(range(4)), self.model.noise(range(4), float(self.ends.sigmas[0]))
        return (ls.sample(denoiser, noise, table) ** 2).flatten(1).mean(1).numpy()


def test_the_stream_goes_through_roll_outs_and_on_after_a_kill(card, tmp_path, small, monkeypatch):
    monkeypatch.setattr(bench, "STAGES", SHORT)
    networks, short = {0.0: model_of(1.0), 0.5: model_of(1.6)}, {"fewest": 8.0, "every": 8}
    whole = bench.follow(tmp_path / "whole", card, networks, 60, 30, **short)
    assert [row["requests"] for row in whole] == [30, 60, 90, 120]
    assert whole[-1]["used"] == 120
    assert whole[-1]["adopted"] >= 1
    assert whole[-1]["proposed"] >= whole[-1]["adopted"] + whole[-1]["rejected"]
    kept = tmp_path / "whole" / "step-1.json"
    kept.unlink()
    assert bench.follow(tmp_path / "whole", card, networks, 60, 30, **short) == whole


@pytest.mark.parametrize("name", ["constant", "nan", "large", "small", "repeated", "smooth"])
def test_hostile_traffic_teaches_nothing(card, name):
    told = bench.withstand(card, model_of(1.0), hostile(name, card), 6)
    assert told["used"] == (1 if name == "repeated" else 0)
    assert (told["candidates"], told["proposed"]) == (0, 0)
    assert sum(told["refused"].values()) == 6 - told["used"]


def test_honest_traffic_teaches(card):
    assert bench.withstand(card, model_of(1.0), hostile("honest", card), 6)["used"] == 6
    between = bench.withstand(card, model_of(1.0), hostile("between", card), 10)
    assert between["used"] == 6
    assert sum(between["refused"].values()) == 4
    assert bench.withstand(card, model_of(1.0), hostile("chosen", card), 3)["used"] == 3


def test_the_tables_say_what_the_file_says(tmp_path):
    counters = ls.adaptation.Counters(samples=9, used=4, calls=45, candidates=2, proposed=1, adopted=1).model_dump()
    one = {"rmse": 0.2, "median": 0.1}
    row = {"size": 0.03, "requests": 64, "base": one, "card": one, "adapted": {"rmse": 0.1, "median": 0.02}}
    traffic = {name: {**counters, "farthest": 0.06, "bound": 0.3} for name in TRAFFIC}
    about = {"model": "m", "nfe": 5, "bound": 0.3, "hostile": 9, "fresh": 96}
    file = tmp_path / "adaptation.json"
    file.write_text(json.dumps({"about": about, "stream": [{**row, "move": 0.1, **counters}], "traffic": traffic}))
    sections = adaptation_sections(file)
    assert "| 64 | 3 % | 1.00 (1.00) | 0.50 (0.20) | 4 | 45 | 2, 1, 1 | 0.10 |" in sections["adaptation:stream"]()
    assert "| one sample repeated | 4 | – | 2 | 1 | 0.20 |" in sections["adaptation:hostile"]()
