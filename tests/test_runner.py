"""Studies: measured as by hand, on noise that calibration did not see, the same after a kill."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tiny_models import save_tiny_model
from tiny_studies import SMALL

import longstride as ls
from longstride.calibration.reference.solve import errors
from longstride.evaluation import run_study
from longstride.evaluation.seeds import seed_range
from longstride.evaluation.statistics import picture_statistics
from longstride.guard import Guard
from longstride.guard.statistics import names


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return ls.load_model(save_tiny_model(tmp_path_factory.mktemp("models") / "tiny", null_class=2))


def test_a_study_measures_what_one_would_measure_by_hand(model):
    outcome = run_study(model, SMALL)
    results, seeds = outcome.results, seed_range("evaluation", 0, 12)
    assert set(outcome.tables) == {
        *((name, nfe) for name in ("ddim", "iia_ddim", "unipc3") for nfe in (4, 5)),
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
    tails = {"worse", "worse_2", "worse_4"}
    assert {line.measure for line in results.lines} == {"rmse", "median", "largest", "calls", *tails}
    assert {line.contestant for line in results.lines if line.measure in tails} == {"iia_ddim_cfg"}
    assert {line.value for line in results.lines if line.measure == "calls"} == {4.0}


def test_a_guarded_card_is_measured_with_its_guard_and_at_its_cost(model):
    """A guard that flags all samples makes a card its base, at nearly twice the calls; without it nothing changes."""
    study = replace(SMALL, contestants=(), nfes=(4,), dimensions=0)
    plain = run_study(model, replace(study, contestants=("iia_ddim",))).cards["iia_ddim", 4]
    count = len(names(4))
    guard = Guard((0.0,) * count, (1.0,) * count, (0.0,) * count, offset=0.0, threshold=-1.0, share=0.5)
    card = plain.model_copy(update={"guard": guard})
    assert card.table.distance(card.base_table) > 0
    found = run_study(model, study, cards={"mine": card}).results
    assert found.value("mine", 4, "rmse").value == pytest.approx(found.value("mine (base)", 4, "rmse").value)
    assert found.value("mine", 4, "worse_2").value == 0
    assert [found.value(name, 4, "calls").value for name in ("mine (base)", "mine")] == [
        4,
        7,
    ]  # the first call is that of both
    free = run_study(model, study, cards={"mine": card}, guarded=False).results
    own = run_study(model, study, cards={"mine": plain}).results
    assert free == own
    assert free.value("mine", 4, "calls").value == 4
    assert free.value("mine", 4, "rmse").value != found.value("mine", 4, "rmse").value


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


@pytest.mark.slow
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


def test_a_study_that_was_killed_between_two_cards_goes_on(model, tmp_path):
    """The converged solution of its calibrations is the same one, whichever card is missing."""
    study = replace(SMALL, contestants=("iia_ddim",), nfes=(4, 5), dimensions=0)
    whole = run_study(model, study, tmp_path)
    (tmp_path / "cards" / "iia_ddim-5.json").unlink()
    assert run_study(model, study, tmp_path).results == whole.results
