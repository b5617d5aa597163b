"""Studies: measured as by hand, on noise that calibration did not see, the same after kills and over processes."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_models import save_tiny_model

import longstride as ls
from longstride.calibration.reference.solve import errors
from longstride.evaluation import PAPER, Line, Results, Study, load_results, run_study, save_results
from longstride.evaluation.contestants import CONTESTANTS, base_table
from longstride.evaluation.frechet import Moments, frechet_distance
from longstride.evaluation.measure import GROUPS, split_batches
from longstride.evaluation.plots import comparison, effect_curves, picture_grid, to_pixels
from longstride.evaluation.real import real_pictures
from longstride.evaluation.seeds import seed_range
from longstride.evaluation.statistics import picture_statistics


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return ls.load_model(save_tiny_model(tmp_path_factory.mktemp("models") / "tiny", null_class=2))


SMALL = Study(
    contestants=("iia_ddim", "iia_edm", "unipc"),
    nfes=(4, 5),
    samples=12,
    batch_size=3,
    calibration_samples=6,
    substeps=2,
    reference_steps=8,
    dimensions=3,
)


def test_rmse_and_median_in_closed_form():
    target = torch.zeros(4, 1, 2, 2)
    samples = torch.stack([torch.full((1, 2, 2), v) for v in (0.1, 0.2, 0.4, 2.0)])
    found = errors(samples, target)
    assert found.rmse == pytest.approx(((0.01 + 0.04 + 0.16 + 4) / 4) ** 0.5)
    assert found.median == pytest.approx(0.3)


def test_pixels_and_sheets(tmp_path):
    images = torch.tensor([-2.0, -1.0, 0.0, 1.0, 3.0]).view(5, 1, 1, 1)
    assert to_pixels(images)[:, 0, 0, 0].tolist() == [0, 0, 128, 255, 255]
    picture_grid(images.expand(-1, 1, 4, 6), tmp_path / "sheet.png", columns=3, scale=2)
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.size == (3 * 6 * 2, 2 * 4 * 2)
    comparison([("a", images[:2].expand(-1, 1, 8, 8)), ("b", images[3:].expand(-1, 1, 8, 8))], tmp_path / "c.png")
    with Image.open(tmp_path / "c.png") as picture:
        shades = {shade for _, shade in picture.convert("L").getcolors(1 << 16)}
    assert {0, 255} <= shades


def test_seeds_of_different_purposes_never_meet():
    purposes = ("calibration", "evaluation", "teacher", "axes")
    ranges = sorted((seed_range(p, seed, 1_000_000) for p in purposes for seed in (0, 1, 7)), key=lambda r: r.start)
    assert all(len(r) == 1_000_000 for r in ranges)
    assert all(before.stop <= after.start for before, after in pairwise(ranges))
    with pytest.raises(ls.InputError, match="at most 1,000,000 samples"):
        seed_range("teacher", 0, 1_000_001)


@pytest.mark.parametrize(("samples", "batch"), [(1, 4), (10, 3), (100, 1), (1000, 7)])
def test_groups_of_batches_cover_the_seeds_once_and_evenly(samples, batch):
    groups = split_batches(range(5, 5 + samples), batch)
    assert [seed for group in groups for part in group for seed in part] == list(range(5, 5 + samples))
    assert len(groups) == min(GROUPS, -(-samples // batch))
    sizes = {len(group) for group in groups}
    assert max(sizes) - min(sizes) <= 1


def test_every_calibrated_contestant_has_its_base_on_the_same_levels():
    for one in CONTESTANTS.values():
        if one.base is not None:
            base = CONTESTANTS[one.base]
            assert (base.solver, base.options, base.spacing) == (one.solver, one.options, one.spacing)
    assert {"biia_edm", "iia_edm", "iia_dpmpp_2m", "iia_dpm_solver_2m", "iia_ddim_cfg"} <= set(PAPER)


def test_a_solver_of_two_calls_per_step_spends_the_most_below_an_odd_number():
    schedule = ls.Schedule.edm()
    assert base_table(schedule, "heun", 5, exactly=False).nfe == 4
    assert base_table(schedule, "heun", 5, final="zero").nfe == 5
    with pytest.raises(ls.InputError, match="cannot spend exactly 5"):
        base_table(schedule, "heun", 5)


def test_a_study_measures_what_one_would_measure_by_hand(model):
    outcome = run_study(model, SMALL)
    results, seeds = outcome.results, seed_range("evaluation", 0, 12)
    assert set(outcome.tables) == {
        *((name, nfe) for name in ("ddim", "iia_ddim", "unipc") for nfe in (4, 5)),
        ("heun", 4),
        ("iia_edm", 4),
    }
    any_table = outcome.tables["ddim", 4]
    noise, denoiser = model.noise(seeds, any_table.sigmas[0]), model.denoiser(seeds)
    target = ls.solve_reference(denoiser, noise, any_table, steps=8, check_samples=0).samples
    for (name, nfe), table in outcome.tables.items():
        drawn = ls.sample(denoiser, noise, table)
        by_hand = errors(drawn, target)
        line = results.value(name, nfe, "rmse")
        assert line.value == pytest.approx(by_hand.rmse, rel=1e-4)
        assert results.value(name, nfe, "median").value == pytest.approx(by_hand.median, rel=1e-4)
        assert line.nfe == line.calls == nfe
        contrast = picture_statistics(drawn)[:, 1].mean() / picture_statistics(target)[:, 1].mean()
        assert results.value(name, nfe, "contrast_ratio").value == pytest.approx(contrast, rel=1e-3)
        assert (line.base is None) == (name not in ("iia_ddim", "iia_edm"))
        if line.base is not None:
            base = results.value(line.base, nfe, "rmse").value
            assert line.change == pytest.approx(line.value - base, abs=1e-12)
            assert line.change_low < line.change < line.change_high
    assert results.about["reference"]["nfe"] == 8
    # With everything drawn the distance to oneself is 0, and no solver's is.
    assert all(line.value > 0 for line in results.lines if line.measure == "fd_teacher")


def test_guided_calls_are_declared_as_one_and_counted_as_two(model):
    study = replace(SMALL, contestants=("iia_ddim_cfg",), nfes=(4,), guidance=2.0, dimensions=0)
    results = run_study(model, study).results
    assert {(line.nfe, line.calls) for line in results.lines} == {(4, 8)}
    assert {line.measure for line in results.lines} == {"rmse", "median"}


def test_cards_take_part_and_must_fit(model, tmp_path):
    study = replace(SMALL, contestants=("ddim",), nfes=(4,), dimensions=0)
    card = run_study(model, replace(study, contestants=("iia_ddim",))).cards["iia_ddim", 4]
    results = run_study(model, study, cards={"mine": card}).results
    own = run_study(model, replace(study, contestants=("iia_ddim",))).results
    assert results.value("mine", 4, "rmse").value == own.value("iia_ddim", 4, "rmse").value
    with pytest.raises(ls.InputError, match="they have no converged solution in common"):
        run_study(model, replace(study, final="zero"), cards={"mine": card})
    only = run_study(model, replace(study, contestants=()), cards={"mine": card}).results
    assert only.contestants == ["mine (base)", "mine"]
    assert only.value("mine", 4, "rmse").change == pytest.approx(
        only.value("mine", 4, "rmse").value - own.value("ddim", 4, "rmse").value
    )
    with pytest.raises(ls.InputError, match="two samplers are called 'ddim': rename"):
        run_study(model, study, cards={"ddim": card})
    with pytest.raises(ls.InputError, match="needs a contestant or a card"):
        run_study(model, replace(study, contestants=()))


def test_a_study_goes_on_and_a_folder_of_another_is_refused(model, tmp_path):
    first = run_study(model, SMALL, tmp_path / "work")
    parts = sorted((tmp_path / "work" / "batches").rglob("*.npz"))
    for lost in parts[::3]:
        lost.unlink()
    again = run_study(model, SMALL, tmp_path / "work")
    assert again.results == first.results
    assert sorted((tmp_path / "work" / "batches").rglob("*.npz")) == parts
    with pytest.raises(ls.InputError, match="unfinished work with another seed"):
        run_study(model, replace(SMALL, seed=1), tmp_path / "work")


def test_bad_studies_are_refused_before_they_start(model):
    for study, message in [
        ({"samples": 3}, "needs more than 3 samples"),
        ({"contestants": ("ddmi",)}, "unknown contestant 'ddmi': did you mean 'ddim'"),
        ({"nfes": ()}, "one or more numbers of calls"),
        ({"batch_size": 0}, "a batch size of 1"),
    ]:
        with pytest.raises(ls.InputError, match=message):
            replace(SMALL, **study)
    with pytest.raises(ls.InputError, match="unknown features 'vgg'"):
        run_study(model, replace(SMALL, features="vgg"))


# Real pictures


def write_pictures(folder, count=12, size=8, mode="L"):
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for n in range(count):
        pixels = rng.integers(0, 256, (size, size, 3), np.uint8)
        Image.fromarray(pixels).convert(mode).save(folder / f"{n:03d}.png")
    return folder


def test_a_folder_of_real_pictures_is_a_yardstick(model, tmp_path):
    real = real_pictures(write_pictures(tmp_path / "real"), model, "efficientnet-lite0", 3)
    real.save(tmp_path / "real.npz")
    loaded = real_pictures(tmp_path / "real.npz", model, "efficientnet-lite0", 3)
    assert loaded.digest == real.digest
    results = run_study(model, SMALL, real=real).results
    assert results.about["real"]["source"] == "6 pictures in real"
    assert {line.contestant for line in results.lines if line.measure == "fd_real"} == {
        *results.contestants,
        "teacher",
    }


def test_bad_real_pictures(model, tmp_path):
    def refused(path, message):
        with pytest.raises(ls.InputError, match=message):
            real_pictures(path, model, "efficientnet-lite0", 3)

    refused(write_pictures(tmp_path / "large", size=9), r"000.png is 9 × 9 pixels, but .* makes 8 × 8")
    refused(write_pictures(tmp_path / "few", count=2), "holds 2 pictures")
    (write_pictures(tmp_path / "broken") / "003.png").write_bytes(b"\x89PNG")
    refused(tmp_path / "broken", "cannot read picture .*003.png")
    refused(tmp_path / "nothing.npz", "nothing.npz")
    real = real_pictures(tmp_path / "broken" / ".." / "large", replace(model, shape=(1, 9, 9)), "efficientnet-lite0", 2)
    with pytest.raises(ls.InputError, match="have 2 dimensions, asked for 3"):
        run_study(model, SMALL, real=real)


# Results files


LINE = Line("m", None, "iia_ddim", "ddim", 4, 4, "rmse", 0.5, 0.4, 0.6, -0.1, -0.2, -0.05)


def test_results_come_back_and_parquet_says_the_same(tmp_path):
    import pyarrow.parquet as pq

    lines = (LINE, Line("m", 2.0, "ddim", None, 4, 8, "fd_teacher", 1.5))
    save_results(Results({"a": 1}, lines), tmp_path / "r.json")
    loaded = load_results(tmp_path / "r.json")
    assert loaded == Results({"a": 1}, lines)
    assert loaded.value("iia_ddim", 4, "rmse") == LINE
    assert loaded.value("iia_ddim", 5, "rmse") is None
    assert pq.read_table(tmp_path / "r.parquet").to_pylist() == [asdict(line) for line in lines]


def test_broken_results_are_named(tmp_path):
    file = tmp_path / "r.json"
    save_results(Results({}, (LINE,)), file)
    good = json.loads(file.read_text())

    def refused(content, message):
        file.write_text(content)
        with pytest.raises(ls.InputError, match=message):
            load_results(file)

    refused("", "is empty")
    refused(json.dumps(good)[:-20], "not complete JSON")
    refused("[]", "holds no results")
    refused(json.dumps({**good, "version": 2}), "version 2, this longstride reads version 1")
    refused(json.dumps({**good, "lines": [{"model": "m"}]}), "is damaged")
    with pytest.raises(ls.InputError, match="cannot read results"):
        load_results(tmp_path / "none.json")
    with pytest.raises(ls.InputError, match="rmse of iia_ddim at 4 calls is nan"):
        save_results(Results({}, (replace(LINE, value=float("nan")),)), file)


def test_plots_show_every_family(model, tmp_path):
    results = run_study(model, SMALL).results
    effect_curves(results, tmp_path / "a.png", title="Tiny")
    effect_curves(results, tmp_path / "b.png", measures=("rmse",))
    with Image.open(tmp_path / "a.png") as both, Image.open(tmp_path / "b.png") as one:
        assert both.size[1] > 1.5 * one.size[1]
        assert both.size[0] == one.size[0]


def test_the_distance_of_a_study_is_the_distance_of_its_coordinates():
    """Moments of groups, summed, give the distance of all samples."""
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(40, 3)), rng.normal(size=(40, 3)) * 1.5 + 0.3
    packed = [sum(Moments.of(part).pack() for part in np.split(x, 4)) for x in (a, b)]
    grouped = frechet_distance(*(Moments.unpack(p, 3) for p in packed))
    assert grouped == pytest.approx(frechet_distance(Moments.of(a), Moments.of(b)), rel=1e-9)
