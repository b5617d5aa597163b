"""Processes that calibrate, evaluate, save and read cards are killed at random moments, and their work goes on.

Every piece of work is started again after each kill until it ends. What must hold: a card is whole or not there, what a
journal has said to have kept is there, a kill costs the part that was under way, and the end is that of work that
nobody disturbed, byte for byte. Roll-outs are killed in :mod:`benchmarks.rollout_kills`.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.rollout_kills import forked, kill_at_random
from benchmarks.small_work import SCHEDULE, calibrated, network, noise
from longstride.book import load_any
from longstride.calibration.recalibrate import recalibrate
from longstride.card import Card
from longstride.errors import CardError
from longstride.evaluation.results import save_results
from longstride.evaluation.runner import run_study
from longstride.evaluation.study import Study
from longstride.history import replace_card
from longstride.journal import Journal
from longstride.zoo.model import Model

__all__ = ["ended", "kill_everything"]

#: About as long as a part of the work takes, in seconds.
_PART = 0.05
_STUDY = Study(
    contestants=("iia_ddim", "dpmpp_2m"),
    nfes=(4, 5),
    samples=48,
    batch_size=6,
    calibration_samples=24,
    substeps=2,
    reference_steps=24,
    dimensions=0,
)


class _Modes(torch.nn.Module):
    """The exact denoiser of data N(±1, .3²), as a network; its weights are what it is known by."""

    def __init__(self) -> None:
        super().__init__()
        self.mode, self.spread = torch.nn.Parameter(torch.tensor(1.0)), torch.nn.Parameter(torch.tensor(0.3))

    def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """The clean prediction of states ``(B, 1, 4, 4)`` at levels ``(B,)``."""
        level = t.view(-1, 1, 1, 1) ** 2
        variance = self.spread**2 + level
        mean = self.mode * torch.tanh(self.mode * x / variance)
        return (x * self.spread**2 + mean * level) / variance


def _calibrate(folder: Path) -> None:
    calibrated(nfe=5, samples=64, journal=folder / "journal", batch_size=16, iterations=4).card.save(
        folder / "result.json"
    )


def _evaluate(folder: Path) -> None:
    model = Model("two modes", _Modes().eval(), SCHEDULE, "data", (1, 4, 4))
    save_results(run_study(model, _STUDY, folder / "journal").results, folder / "result.json")


def _recalibrate(folder: Path) -> None:
    before, file = calibrated(method="iia", nfe=4).card, folder / "card.json"
    before.save(file)
    found = recalibrate(before, network(), noise(32, seed=1), reference_steps=12, journal=folder / "journal")
    replace_card(file, before, found.card, "recalibrated", found.reason, out=folder / "result.json")


def _told(work: Callable[[Path], None], folder: Path, pipe: int) -> None:
    """Do the work, and tell of every part that the journal has kept or dropped."""
    keep, drop = Journal.put, Journal.discard

    def put(self: Journal, name: str, arrays: Any) -> None:
        keep(self, name, arrays)
        if self.folder is not None:
            os.write(pipe, f"+{self.folder / name}.npz\n".encode())

    def discard(self: Journal, name: str) -> None:
        if self.folder is not None:
            os.write(pipe, f"-{self.folder / name}.npz\n".encode())
        drop(self, name)

    Journal.put, Journal.discard = put, discard  # type: ignore[method-assign]
    work(folder)


def ended(child: int, pipe: int, *, seconds: float | None = None, parts: int = 0) -> tuple[bool, list[str]]:
    """Kill a child some seconds after it has told so many lines, or wait for its end.

    Args:
        child: Number of the process.
        pipe: What it tells its lines through.
        seconds: When to kill it; None: never.
        parts: Number of lines after which the seconds count.

    Returns:
        Whether it was killed, and the lines that it told.

    Raises:
        RuntimeError: the child failed.
    """
    with os.fdopen(pipe, "rb") as told:
        lines = [line for _, line in zip(range(parts), told, strict=False)]
        if seconds is not None:
            time.sleep(seconds)
            os.kill(child, signal.SIGKILL)
        lines += told.read().splitlines()
    how = os.waitpid(child, 0)[1]
    if how not in (0, signal.SIGKILL):
        raise RuntimeError(f"a process ended by itself, with {how}")
    return how == signal.SIGKILL, [line.decode().strip() for line in lines if line.strip()]


def _readable(part: Path) -> bool:
    try:
        with np.load(part, allow_pickle=False) as kept:
            return all(kept[key] is not None for key in kept.files)
    except Exception:
        return False


def _kill_work(work: Callable[[Path], None], folder: Path, times: int, chance: random.Random) -> dict[str, int]:
    """Kill some work until it was killed ``times`` times; it starts afresh whenever it has ended."""
    undisturbed = folder / "undisturbed"
    undisturbed.mkdir(parents=True)
    _, lines = ended(*forked(partial(_told, work, undisturbed)))
    wanted, parts = (undisturbed / "result.json").read_bytes(), sum(line[0] == "+" for line in lines)
    found = dict.fromkeys(("kills", "parts", "lost", "broken", "made_twice", "rounds", "different"), 0)
    while found["kills"] < times:
        place, kept, made = folder / f"round-{found['rounds']}", set[str](), list[str]()
        place.mkdir()
        alive = True
        while alive:
            last = found["kills"] == times
            after = 0 if last else chance.randrange(max(1, parts // 2))
            seconds = None if last else chance.uniform(0.0, _PART)
            alive, lines = ended(*forked(partial(_told, work, place)), seconds=seconds, parts=after)
            found["kills"] += int(alive)
            for line in lines:
                if line[0] == "+":
                    kept.add(line[1:])
                    made.append(line[1:])
                else:
                    kept.discard(line[1:])
            found["lost"] += sum(not _readable(Path(part)) for part in kept if not _finished(Path(part)))
            found["broken"] += int((place / "result.json").exists() and not _whole(place / "result.json", wanted))
        found["rounds"] += 1
        found["parts"] += parts
        found["made_twice"] += len(made) - len(set(made))
        found["different"] += int((place / "result.json").read_bytes() != wanted)
        shutil.rmtree(place)
    return found


def _finished(part: Path) -> bool:
    """Whether a part belongs to a calibration of a study whose card is there; its journal is then no longer needed."""
    journal = next((folder for folder in part.parents if folder.parent.name == "calibration"), None)
    return journal is not None and (journal.parents[1] / "cards" / f"{journal.name}.json").exists()


def _whole(file: Path, wanted: bytes) -> bool:
    return file.read_bytes() == wanted


def _save_until_killed(file: Path, cards: list[Card], pipe: int) -> None:
    for number in range(10**9):
        cards[number % len(cards)].save(file)
        os.write(pipe, b".")


def _read_until_killed(file: Path, cards: list[Card], pipe: int) -> None:
    while True:
        try:
            os.write(pipe, b"." if load_any(file) in cards else b"?")
        except CardError:
            os.write(pipe, b"!")


def _kill_files(folder: Path, times: int, chance: random.Random, *, reader: bool) -> dict[str, int]:
    """Kill a process that saves cards, or one that reads them beside it; the file must be one of the cards."""
    folder.mkdir(parents=True)
    cards = [calibrated(method=method, nfe=nfe).card for method, nfe in (("iia", 3), ("global", 8))]
    file = folder / "card.json"
    cards[0].save(file)
    found = dict.fromkeys(("kills", "saved", "read", "broken", "left_behind"), 0)
    while found["kills"] < times:
        saving = forked(partial(_save_until_killed, file, cards))
        reading = forked(partial(_read_until_killed, file, cards)) if reader else None
        seconds = chance.uniform(0.02, 0.4)
        _, saved = ended(*saving, seconds=seconds)
        found["kills"] += 1
        found["saved"] += sum(map(len, saved))
        if reading is not None:
            _, read = ended(*reading, seconds=0.0)
            found["kills"] += 1
            found["read"] += sum(map(len, read))
            found["broken"] += sum(line.count(letter) for line in read for letter in "?!")
        found["broken"] += int(load_any(file) not in cards)
        left = [path for path in folder.iterdir() if path != file]
        found["left_behind"] += len(left)
        for path in left:
            path.unlink()
    return found


def kill_everything(folder: Path, times: int, seed: int = 0) -> dict[str, Any]:
    """Kill every kind of work; a sixth of the kills each.

    Args:
        folder: Where the work is done; it must be empty.
        times: Number of kills, at least 12.
        seed: Of the moments.

    Returns:
        Counts of every kind.
    """
    torch.set_num_threads(1)  # so that a fork inherits no threads
    calibrated(method="iia", nfe=3)  # whatever is loaded late is loaded before the forks
    chance, share = random.Random(seed), times // 6
    found: dict[str, Any] = {
        "calibrate": _kill_work(_calibrate, folder / "calibrate", times - 5 * share, chance),
        "evaluate": _kill_work(_evaluate, folder / "evaluate", share, chance),
        "recalibrate": _kill_work(_recalibrate, folder / "recalibrate", share, chance),
        "save": _kill_files(folder / "save", share, chance, reader=False),
        "read": _kill_files(folder / "read", share, chance, reader=True),
    }
    (folder / "rollout").mkdir()
    found["rollout"] = kill_at_random(folder / "rollout", share, seed)
    return found
