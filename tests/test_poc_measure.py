"""Measuring a proof of concept: what is counted, what goes on after a kill, and what the command says."""

from __future__ import annotations

import json
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command_line import error, invoke
from tiny_models import save_tiny_model
from tiny_pipelines import make_pipeline

import longstride as ls
from longstride.cli import poc as command
from longstride.errors import InputError
from longstride.evaluation.frechet import Moments, frechet_distance
from longstride.evaluation.results import load_results
from longstride.evaluation.seeds import seed_range
from longstride.report.about import commands_of
from longstride.report.asked import FULL, QUICK, Asked, Effort
from longstride.report.language import load_language
from longstride.report.measure import run_poc
from longstride.report.outcome import Outcome, load_outcome
from longstride.report.stopwatch import Stopwatch

TINY = Effort(
    fitted=6,
    held_out=4,
    samples=24,
    batch=3,
    reference_steps=8,
    dimensions=3,
    rounds=8,
    others=("ddim",),
    settings={"scouts": 1},
)
ASKED = Asked("tiny", (3, 4), "dpmpp_2m", 8, TINY)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("models") / "tiny", null_class=2)


@pytest.fixture(scope="module")
def model(place: Path) -> Any:
    return ls.load_model(place)


@pytest.fixture(scope="module")
def whole(model: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Outcome, Path, int]:
    """An outcome that was measured without a stop, its folder, and the network's runs while it was calibrated."""
    folder, passes = tmp_path_factory.mktemp("poc"), [0]

    def count(module: Any, given: Any, made: Any) -> None:
        passes[0] += 0 if (folder / "cards.json").exists() else len(given[0])

    hook = model.network.register_forward_hook(count)
    found = run_poc(model, ASKED, folder)
    hook.remove()
    return found, folder, passes[0]


def same(one: Outcome, other: Outcome) -> bool:
    """Whether all but the time is the same."""

    def timeless(found: Outcome) -> Outcome:
        samplers = tuple(replace(s, seconds=()) for s in found.samplers)
        return replace(found, samplers=samplers, cost=replace(found.cost, seconds=0.0, starts=1), pictures=None)

    return timeless(one) == timeless(other)


def test_errors_and_distances_are_those_that_one_would_measure_by_hand(model, whole):
    outcome, folder, _ = whole
    seeds = seed_range("evaluation", 0, 24)
    assert not set(seeds) & set(seed_range("calibration", 0, 10))
    today = outcome.reference
    assert today is not None
    assert (today.name, today.calls) == ("dpmpp_2m", 8)
    book = ls.load_book(folder / "cards.json")
    for calls in (3, 4):
        card = book.entry(calls, None).card
        noise, denoiser = model.noise(seeds, card.table.sigmas[0]), model.denoiser(seeds)
        target = ls.solve_reference(denoiser, noise, card.table, steps=8, check_samples=0).samples
        drawn = ls.sample(denoiser, noise, card.table)
        by_hand = (drawn - target).flatten(1).square().mean(1).sqrt()
        assert outcome.sampler("calibrated", calls).errors == pytest.approx(by_hand.tolist(), rel=1e-3)
        assert len(outcome.sampler("calibrated", calls).seconds) == TINY.rounds
    assert today.distance_change is None
    ours = outcome.sampler("calibrated", 4)
    assert ours.distance_change.value == pytest.approx(ours.distance.value - today.distance.value)
    assert frechet_distance(Moments.of(np.eye(4, 3)), Moments.of(np.eye(4, 3))) == pytest.approx(0, abs=1e-12)


def test_the_passes_of_the_calibration_are_counted(whole):
    outcome, _, passes = whole
    others = 40  # the check of the reference solution, and a run by which every journal knows its network
    assert 0 <= passes - outcome.cost.passes <= others < 0.02 * passes


@pytest.mark.parametrize("stop", ["calibrating", "evaluating", "timing"])
def test_a_killed_measurement_goes_on_and_ends_in_the_same_numbers(model, whole, tmp_path, stop: str):
    def say(what: str, done: int, total: int) -> None:
        if what == stop and done >= total // 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_poc(model, ASKED, tmp_path, say=say)
    stopped = load_outcome(tmp_path / "outcome.json")
    assert (stopped.failed, stopped.detail) == ("unfinished", ASKED.command)
    assert bool(stopped.calibrated) == (stop != "calibrating")
    again = run_poc(model, ASKED, tmp_path)
    assert same(again, whole[0])
    assert load_outcome(tmp_path / "outcome.json") == again
    assert again.cost.starts == (2 if stop == "calibrating" else 1)


def test_another_measurement_is_refused_in_the_same_folder(model, whole):
    with pytest.raises(InputError, match="holds unfinished work with another nfes"):
        run_poc(model, replace(ASKED, nfes=(3,)), whole[1])


def test_a_network_that_returns_nan_gives_an_outcome_that_says_so(place, tmp_path):
    broken = ls.load_model(place)
    with torch.no_grad():
        next(broken.network.parameters()).fill_(float("nan"))
    outcome = run_poc(broken, ASKED, tmp_path)
    assert outcome.failed == "non-finite"
    assert "NaN" in outcome.detail
    assert outcome.samplers == ()


