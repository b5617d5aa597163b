"""Every kind of fault that is tried, by name."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.endurance import full_disk, shared_file, soak, threads
from benchmarks.fuzzing import fuzz, valid_files
from benchmarks.kills import kill_everything
from longstride.book import CardBook
from longstride.card import Card

__all__ = ["KINDS", "measured"]

#: Kinds of faults. Kills come first: they fork, before any other kind has started threads.
KINDS = ("kills", "shared_file", "full_disk", "files", "threads", "soak")


def measured(
    kind: str,
    work: Path,
    show: Callable[[Card | CardBook], object],
    inputs: int,
    kills: int,
    minutes: float,
    seed: int,
    progress: Callable[[int], None],
) -> dict[str, Any]:
    """What one kind of fault did.

    Args:
        kind: Of :data:`KINDS`.
        work: Where files stay that crash a reader.
        show: Shows a card or book that was read.
        inputs: Broken files that are read.
        kills: Processes that are killed.
        minutes: How long the soak takes.
        seed: Of the files and of the moments.
        progress: Told how many files were read.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / kind
        match kind:
            case "kills":
                return kill_everything(folder, kills, seed)
            case "shared_file":
                return shared_file(folder)
            case "full_disk":
                return full_disk(folder)
            case "threads":
                return threads()
            case "soak":
                return soak(60 * minutes)
        return fuzz(work, valid_files(), show, inputs, seed, lambda done, _: progress(done)).about()
