"""Every kind of fault that is tried, by name."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.endurance import full_disk, shared_file, soak, threads
from benchmarks.fuzzing import fuzz, valid_files
from benchmarks.kills import kill_everything
from longstride.cli.render import shown

__all__ = ["KINDS", "measured"]

#: Kinds of faults. Kills come first: they fork, before any other kind has started threads.
KINDS = ("kills", "shared_file", "full_disk", "files", "threads", "soak")


def measured(
    kind: str, work: Path, inputs: int, kills: int, minutes: float, seed: int, progress: Callable[[int], None]
) -> dict[str, Any]:
    """What one kind of fault did.

    Args:
        kind: Of :data:`KINDS`.
        work: Where files stay that crash a reader.
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
        silent = Console(file=io.StringIO(), width=100)
        found = fuzz(
            folder,
            valid_files(),
            lambda document: silent.print(*shown(document)),
            inputs,
            seed,
            lambda n, _: progress(n),
        )
        return found.about()