def test_a_guided_model_is_measured_with_both_runs(model, tmp_path):
    asked = replace(ASKED, nfes=(3,), guidance=2.0, effort=replace(TINY, dimensions=0, samples=16))
    outcome = run_poc(model, asked, tmp_path)
    assert outcome.subject.guidance == 2.0
    assert outcome.sampler("calibrated", 3).distance is None


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"today": "gauss_newton"}, "today's sampler is a classical one such as dpmpp_2m"),
        ({"today": "euler"}, "unknown contestant 'euler'"),
        ({"nfes": (8, 10)}, "expected a number of network calls below today's 8"),
        ({"nfes": ()}, "expected a number of network calls below today's 8"),
    ],
)
def test_what_cannot_be_asked(changes: dict[str, Any], words: str):
    with pytest.raises(InputError, match=words):
        replace(ASKED, **changes)


def test_the_command_asks_for_the_same_again():
    """Whatever was asked for, the command on the page says it."""
    asked = Asked("garments", (4, 6), "ddim", 12, replace(QUICK, samples=64), quick=True, guidance=2.5, seed=3)
    words = shlex.split(asked.command)
    assert words[:3] == ["longstride", "poc", "garments"]
    assert {"--nfe", "--today-sampler", "--today-nfe", "--guidance", "--seed", "--samples"} <= set(words)
    assert words[words.index("--samples") + 1] == "64"
    assert words[words.index("--nfe") + 1] == "4,6"
    assert words[words.index("--guidance") + 1] == "2.5"
    assert "--samples" not in Asked("garments", (4,), "ddim", 12, FULL).command


def test_classical_samplers_are_followed_up_to_today():
    """At numbers of calls whose ratios are as equal as whole numbers can be."""
    assert Asked("tiny", (4, 5, 6, 8), "dpmpp_2m", 20, FULL).between == (11, 15)
    assert Asked("tiny", (5, 8), "dpmpp_2m", 20, QUICK).between == (13,)
    assert all(4 < calls < 5 for calls in Asked("tiny", (4,), "ddim", 5, FULL).between)


def test_a_stopwatch_adds_up_all_starts(tmp_path):
    now = [10.0]
    first = Stopwatch(tmp_path / "clock.json", clock=lambda: now[0])
    now[0] = 10.5
    first.tick()  # too early to be kept
    now[0] = 13.0
    first.tick()
    now[0] = 13.9  # killed here
    now[0] = 100.0
    second = Stopwatch(tmp_path / "clock.json", clock=lambda: now[0])
    now[0] = 102.0
    assert second.stop() == pytest.approx(5.0)
    assert second.starts == 2
    (tmp_path / "clock.json").write_text("{")
    assert Stopwatch(tmp_path / "clock.json", clock=lambda: now[0]).seconds == 0


def test_the_command_makes_a_page_and_makes_it_again(place, tmp_path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(command, "QUICK", TINY)
    options = ("--nfe", "3,4", "--today-nfe", "8", "--quick")
    done = invoke("poc", place, *options, "--price-per-hour", 2.5, "--images-per-month", 1e6, "--out", "a.html")
    assert done.exit_code == 0, done.output
    assert "written to a.html; cards, numbers and finished work in a.files" in done.stdout
    assert {"outcome.json", "cards.json"} <= {file.name for file in Path("a.files").iterdir()}
    assert load_outcome(Path("a.files/outcome.json")).figures.price_per_hour == 2.5
    again = invoke("poc", "--from", "a.files/outcome.json", "--lang", "ja", "--currency", "JPY", "--out", "b.html")
    assert again.exit_code == 0, again.output
    assert '<html lang="ja">' in Path("b.html").read_text()
    outcome = load_outcome(Path("a.files/outcome.json"))
    (evaluate,) = (
        one["value"] for one in commands_of(outcome, "a.files", load_language("en")) if "evaluate" in one["value"]
    )
    assert invoke(*shlex.split(evaluate)[1:]).exit_code == 0
    results = load_results(Path("evaluation/results.json"))
    for name, calls, theirs in (("calibrated", 3, "cards"), ("calibrated", 4, "cards"), ("dpmpp_2m", 8, "dpmpp_2m")):
        rmse = np.sqrt(np.mean(np.square(outcome.sampler(name, calls).errors)))
        assert results.value(theirs, calls, "rmse").value == pytest.approx(rmse, rel=1e-4)
    told = json.loads(invoke("poc", "--from", "a.files/outcome.json", "--json", "--out", "b.html").stdout)
    assert told["recommendation"] in ("adopt with monitoring", "do not adopt")


def test_a_whole_pipeline_is_refused_with_what_to_do(tmp_path, monkeypatch: pytest.MonkeyPatch):
    make_pipeline("xl", tmp_path / "parts").save_pretrained(tmp_path / "sdxl")
    monkeypatch.chdir(tmp_path)
    result = invoke("poc", "sdxl", "--quick")
    assert result.exit_code == 2
    assert "make a card with longstride calibrate sdxl --pipeline" in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "name a model, or an earlier outcome with --from"),
        (("garments", "--from", "x.json"), "name a model, or an earlier outcome with --from"),
        (("garments", "--lang", "xx"), "unknown language 'xx': known: en, ja"),
        (("garments", "--today-nfe", "4"), "expected a number of network calls below today's 4"),
        (("garments", "--nfe", "x"), "expected numbers of network calls with commas"),
        (("--from", "nowhere.json"), "cannot read outcome nowhere.json"),
        (("--from", "x.json", "--quick"), "--quick does nothing beside --from"),
        (("garments", "--currency", "euros"), "the figures of money cannot be used: currency"),
        (("garments", "--out", "/dev/null/report.html"), "cannot write"),
    ],
)
def test_misuse_is_one_line(tmp_path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], words: str):
    monkeypatch.chdir(tmp_path)
    assert words in error("poc", *arguments)
