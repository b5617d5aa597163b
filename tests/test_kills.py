"""Work that is killed at random moments: no broken file, no lost part, and the end of undisturbed work."""

from __future__ import annotations

import pytest

from benchmarks.kills import kill_everything


@pytest.mark.slow
def test_killed_work_goes_on_and_ends_as_if_nobody_had_disturbed_it(tmp_path):
    found = kill_everything(tmp_path, 18, seed=3)
    assert set(found) == {"calibrate", "recalibrate", "evaluate", "save", "read", "rollout"}
    assert sum(counts["kills"] for counts in found.values()) >= 18
    for name in ("calibrate", "recalibrate", "evaluate"):
        counts = found[name]
        assert counts["parts"] > 10
        assert [counts[key] for key in ("lost", "broken", "made_twice", "different")] == [0, 0, 0, 0]
    for name in ("save", "read"):
        assert found[name]["saved"] > 0
        assert found[name]["broken"] == 0
    assert found["read"]["read"] > 0
    assert (found["rollout"]["lost"], found["rollout"]["damaged"]) == (0, 0)
