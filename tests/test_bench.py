"""Benchmarks: tables say what the results say, and single questions are measured as by hand."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import run
from tiny_models import save_tiny_model

import longstride as ls
from benchmarks.ablation_tables import ablation_sections
from benchmarks.ablations import ABLATIONS, run_ablations, run_records
from benchmarks.commands import app
from benchmarks.lab import Lab, reapply
from benchmarks.markdown import slug_of
from benchmarks.newton import NEWTON, record
from benchmarks.newton_plots import cost, draw_newton_plots
from benchmarks.pages import effect_table, fill, verdict
from benchmarks.paper import CASES, cases
from longstride.calibration.reference.solve import Errors, squared_errors
from longstride.evaluation import Line, Results
from longstride.evaluation.results import save_results
from longstride.evaluation.seeds import seed_range


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_tiny_model(tmp_path_factory.mktemp("models") / "tiny", null_class=2)


@pytest.fixture
def lab(folder, tmp_path):
    return Lab(ls.load_model(folder), tmp_path / "lab", samples=5, batch=4, held_out=3, reference_steps=6)


# One question


def test_a_lab_measures_what_one_would_measure_by_hand(lab):
    table, seeds = lab.table("ddim", 4), seed_range("evaluation", 0, 5)
    noise, denoiser = lab.model.noise(seeds, table.sigmas[0]), lab.model.denoiser(seeds)
    target = ls.solve_reference(denoiser, noise, table, steps=6, check_samples=0).samples
    by_hand = Errors.of(squared_errors(ls.sample(denoiser, noise, table), target))
    assert lab.errors(table).rmse == pytest.approx(by_hand.rmse, rel=1e-5)
    found = lab.compare(table, table)
    assert found["ratio"] == 1.0


def test_the_samples_that_decide_are_the_same_for_every_batch(lab, monkeypatch):
    """So that a larger batch is compared by what it fits, not by what it is judged on."""
    seen = []
    monkeypatch.setattr("benchmarks.lab.calibrate", lambda d, noise, t, **k: seen.append((d, noise, k)))
    for batch in (1, 4):
        lab.calibrate(lab.table("ddim", 3), batch=batch)
    (d1, x1, k1), (d2, x2, k2) = seen
    assert (len(x1), len(x2)) == (4, 7)
    assert torch.equal(x1[-3:], x2[-3:])
    assert torch.equal(x1[0], x2[0])
    assert torch.equal(d1.condition["class_labels"][-3:], d2.condition["class_labels"][-3:])
    assert k1["held_out"] == k2["held_out"] == 3


def test_coefficients_put_on_their_own_base_give_their_own_table(lab):
    table = lab.table("ddim", 4)
    found = lab.calibrate(table, substeps=3)
    assert reapply(found, table).distance(found.table) < 1e-14
    other = lab.table("ddim", 4, "karras")
    moved = reapply(found, other)
    assert np.array_equal(moved.sigmas, other.sigmas)
    assert moved.distance(other) > 0


def test_classes_of_a_lab_are_the_only_ones_it_draws(lab):
    assert lab.of_classes([1]).denoiser(range(4)).condition["class_labels"].tolist() == [1] * 4
    assert lab.guided(2.0).denoiser(range(4)).guidance == 2.0


@pytest.mark.slow
def test_every_ablation_runs_and_has_a_table(folder, tmp_path, monkeypatch):
    """With two records each; the settings themselves are those of calibrate."""
    short = {name: (lambda *a, run=run: islice(run(*a), 2), need) for name, (run, need) in ABLATIONS.items()}
    monkeypatch.setattr("benchmarks.ablations.ABLATIONS", short)
    monkeypatch.setattr("benchmarks.ablations.SIZES", {True: (4, 2, 2), False: (4, 2, 2)})
    found = run_ablations(ls.load_model(folder), tmp_path, quick=True, say=lambda *_: None)
    (file,) = tmp_path.glob("ablations_*.json")
    assert json.loads(file.read_text())["ablations"] == json.loads(json.dumps(found))
    sections = ablation_sections(file)
    assert len(sections) == len(found) == 11
    for name, section in sections.items():
        head, rule, *lines = section().splitlines()
        assert head.startswith("| ")
        assert set(rule) == {"|", "-"}
        assert lines, name
        assert {line.count("|") for line in (head, *lines)} == {head.count("|")}
    file.write_text("{}")
    with pytest.raises(ls.InputError, match="holds no ablations"):
        ablation_sections(file)


# Pages


def line(contestant, nfe, value, base=None, change=(None, None, None), measure="rmse"):
    return Line("m", None, contestant, base, nfe, nfe, measure, value, None, None, *change)


RESULTS = Results(
    {"study": {"nfes": [5, 8]}},
    (
        line("ddim", 5, 0.2),
        line("iia_ddim", 5, 0.1, "ddim", (-0.1, -0.12, -0.08)),
        line("ddim", 8, 0.15),
        line("iia_ddim", 8, 0.16, "ddim", (0.01, 0.005, 0.015)),
        line("heun", 4, 2.0),
        line("iia_edm", 4, 12.0, "heun", (10.0, -1.0, 21.0)),
    ),
)


def test_tables_mark_what_intervals_allow():
    rows = effect_table(RESULTS, "rmse").splitlines()
    assert rows[0] == "| network calls | 5 | 8 |"
    assert "| DDIM | 0.200 | 0.150 |" in rows
    assert "| IIA-DDIM | **0.100** | *0.160* |" in rows
    assert "| IIA-EDM | 12.0 at 4 | – |" in rows
    assert len(effect_table(RESULTS, "rmse", only=("ddim",)).splitlines()) == 3


def test_the_verdict_lists_every_exception():
    text = verdict(RESULTS, ("rmse",))
    assert text.startswith("1 of 3 comparisons are better")
    assert "| IIA-DDIM | 8 | RMSE | 0.150 → 0.160 | worse |" in text
    assert "| IIA-EDM | 4 | RMSE | 2.000 → 12.0 | no difference |" in text


def test_pages_are_filled_between_their_markers(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- a:b -->\nold\n<!-- /a:b -->\nafter <!-- a:b -->\n<!-- /a:b -->\n")
    assert not fill(page, {"a:b": lambda: "new\\1"}, check=True)
    assert "old" in page.read_text()
    assert not fill(page, {"a:b": lambda: "new\\1"})
    assert page.read_text().count("new\\1\n<!-- /a:b -->") == 2
    assert fill(page, {"a:b": lambda: "new\\1"})
    with pytest.raises(ls.InputError, match="a marker <!-- a:b --> that nothing is written for"):
        fill(page, {}, check=True)
    before = page.read_text()
    assert fill(page, {})
    assert page.read_text() == before


def test_cases_are_the_documentation_s_or_any_model():
    assert cases([]) == CASES
    assert cases(["garments"], samples=9)[0] == replace(CASES[0], samples=9)
    (other,) = cases(["google/ddpm-church-256"], guidance=2.5)
    assert (other.slug, other.guidance) == ("ddpm_church_256_guided_2_5", 2.5)
    for case in CASES:
        for quick in (True, False):
            assert all(study.dimensions < study.samples for study in case.studies(quick).values())


# The default calibration


def test_a_question_about_the_default_is_answered_against_the_best_classical_solver(folder, tmp_path, monkeypatch):
    monkeypatch.setattr("benchmarks.ablations.SIZES", {True: (5, 4, 8)})
    model = ls.load_model(folder)

    def free(lab, quick):
        lab.reference_steps = 6
        for levels in (False, True):
            yield record(lab, 2, levels=levels, scouts=1)

    found = run_records(model, tmp_path, {"free": free}, "newton", quick=True, say=lambda *a: None)["free"]
    assert [row["unknowns"] for row in found] == [2 + 1 + 2, 2 + 1 + 2 + 1]
    assert all("@" in row["begun"] and row["calls"] > 0 for row in found)
    text = ablation_sections(next(tmp_path.glob("newton_*.json")))[f"newton_{slug_of(model.name)}:free"]()
    head, _, first, _ = text.splitlines()
    assert head.startswith("| calls | levels | begun at | best classical | fitted |")
    assert f"{found[0]['base_rmse']:.4f} ({found[0]['base_median']:.4f})" in first


def test_losses_and_residuals_are_compared_by_frechet_distance_too(folder, tmp_path, monkeypatch):
    """That of the table which is used, measured once more, is the same; that of one step of DDIM is far larger."""
    monkeypatch.setattr("benchmarks.ablations.SIZES", {True: (5, 4, 8)})
    model, tables = ls.load_model(folder), []
    distance = Lab.distance

    def measured(lab, table):
        tables.append(table)
        return distance(lab, table)

    monkeypatch.setattr(Lab, "distance", measured)

    def loss(lab, quick):
        lab.reference_steps = 6
        for robust in (1.0, 0.0):
            yield record(lab, 2, fd=True, robust=robust, scouts=1)

    rows = run_records(model, tmp_path, {"loss": loss}, "newton", quick=True, say=lambda *a: None)["loss"]
    text = ablation_sections(next(tmp_path.glob("newton_*.json")))[f"newton_{slug_of(model.name)}:loss"]()
    head, _, *lines = text.splitlines()
    assert head.startswith("| calls | robust | begun at | best classical | fitted | FD | steps |")
    lab = Lab(model, tmp_path / "again", samples=5, batch=4, held_out=8, reference_steps=6)
    for row, table, line in zip(rows, tables, lines, strict=True):
        assert row["fd"] == pytest.approx(distance(lab, table), rel=1e-6)
        assert f"| {row['fd']:.2f} |" in line
    assert lab.distance(lab.table("ddim", 1)) > 5 * lab.distance(lab.table("unipc", 6))
    with pytest.raises(ls.InputError, match="all classes"):
        lab.of_classes([0]).distance(tables[0])


def test_answers_are_kept_when_another_question_is_asked(folder, tmp_path):
    model = ls.load_model(folder)
    for name in ("one", "two"):
        run_records(model, tmp_path, {name: lambda lab, quick: iter([{}])}, "newton", quick=True, say=lambda *a: None)
    content = json.loads(next(tmp_path.glob("newton_*.json")).read_text())
    assert set(content["ablations"]) == {"one", "two"}


def test_a_table_is_carried_to_other_classes_and_beside_the_one_found_there(folder, tmp_path, monkeypatch):
    monkeypatch.setattr("benchmarks.ablations.SIZES", {True: (5, 4, 8)})
    model = ls.load_model(folder)

    def carried(lab, quick):
        lab.reference_steps = 6
        return NEWTON["transfer"](lab, quick)

    rows = run_records(model, tmp_path, {"transfer": carried}, "newton", quick=True, say=lambda *a: None)["transfer"]
    low, high = (f"{model.name}, {name}" for name in ("classes below 1", "from 1"))
    assert [(row["from"], row["to"]) for row in rows] == [(low, low), (low, high), (high, low), (high, high)]
    assert all(row["rmse"] == row["own_rmse"] for row in rows if row["from"] == row["to"])
    text = ablation_sections(next(tmp_path.glob("newton_*.json")))[f"newton_{slug_of(model.name)}:transfer"]()
    assert f"{rows[1]['ratio']:.3f}" in text.splitlines()[2]
    assert "(1.00)" in text.splitlines()[2]


def test_cost_is_per_number_that_the_default_fits():
    """3 calls: 6 weights, 2 levels and 3 weights of the first state; 5 calls: 15, 4 and 5."""
    total, each = cost({3: {"calls": 1100}, 5: {"calls": 4800}})
    assert total.tolist() == [1100, 4800]
    assert each.tolist() == [100, 200]


def test_plots_of_the_default_are_drawn_for_the_results_that_are_there(tmp_path):
    assert draw_newton_plots(tmp_path, tmp_path) == []
    rows = [
        {"prior": way, "batch": n, "nfe": 5, "rmse": 1 / n, "base_rmse": 1.0}
        for way in ("none", "ridge 0.01")
        for n in (8, 16)
    ]
    (tmp_path / "newton_a.json").write_text(json.dumps({"about": {}, "ablations": {"samples": rows}}))
    search = {f"gauss_newton-{nfe}": {"calls": nfe**3} for nfe in (3, 4, 5, 6)}
    save_results(replace(RESULTS, about={**RESULTS.about, "search": search}), tmp_path / "peers_a.json")
    drawn = draw_newton_plots(tmp_path, tmp_path / "images")
    assert [path.name for path in drawn] == ["newton_a_samples.png", "peers_a_cost.png"]
    before = [path.read_bytes() for path in drawn]
    assert all(content.startswith(b"\x89PNG") for content in before)
    assert [path.read_bytes() for path in draw_newton_plots(tmp_path, tmp_path / "images")] == before


# Commands


@pytest.mark.slow
def test_the_paper_s_benchmark_on_any_model(tmp_path, monkeypatch):
    """Results, plots and nothing else; the second run reads finished batches."""
    monkeypatch.chdir(tmp_path)
    save_tiny_model(tmp_path / "a", null_class=2)
    options = ("--model", tmp_path / "a", "--samples", 65, "--quick", "--out", "out")
    for _ in range(2):
        output = run("paper", *options, app=app)
        assert "IIA-EDM" in output
    assert {path.name for path in Path("out").iterdir()} == {"a.json", "a.parquet", "images", "work"}
    assert {path.name for path in Path("out/images").iterdir()} == {"a_error_vs_nfe.png", "a_comparison.png"}


def test_the_help_names_every_benchmark():
    text = run("--help", app=app)
    assert all(word in text for word in ("paper", "peers", "newton", "pages", "torchrun"))


@pytest.mark.parametrize("command", ["paper", "peers", "newton", "summary", "pages"])
def test_help_ends_with_an_example_whose_options_exist(command):
    text = re.sub(r"\x1b\[[0-9;]*m", "", run(command, "--help", app=app))
    example = next(line.strip() for line in text.splitlines() if "Example:" in line)
    assert example.startswith(f"Example: python -m benchmarks {command} ")
    assert all(option in text.split("Example:")[0] for option in re.findall(r"--\w+", example))
