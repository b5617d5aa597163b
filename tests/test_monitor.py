"""The monitor: what each policy does with pictures, what it counts, and what a card without clean runs says."""

from __future__ import annotations

import dataclasses
import json
import threading
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from problems import Mixture
from toy_fits import SCHEDULE, SIGMAS, noise_of

import longstride as ls
from longstride.guard import Recorder
from longstride.guard.clean import normal_of

WIDE = 64
TABLE = replace(ls.build("dpmpp_3m", ls.grid("log_snr", 4, schedule=SCHEDULE, final="sigma_min")), name="fitted")
BASE = ls.build("ddim", SIGMAS)


@dataclasses.dataclass(frozen=True)
class Carded:
    """What sampling needs of a card."""

    table: ls.SolverTable
    base_table: ls.SolverTable
    normal: object
    guard: object = None


def noise(count, seed=0):
    return noise_of(count, seed, WIDE)


def louder(x, sigma):
    """The network with another prediction, as under another guidance."""
    return 1.5 * Mixture()(x, sigma)


def slightly(x, sigma):
    """The network with a prediction that no single sample shows to be another."""
    return 1.003 * Mixture()(x, sigma)


def spoilt(which):
    """The network whose last call returns NaN for some samples."""

    def model(x, sigma):
        out = Mixture()(x, sigma)
        if len(x) == len(which) and abs(sigma / TABLE.levels[-2] - 1) < 1e-6:
            out = torch.where(which[:, None], torch.nan, out)
        return out

    return model


@pytest.fixture(scope="module")
def card():
    return Carded(TABLE, BASE, normal_of(Mixture(), noise(256, 9), TABLE))


def test_a_clean_service_raises_no_alarm_and_its_pictures_are_the_tables(card):
    x = noise(64)
    for policy in ("observe", "warn", "fallback", "raise"):
        monitor = ls.Monitor(card, policy=policy)
        found = ls.sample_guarded(Mixture(), x, card, monitor=monitor)
        assert torch.equal(found.samples, ls.sample(Mixture(), x, TABLE))
        assert not found.seen.alarm
        assert found.calls == TABLE.nfe
        report = monitor.report()
        assert (report.samples, report.windows, report.window_alarms, report.again) == (64, 4, 0, 0)


def test_observing_changes_no_picture(card):
    x = noise(32)
    monitor = ls.Monitor(card)
    found = ls.sample_guarded(louder, x, card, monitor=monitor)
    assert torch.equal(found.samples, ls.sample(louder, x, TABLE))
    assert not found.flagged.any()
    report = monitor.report()
    assert (report.windows, report.window_alarms, report.alarm_stands) == (2, 2, True)
    assert report.last_alarm == found.seen.windows[-1]
    assert report.last_alarm.shift > report.shift_above


def test_a_warning_says_what_is_off(card):
    with pytest.warns(UserWarning, match=r"not like clean runs of the card: .*farthest off: \w+ \d by [+-]"):
        ls.sample_guarded(louder, noise(16), card, monitor=ls.Monitor(card, policy="warn"))


def test_the_fallback_is_the_bases_picture_bit_for_bit(card):
    x = noise(32)
    found = ls.sample_guarded(louder, x, card, monitor=ls.Monitor(card, policy="fallback"))
    assert found.flagged.all()
    assert torch.equal(found.samples, ls.sample(louder, x, BASE))
    assert found.calls == TABLE.nfe + BASE.nfe - 1  # the first call is that of both


def test_the_fallback_lasts_until_a_window_without_alarm(card):
    """Samples before the first window ends are delivered; those after it are not, until a clean window has ended."""
    monitor, again = ls.Monitor(card, policy="fallback"), []
    for seed, network in enumerate([slightly] * 4 + [Mixture()] * 5):
        again.append(ls.sample_guarded(network, noise(8, seed), card, monitor=monitor).seen.again.tolist())
    wanted = [False, True, True, True, True, False, False, False, False]
    assert again == [[one] * 8 for one in wanted]
    report = monitor.report()
    assert (report.sample_alarms, report.window_alarms, report.alarm_stands, report.again) == (0, 2, False, 32)


def test_the_raise_policy_raises_one_clear_error(card):
    monitor = ls.Monitor(card, policy="raise")
    with pytest.raises(ls.MonitorError, match="a window of 16 samples has a shift of"):
        ls.sample_guarded(louder, noise(16), card, monitor=monitor)
    assert monitor.report().window_alarms == 1


