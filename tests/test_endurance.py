"""Shared and long use of a card, in small: nothing is lost, nothing differs, every failure has its message."""

from __future__ import annotations

import numpy as np

from benchmarks.endurance import full_disk, shared_file, soak, threads


def test_threads_that_share_a_monitor_draw_what_one_thread_draws():
    found = threads(count=8, requests=8)
    assert found["made_again"] > 0
    assert (found["requests"], found["different"], found["not_counted"]) == (64, 0, 0)


def test_processes_that_replace_one_card_lose_none(tmp_path):
    found = shared_file(tmp_path, processes=3, times=8)
    assert (found["replaced"], found["lost"], found["broken"]) == (24, 0, 0)


def test_a_full_disk_keeps_the_former_card_and_is_told(tmp_path):
    found = full_disk(tmp_path / "disk")
    assert found == {"saves": 8, "silent": 0, "unclear": 0, "broken": 0, "left_behind": 0}


def test_a_soak_counts_its_requests():
    found = soak(1.0)
    assert found["requests"] > 10
    assert np.isfinite(found["mib_per_million_requests"])
