"""The summary over networks and methods: closed forms of the aggregation, and which networks a figure covers."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from command_line import invoke, run

import longstride as ls
from benchmarks.commands import app
from benchmarks.summary import USUAL, Scene, aggregate, many_scenes, peer_scene, summarise
from benchmarks.summary_table import common, draw_summary, spread, summary_sections
from longstride.evaluation.results import Line, Results, save_results

ROOT = Path(__file__).resolve().parents[1]


def scene(network: str, scale: float = 1.0, calls: int = 5, **errors: float) -> Scene:
    """A scene whose usual solvers have errors 4, 2 and 3."""
    found = {f"{name}@usual": error for name, error in zip(USUAL, (4.0, 2.0, 3.0), strict=True)} | errors
    return Scene(network, {calls: {name: dict.fromkeys(("rmse", "median"), scale * e) for name, e in found.items()}})


# Aggregation


def test_ratios_that_are_even_on_a_logarithmic_scale():
    """4^k for k = -1 … 1: mean 1, quartiles 1/2 and 2."""
    found = aggregate({"a": 0.25, "b": 4.0, "c": 1.0})
    assert found["networks"] == {"a": 0.25, "b": 4.0, "c": 1.0}
    assert (found["best"], found["worst"], found["worst_of"]) == (0.25, 4.0, "b")
    assert [found[key] for key in ("mean", "low", "high")] == pytest.approx([1.0, 0.5, 2.0], rel=1e-15)


def test_one_network_is_its_own_mean_and_worst():
    found = aggregate({"a": 0.3})
    assert [found[key] for key in ("mean", "low", "high", "best", "worst")] == pytest.approx([0.3] * 5, rel=1e-15)


def test_the_mean_of_reciprocals_is_the_reciprocal_mean():
    ratios = {"a": 0.2, "b": 3.0, "c": 1.7}
    turned = aggregate({name: 1 / ratio for name, ratio in ratios.items()})
    assert turned["mean"] * aggregate(ratios)["mean"] == pytest.approx(1, rel=1e-15)
    assert turned["worst"] == 1 / aggregate(ratios)["best"]


@pytest.mark.parametrize("bad", [0.0, -1.0, math.nan, math.inf])
def test_what_has_no_logarithm_is_refused(bad):
    with pytest.raises(ls.InputError, match=f"positive, finite ratio on b, got {bad}"):
        aggregate({"a": 1.0, "b": bad})
    with pytest.raises(ls.InputError, match="no network has this ratio"):
        aggregate({})


# Scenes


def test_errors_are_over_the_best_of_the_usual_solvers():
    one = scene("a", longstride=0.5)
    assert one.ratio("longstride", 5, "rmse") == 0.25
    assert one.ratio("ddim@usual", 5, "median") == 2.0
    assert one.ratio("longstride", 5, "rmse", under="ddim@usual") == 0.125
    assert one.ratio("longstride", 6, "rmse") is None
    assert one.ratio("longstride", 5, "frechet") is None


def test_without_one_of_the_usual_solvers_there_is_no_denominator():
    one = scene("a", longstride=0.5)
    del one.values[5]["unipc3@usual"]
    assert one.ratio("longstride", 5, "rmse") is None
    assert one.ratio("longstride", 5, "rmse", under="dpmpp_2m@usual") == 0.25


def test_the_best_in_hindsight_is_of_classical_solvers_alone():
    one = scene("a", **{"ipndm3@log_snr": 1.0, "unipc3": 1.5, "gs": 0.1, "longstride": 0.2})
    assert one.value("best", 5, "rmse") == 1.0


def test_the_best_of_two_yardsticks_is_not_the_best():
    one = scene("a", unipc3=1.0)
    assert one.value("best", 5, "rmse") == 1.0
    del one.values[5]["ddim@usual"], one.values[5]["dpmpp_2m@usual"]
    assert one.value("best", 5, "rmse") is None


def universal(samples: int) -> dict[str, object]:
    line = {
        "classical": {f"{name}@karras": {"rmse": 2.0, "median": 1.0} for name in (*USUAL, "deis3")},
        "usual": [f"{name}@karras" for name in USUAL],
        "left_out": {"rmse": 1.0, "median": 0.5},
        "chosen": [{"rmse": 1.0, "median": 0.5}, {"rmse": 4.0, "median": 0.5}],
    }
    return {"kind": "tables", "samples": samples, "5": line, "8": {}, "20": line, "choices": []}


def test_calibrations_count_where_they_had_the_same_noise():
    budget = {"5": {"default": {"rmse": 0.2, "median": 0.1, "calls": 9}, "2000": {"calls": 0}}}
    same, other = (many_scenes({"a": universal(n)}, {"a": budget})["a"] for n in (256, 128))
    assert set(same.values) == {5}
    assert same.ratio("longstride", 5, "rmse") == pytest.approx(0.1)
    assert same.ratio("budget_2000", 5, "rmse") is None
    assert other.ratio("longstride", 5, "rmse") is None
    assert same.ratio("universal", 5, "median") == 0.5
    assert same.ratio("chosen", 5, "rmse") == pytest.approx(1.0)
    assert same.ratio("chosen_worst", 5, "rmse") == 2.0
    assert same.ratio("deis3@karras", 5, "rmse") == 1.0


def results(**errors: float) -> Results:
    """A network of the benchmark against peers at 5 and 20 calls, whose default levels are uniform."""
    lines = [
        Line("m", None, name.replace("_at_", "@"), None, nfe, nfe, measure, error)
        for name, error in errors.items()
        for nfe in (5, 20)
        for measure in ("rmse", "median", "fd_teacher")
    ]
    about = {"study": {"grid": "uniform", "nfes": [5, 20]}, "search": {}, "labels": {}}
    return Results(about, tuple(lines))


PEERS = results(
    ddim_at_uniform=4, dpmpp_2m_at_uniform=2, unipc3_at_uniform=3, unipc3=1.5, classical=1.5, gs=1, gauss_newton=0.5
)  # fmt: skip


def test_default_levels_and_best_grids_are_told_apart():
    one = peer_scene("hsc32", PEERS)
    assert set(one.values) == {5}
    assert one.ratio("unipc3@usual", 5, "frechet") == 1.5
    assert one.ratio("unipc3", 5, "rmse") == 0.75
    assert one.ratio("longstride", 5, "rmse", under="gs") == 0.5
    assert one.methods == {*(f"{name}@usual" for name in USUAL), "unipc3", "gs", "longstride"}


# The summary


def test_a_figure_covers_the_networks_that_have_it():
    many = {"a": scene("a", universal=1.0), "b": scene("b", universal=0.5, longstride=0.25), "c": scene("c", calls=8)}
    found = summarise(many, {})
    cell = found["many"]["rmse"]["universal"]["5"]
    assert cell["networks"] == {"a": 0.5, "b": 0.25}
    assert (cell["mean"], cell["worst_of"]) == (pytest.approx(math.sqrt(0.125)), "a")
    assert "8" not in found["many"]["rmse"]["universal"]
    assert found["many"]["rmse"]["longstride"]["5"]["networks"] == {"b": 0.125}
    assert found["longstride"]["rmse"]["universal"]["5"]["networks"] == {"b": 0.5}
    assert found["many_best"]["rmse"]["usual"]["8"]["networks"] == {"c": 1.0}
    assert found["calls"] == [5, 8]


def test_a_network_of_both_counts_once_and_files_are_not_mixed_in_one_ratio():
    """Its noise differs: 3 times the error in the second scene, which no ratio sees."""
    many = {"a": scene("a", universal=1.0, longstride=0.5), "b": scene("b", universal=1.0)}
    peers = {"a": scene("a", scale=3.0, longstride=0.25, gs=0.5)}
    found = summarise(many, peers)
    assert found["many"]["rmse"]["longstride"]["5"]["networks"] == {"a": 0.125}
    assert found["peers"]["rmse"]["universal"]["5"]["networks"] == {"a": 0.5}
    assert found["longstride"]["rmse"]["gs"]["5"]["networks"] == {"a": 0.5}
    assert found["longstride"]["rmse"]["universal"]["5"]["networks"] == {"a": 0.5}
    assert found["longstride"]["rmse"]["ddim@usual"]["5"]["networks"] == {"a": 0.0625}


def test_distances_of_different_features_are_not_mixed():
    many, peers = {"a": scene("a", universal=1.0)}, {"a": scene("a", longstride=0.5)}
    for one in (many["a"], peers["a"]):
        for found in one.values[5].values():
            found["frechet"] = found["rmse"]
    found = summarise(many, peers)
    assert "longstride" in found["many"]["rmse"]
    assert "longstride" not in found["many"]["frechet"]
    assert "universal" not in found["peers"]["frechet"]
    assert found["peers"]["frechet"]["longstride"]["5"]["mean"] == 0.25


def test_the_scale_of_a_network_s_errors_does_not_matter():
    def of(scale: float) -> dict[str, object]:
        return summarise({"a": scene("a", universal=1.0), "b": scene("b", scale, universal=0.5)}, {})

    assert of(1.0) == of(2.0**20)


# Pages


def test_lines_of_a_panel_are_of_the_same_networks():
    """Two networks at three numbers of calls are more pairs than three networks at one."""

    def at(**networks: float) -> dict[str, object]:
        return {"networks": networks}

    methods = {
        "x": {"5": at(a=1, b=1, c=1), "6": at(a=1, b=1, d=1), "8": at(a=1, b=1)},
        "y": {"5": at(a=1, b=1, c=1), "6": at(a=1, b=1), "8": at(a=4, b=1)},
        "z": {"5": at(a=1, b=1), "8": at(b=1)},
    }
    calls, networks = common(methods, ("x", "y"))
    assert (calls, networks) == ([5, 6, 8], ["a", "b"])
    assert set(spread(methods, "z", calls, networks)) == {5}
    assert spread(methods, "y", calls, networks)[8]["mean"] == 2.0
    assert common(methods, ("x", "nobody")) == ([], [])


def test_the_command_writes_what_pages_and_the_picture_need(tmp_path):
    (tmp_path / "universal.json").write_text(json.dumps({"own": {"hsc32": universal(128), "wine": universal(256)}}))
    save_results(PEERS, tmp_path / "peers_galaxy_hsc32.json")
    run("summary", "--results", tmp_path, app=app)
    sections = summary_sections(tmp_path / "summary.json")
    assert "| GS | 0.50 (0.50; 1) |" in sections["summary:peers:rmse"]()
    assert "| GS | 0.67 (0.67; 1) |" in sections["summary:short:peers"]()
    assert "| universal table as it is | 0.50 (0.50; 2) |" in sections["summary:short:many"]()
    assert all(section().startswith("| ") for section in sections.values())
    (drawn,) = draw_summary(tmp_path, tmp_path / "images")
    assert drawn.read_bytes().startswith(b"\x89PNG")


def test_a_folder_without_results_is_refused(tmp_path):
    result = invoke("summary", "--results", tmp_path, app=app)
    assert result.exit_code == 2
    assert "holds neither universal.json nor peers_*.json" in " ".join(result.stderr.split())


def test_the_summary_says_what_the_results_say(tmp_path):
    """After results have changed: python -m benchmarks summary, then python -m benchmarks pages --docs . ."""
    folder = ROOT / "benchmarks" / "results"
    for file in (*folder.glob("peers_*.json"), folder / "universal.json", folder / "budgets.json"):
        (tmp_path / file.name).symlink_to(file)
    run("summary", "--results", tmp_path, app=app)
    assert (tmp_path / "summary.json").read_bytes() == (folder / "summary.json").read_bytes()