@pytest.mark.parametrize("policy", ["observe", "warn", "fallback"])
def test_samples_that_are_not_finite_fall_back_at_once(card, policy):
    """Under every policy; the others are untouched."""
    which = torch.arange(5) == 3
    monitor, x = ls.Monitor(card, policy=policy), noise(5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = ls.sample_guarded(spoilt(which), x, card, monitor=monitor)
    assert found.flagged.tolist() == which.tolist()
    assert torch.equal(found.samples[3:4], ls.sample(Mixture(), x[3:4], BASE))
    assert torch.equal(found.samples[:3], ls.sample(Mixture(), x, TABLE)[:3])
    report = monitor.report()
    assert (report.non_finite, report.sample_alarms, report.again, report.windows) == (1, 1, 1, 0)
    with pytest.raises(ls.MonitorError, match="1 of 5 samples are not finite"):
        ls.sample_guarded(spoilt(which), x, card, monitor=ls.Monitor(card, policy="raise"))


def test_small_calls_are_pooled_and_large_ones_hold_several_windows(card):
    """The windows are the same, whatever the calls: in all samples, in threes, one by one."""
    x, reports = noise(48), []
    for size in (48, 3, 1):
        monitor = ls.Monitor(card)
        for part in x.split(size):
            ls.sample_guarded(Mixture(), part, card, monitor=monitor)
        reports.append(monitor.report())
    assert [one.windows for one in reports] == [3, 3, 3]
    for one in reports[1:]:
        assert one.last.shift == pytest.approx(reports[0].last.shift, rel=1e-3)
        assert one.last.spread == pytest.approx(reports[0].last.spread)


def test_a_run_is_watched_as_a_block(card):
    monitor, x = ls.Monitor(card), noise(16)
    with monitor.watching() as callback:
        ls.sample(louder, x, TABLE, callback=callback)
    assert monitor.report().window_alarms == 1
    with pytest.raises(RuntimeError, match="the network"), monitor.watching():
        raise RuntimeError("the network is gone")
    assert monitor.report().samples == 16
    monitor.reset()
    assert monitor.report() == ls.Monitor(card).report()


def test_the_report_is_plain_data(card):
    monitor = ls.Monitor(card)
    ls.sample_guarded(louder, noise(16), card, monitor=monitor)
    told = json.loads(json.dumps(dataclasses.asdict(monitor.report()), allow_nan=False))
    assert told["window_alarms"] == 1
    assert len(told["last"]["unusual"]) == 3


def test_a_slow_change_raises_the_alarm_of_the_stream(card):
    """A network that is off by so little that windows hardly ever tell."""

    def hardly(x, sigma):
        return 1.0005 * Mixture()(x, sigma)

    monitor = ls.Monitor(card)
    seen = ls.sample_guarded(hardly, noise(1600), card, monitor=monitor).seen
    assert monitor.report().window_alarms <= 10
    assert seen.drift


def test_threads_count_together(card):
    monitor, recorder = ls.Monitor(card), Recorder(TABLE)
    ls.sample(Mixture(), noise(4), TABLE, callback=recorder)
    statistics = recorder.read()
    threads = [threading.Thread(target=lambda: [monitor.see(statistics) for _ in range(20)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (monitor.report().samples, monitor.report().windows) == (320, 20)


def test_what_cannot_be_monitored(card):
    with pytest.raises(ls.InputError, match=r"card\.with_normal\(denoiser, noise\)"):
        ls.Monitor(replace(card, normal=None))
    many = ls.build("ddim", np.geomspace(20, 0.1, 41))
    with pytest.raises(ls.InputError, match="a card of 40 network calls has too many statistics"):
        ls.Monitor(replace(card, table=many, normal=None))
    with pytest.raises(ls.InputError, match="unknown policy 'shout'"):
        ls.Monitor(card, policy="shout")
    with pytest.raises(ls.InputError, match="at least 2 samples"):
        ls.Monitor(card, window=1)
    with pytest.raises(ls.InputError, match="between 0 and 1"):
        ls.Monitor(card, false_alarms=0.0)
    other = replace(card, table=BASE)
    with pytest.raises(ls.InputError, match="this monitor is of another card"):
        ls.sample_guarded(Mixture(), noise(4), other, monitor=ls.Monitor(card))


def test_a_calibration_puts_clean_runs_on_its_card(tmp_path):
    """The samples' and fresh ones; also after a restart, to the bit; and the table is that of a calibration without."""
    x, base, made = noise_of(48), ls.build("ddim", SIGMAS), []
    options = {"reference_steps": 16, "iterations": 1, "scouts": 1}
    for _ in range(2):
        result = ls.calibrate(Mixture(), x, base, monitor=80, journal=tmp_path / "work", **options)
        result.card.save(tmp_path / "card.json")
        made.append(ls.load_card(tmp_path / "card.json"))
        assert made[-1] == result.card
    assert made[0] == made[1]
    assert made[0].normal.samples == 80
    plain = ls.calibrate(Mixture(), x, base, monitor=0, **options)
    assert plain.card.normal is None
    assert plain.table.distance(made[0].table) == 0.0
    assert result.calls - plain.calls == 80 * 4
    added = plain.card.with_normal(Mixture(), noise_of(64, 3), batch_size=10)
    assert added.normal.samples == 64
    assert ls.Monitor(added).report().clean_runs == 64
    with pytest.raises(ls.InputError, match="32 or more runs must be finite"):
        plain.card.with_normal(Mixture(), noise_of(8))
    with pytest.raises(ls.InputError, match="0 or more"):
        ls.calibrate(Mixture(), x, base, monitor=-1, **options)


def test_clean_runs_of_other_calls_are_no_valid_card(card, tmp_path):
    x, base = noise_of(48), ls.build("ddim", SIGMAS)
    made = ls.calibrate(Mixture(), x, base, reference_steps=16, iterations=1, scouts=1, monitor=48).card
    other = normal_of(Mixture(), noise_of(48), ls.build("ddim", SIGMAS[[0, 2, 3, 4]]))
    made.model_copy(update={"normal": other}).save(tmp_path / "card.json")
    with pytest.raises(ls.CardError, match="clean runs of 18 statistics, but a run of 4 calls has 25"):
        ls.load_card(tmp_path / "card.json")
