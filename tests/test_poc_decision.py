"""From a made-up outcome to a recommendation, and to the sentence that says it, in every language."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from toy_outcomes import OUTCOMES, made

from longstride.errors import InputError
from longstride.evaluation.bootstrap import Interval
from longstride.report.asked import QUICK
from longstride.report.decision import MOST_MONTHS, STEADY, TAIL, Recommendation, decide
from longstride.report.language import load_language
from longstride.report.numbers import numbers_of, payback, saving
from longstride.report.outcome import Figures, Outcome, load_outcome, save_outcome
from longstride.report.stages import plan_of
from longstride.report.words import headline_of, reason_of, recommendation_of
from longstride.rollout import Rollout

ADOPT, MONITOR, DECLINE = Recommendation.ADOPT, Recommendation.MONITOR, Recommendation.DECLINE
#: Recommendation, number of calls, how the sentence begins in English and in Japanese, and codes of reasons.
EXPECTED: dict[str, tuple[Recommendation, int | None, str, str, set[str]]] = {
    "great": (
        ADOPT,
        5,
        "The same quality with 5 network calls instead of 20: the error is 0.94 (0.90–0.99) times today's, €5",
        "ネットワーク呼び出しを 20 回から 5 回に減らしても品質は変わりません。誤差は現行の 0.94（0.90〜0.99）倍、削",
        {"not-worse", "paid-back", "classical-none", "tail-fine", "gate-fine", "gain-fine"},
    ),
    "none": (
        DECLINE,
        None,
        "Fewer network calls cost quality here: even at its best, with 8 calls instead of 20, the error is 2.",
        "このモデルでは、ネットワーク呼び出しを減らすと品質が下がります。20 回を 8 回に減らした最良の場合でも",
        {"distance-worse", "more-calls"},
    ),
    "worse": (
        DECLINE,
        None,
        "Fewer network calls cost quality here: even at its best, with 8 calls instead of 20, the error is 3.0",
        "このモデルでは、ネットワーク呼び出しを減らすと品質が下がります。",
        {"distance-worse", "more-calls"},
    ),
    "uncertain": (
        DECLINE,
        None,
        "Not proven: with 8 network calls instead of 20 the error is",
        "品質の維持は確認できませんでした。ネットワーク呼び出しを 20 回から 8 回に減らすと",
        {"more-samples"},
    ),
    "guided": (
        ADOPT,
        5,
        "The same quality with 5 network calls instead of 20",
        "ネットワーク呼び出しを 20 回から 5 回に減らしても品質は変わりません。",
        {"guided", "not-worse"},
    ),
    "no price": (
        ADOPT,
        5,
        "The same quality with 5 network calls instead of 20: the error is 0.94 (0.90–0.99) times today's, 3.99 (",
        "ネットワーク呼び出しを 20 回から 5 回に減らしても品質は変わりません。誤差は現行の 0.94（0.90〜0.99）倍、速",
        {"not-worse", "paid-back"},
    ),
    "one solver only": (
        ADOPT,
        8,
        "The same quality with 8 network calls instead of 20",
        "ネットワーク呼び出しを 20 回から 8 回に減らしても品質は変わりません。",
        {"classical-none"},
    ),
    "base refused": (
        DECLINE,
        None,
        "Calibration does not help this model: its own test kept the classical solver at every number of",
        "このモデルではキャリブレーションの効果がありません。",
        {"gate-kept"},
    ),
    "non-finite": (DECLINE, None, "Nothing can be recommended: the network returned NaN", "推奨できません。", set()),
    "interrupted": (DECLINE, None, "Nothing can be recommended yet: the measurement", "まだ推奨できません。", set()),
    "quick": (
        MONITOR,
        6,
        "The same quality with 6 network calls instead of 20",
        "ネットワーク呼び出しを 20 回から 6 回に減らしても品質は変わりません。",
        {"quick", "tail-fine"},
    ),
    "tail": (
        MONITOR,
        4,
        "The same quality with 4 network calls instead of 20",
        "ネットワーク呼び出しを 20 回から 4 回に減らしても品質は変わりません。",
        {"tail"},
    ),
    "classical is enough": (
        DECLINE,
        None,
        "Calibration is not needed: UniPC-3 on log_snr reaches today's quality with 6 network calls instead of 20",
        "キャリブレーションは不要です。UniPC-3 on log_snr なら、ネットワーク呼び出し 20 回ではなく 6 回で",
        {"switch"},
    ),
    "never pays": (
        DECLINE,
        None,
        "It does not pay: 5 network calls instead of 20 give the same quality",
        "採算が合いません。",
        {"never-pays", "not-worse"},
    ),
    "no faster": (
        DECLINE,
        None,
        "No time is surely saved: 5 network calls instead of 20 give the same quality",
        "時間の短縮が確実ではありません。",
        {"no-time", "not-worse"},
    ),
}
NAMES = {
    ADOPT: ("Adopt", "採用"),
    MONITOR: ("Adopt with monitoring", "監視付きで採用"),
    DECLINE: ("Do not adopt", "採用見送り"),
}


def test_every_made_up_outcome_is_looked_at():
    assert set(EXPECTED) == set(OUTCOMES)


@pytest.mark.parametrize("name", OUTCOMES)
def test_the_recommendation_and_its_sentence(name: str):
    decision = decide(OUTCOMES[name])
    recommendation, calls, *sentences, codes = EXPECTED[name]
    assert decision.recommendation is recommendation
    assert decision.calls == calls
    assert codes <= {fact.code for fact in decision.reasons}
    for code, sentence, words in zip(("en", "ja"), sentences, NAMES[recommendation], strict=True):
        language = load_language(code)
        assert headline_of(decision.headline, language).startswith(sentence)
        assert recommendation_of(recommendation, language) == words
        for fact in decision.reasons:
            told = reason_of(fact, language)
            assert "{" not in told
            assert (code == "ja") == any("\u3040" <= letter <= "\u30ff" for letter in told)


def test_a_decision_is_a_function_of_the_outcome_alone(tmp_path):
    for name, outcome in OUTCOMES.items():
        save_outcome(outcome, tmp_path / "outcome.json")
        again = load_outcome(tmp_path / "outcome.json")
        assert again == outcome, name
        assert decide(again) == decide(outcome), name


def test_the_smallest_number_of_calls_is_one_whose_whole_interval_is_at_most_one():
    for name in ("great", "quick", "tail", "one solver only"):
        outcome = OUTCOMES[name]
        highs = {n.sampler.calls: n.ratio.high for n in numbers_of(outcome) if n.sampler.kind == "calibrated"}
        fine = [calls for calls, high in highs.items() if high is not None and high <= 1]
        assert decide(outcome).calls == min(fine), name


def test_a_larger_distance_refuses_a_smaller_error():
    outcome = OUTCOMES["great"]
    grown = Interval(2.0, 1.0, 3.0)
    samplers = [replace(s, distance_change=grown) if s.kind == "calibrated" else s for s in outcome.samplers]
    decision = decide(replace(outcome, samplers=tuple(samplers)))
    assert decision.recommendation is DECLINE
    assert decision.headline.code == "distance"


def test_what_calls_for_monitoring():
    def watched(**changes: object) -> set[str]:
        outcome = OUTCOMES["great"]
        said = tuple(replace(one, **changes) for one in outcome.calibrated)  # type: ignore[arg-type]
        found = decide(replace(outcome, calibrated=said))
        assert (found.recommendation is MONITOR) == bool([f for f in found.reasons if f.speaks == 0])
        return {fact.code for fact in found.reasons if fact.speaks == 0}

    assert watched(gain=(1.0, STEADY)) == set()
    assert watched(gain=(1.0, 1.01 * STEADY)) == {"gain"}
    assert watched(gain=None) == set()
    assert watched(needs_guard=True) == {"guard"}


def test_calls_whose_calibration_was_refused_are_not_recommended():
    outcome = OUTCOMES["great"]
    said = tuple(replace(one, how="base" if one.calls == 5 else "calibrated") for one in outcome.calibrated)
    assert decide(replace(outcome, calibrated=said)).calls == 6


def test_the_needed_samples_make_the_interval_narrow_enough():
    outcome = made(ours=0.9, spread=0.35, samples=64, slope=0.5)
    decision = decide(outcome)
    (fact,) = (one for one in decision.reasons if one.code == "more-samples")
    ratio, needed = fact.values["ratio"], fact.values["needed"]
    narrower = (ratio.high - ratio.value) * np.sqrt(64 / needed)
    assert ratio.value + narrower <= 1 < ratio.high


def test_money_and_break_even_are_arithmetic():
    outcome = OUTCOMES["great"]
    today, ours = (np.mean(outcome.sampler(*key).seconds) for key in (outcome.today, ("calibrated", 5)))  # type: ignore[union-attr]
    saved = saving(outcome, 5)
    assert saved is not None
    assert saved.seconds.value == pytest.approx(today - ours)
    assert saved.money is not None
    assert saved.money.value == pytest.approx((today - ours) * 1_000_000 * 2.5 / 3600)
    assert saved.images is not None
    assert saved.images * (today - ours) == pytest.approx(outcome.cost.seconds)
    assert saved.months == pytest.approx(saved.images / 1_000_000)
    assert payback(100.0, Interval(0.0, None, None)) == (None, None)


def test_the_limit_of_months_decides():
    outcome = OUTCOMES["great"]
    saved = saving(outcome, 5)
    assert saved is not None
    assert saved.images is not None
    for months, kind in ((0.9 * MOST_MONTHS, ADOPT), (1.1 * MOST_MONTHS, DECLINE)):
        figures = Figures(2.5, saved.images / months, "EUR")
        assert decide(replace(outcome, figures=figures)).recommendation is kind


def test_a_quick_measurement_can_bound_the_tail_but_never_says_adopt():
    outcome = OUTCOMES["quick"]
    assert len(outcome.samplers[0].errors) == QUICK.samples
    one = next(n for n in numbers_of(outcome) if n.sampler.name == "calibrated")
    assert one.much_worse.count == 0
    assert one.much_worse.at_most <= TAIL
    assert decide(outcome).recommendation is MONITOR


def test_the_plan_starts_a_roll_out(tmp_path, shared):
    plan = plan_of(OUTCOMES["tail"], decide(OUTCOMES["tail"]))
    assert plan is not None
    assert plan["new"] == "card-4.json"
    with Rollout.start(tmp_path / "rollout.db", **{**plan, "new": shared / "card.json"}) as started:
        assert started.status().status == "running"
    plain = plan_of(OUTCOMES["great"], decide(OUTCOMES["great"]))
    assert plain is not None
    assert [2 * stage["requests"] for stage in plain["stages"]] == [stage["requests"] for stage in plan["stages"]]
    assert plan_of(OUTCOMES["none"], decide(OUTCOMES["none"])) is None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "not complete JSON"),
        ("[]", "holds no outcome"),
        ('{"format": "longstride-poc", "version": 99}', "of version 99, this longstride reads 1"),
        ('{"format": "longstride-poc", "version": 1}', "is damaged: subject: Field required"),
    ],
)
def test_a_bad_file_is_refused(tmp_path, text: str, words: str):
    file = tmp_path / "outcome.json"
    file.write_text(text)
    with pytest.raises(InputError, match=words):
        load_outcome(file)


def test_a_picture_that_is_no_picture_is_refused(tmp_path):
    text = OUTCOMES["great"].dumps().replace("data:image/png;base64,", "data:text/html;base64,", 1)
    (tmp_path / "outcome.json").write_text(text)
    with pytest.raises(InputError, match="a picture must be PNG or WebP"):
        load_outcome(tmp_path / "outcome.json")


def test_figures_that_cannot_be_used():
    outcome: Outcome = OUTCOMES["great"]
    with pytest.raises(InputError, match="currency"):
        outcome.with_figures(currency="euros")
    assert outcome.with_figures(currency="JPY").figures == Figures(2.5, 1_000_000, "JPY")
