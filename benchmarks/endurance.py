"""Long and shared use of a card: threads that share a monitor, processes that share a file, a full disk, a soak.

Every function counts what went wrong; ``python -m benchmarks faults`` writes the counts.
"""

from __future__ import annotations

import gc
import os
import resource
import shutil
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import psutil
import torch
from torch import Tensor

import longstride as ls
from benchmarks.kills import ended
from benchmarks.rollout_kills import forked
from benchmarks.small_work import calibrated, network, noise
from longstride.book import load_any
from longstride.card import Card
from longstride.errors import InputError, LongstrideError
from longstride.guard.score import fit_guard
from longstride.guard.statistics import Recorder
from longstride.history import history_file, load_history, replace_card

__all__ = ["full_disk", "guarded_card", "shared_file", "soak", "threads"]

#: Samples of a request.
_REQUEST = 8
#: Samples that the guard learns from.
_LEARNT = 256


@lru_cache(maxsize=1)
def guarded_card() -> Card:
    """A calibrated card of a small network, with clean runs, and a guard that flags some of every hundred samples."""
    card = calibrated(nfe=5, monitor=64).card
    recorder, x = Recorder(card.table), noise(_LEARNT, seed=7)
    ls.sample(network(), x, card.table, callback=recorder)
    guard = fit_guard(recorder.read(), np.random.default_rng(0).normal(size=_LEARNT), 0.05)
    assert guard is not None
    return card.model_copy(update={"guard": guard})


def threads(count: int = 8, requests: int = 200) -> dict[str, int]:
    """Threads draw guarded samples and share one monitor; every answer is that of a single thread, bit for bit.

    Args:
        count: Threads.
        requests: Requests of each.
    """
    card = guarded_card()
    monitor = ls.Monitor(card)
    alone = [ls.sample_guarded(network(), noise(_REQUEST, seed), card) for seed in range(requests)]

    def serve(first: int) -> tuple[int, int]:
        different = made = 0
        for n in range(requests):
            seed = (first * requests // count + n) % requests  # threads begin at different requests
            found = ls.sample_guarded(network(), noise(_REQUEST, seed), card, monitor=monitor)
            made += int(found.flagged.sum())
            different += int(not torch.equal(found.samples, alone[seed].samples))
        return different, made

    with ThreadPoolExecutor(count) as pool:
        found = list(pool.map(serve, range(count)))
    report = monitor.report()
    asked = count * requests * _REQUEST
    return {
        "threads": count,
        "requests": count * requests,
        "different": sum(different for different, _ in found),
        "made_again": sum(made for _, made in found),
        "not_counted": asked - report.samples,
    }


def _replace_often(file: Path, cards: list[Card], times: int, pipe: int) -> None:
    """Replace the card of a file by another one; a process that comes too late reads it and tries again."""
    done = 0
    while done < times:
        try:
            now = load_any(file)
            assert isinstance(now, Card)
            replace_card(file, now, cards[now == cards[0]], "recalibrated", "a trial")
        except InputError:
            os.write(pipe, b"-")
        else:
            done += 1
            os.write(pipe, b"+")


def shared_file(folder: Path, processes: int = 2, times: int = 50) -> dict[str, int]:
    """Processes replace the card of one file at the same time; every replaced card must be in the history.

    Args:
        folder: Where the file is made; made if missing.
        processes: Number of processes.
        times: Replacements of each.
    """
    folder.mkdir(parents=True, exist_ok=True)
    cards = [calibrated(method="iia", nfe=nfe).card for nfe in (3, 4)]
    file = folder / "card.json"
    cards[0].save(file)
    children = [forked(partial(_replace_often, file, cards, times)) for _ in range(processes)]
    lines = [line for child in children for line in ended(*child)[1]]
    entries = load_history(file).entries
    return {
        "processes": processes,
        "replaced": sum(line.count("+") for line in lines),
        "refused": sum(line.count("-") for line in lines),
        "lost": processes * times - len(entries),
        "broken": int(load_any(file) not in cards)
        + sum(one.parsed(history_file(file)) not in cards for one in entries),
    }


def _save_on_a_full_disk(file: Path, new: Card, limit: int, pipe: int) -> None:
    """Save under a limit of the size of files, which an operating system meets as it meets a full disk."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    old = load_any(file)
    assert isinstance(old, Card)
    for save in (partial(new.save, file), partial(replace_card, file, old, new, "recalibrated", "a trial")):
        try:
            save()
            os.write(pipe, b"!")
        except LongstrideError as error:
            os.write(pipe, b"+" if str(file.name) in str(error) else b"?")
        except BaseException:
            os.write(pipe, b"?")


def full_disk(folder: Path) -> dict[str, int]:
    """Cards and their histories are saved where no more than some bytes can be written.

    Args:
        folder: Where the file is made; made if missing.

    Returns:
        Of all ``saves``: ``silent`` without an error, ``unclear`` with another error than ours that names the file,
        ``broken`` if the former card is no longer whole, and ``left_behind`` temporary files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    old, new = (calibrated(method="iia", nfe=nfe).card for nfe in (3, 4))
    file, found = folder / "card.json", dict.fromkeys(("saves", "silent", "unclear", "broken", "left_behind"), 0)
    old.save(file)
    size = len(new.dumps())
    for limit in (0, 1, size // 2, size - 1):
        _, lines = ended(*forked(partial(_save_on_a_full_disk, file, new, limit)))
        told = "".join(lines)
        found["saves"] += 2
        found["silent"] += told.count("!")
        found["unclear"] += 2 - told.count("!") - told.count("+")
        # A history that was written before the card failed names the card that is still in use: reading drops it.
        found["broken"] += int(load_any(file) != old or bool(load_history(file).entries))
        found["left_behind"] += sum(path not in (file, history_file(file)) for path in folder.iterdir())
    shutil.rmtree(folder)
    return found


def soak(seconds: float) -> dict[str, float]:
    """Draw guarded samples with a monitor for a while, and see whether the memory of the process grows.

    Returns:
        The slope of a straight line through the memory after each tenth of the time, the first three left out.
    """
    card = guarded_card()
    monitor, process = ls.Monitor(card), psutil.Process()
    begin, requests, told = time.perf_counter(), 0, list[tuple[float, float]]()
    states: Tensor = noise(_REQUEST)
    while len(told) < 10:
        ls.sample_guarded(network(), states, card, monitor=monitor)
        requests += 1
        if time.perf_counter() - begin > (len(told) + 1) * seconds / 10:
            gc.collect()
            told.append((requests, process.memory_info().rss / 2**20))
    count, memory = np.array(told[3:]).T
    slope = float(np.polyfit(count, memory, 1)[0])
    return {
        "seconds": seconds,
        "requests": requests,
        "mib_first": round(float(memory[0]), 2),
        "mib_last": round(float(memory[-1]), 2),
        "mib_per_million_requests": round(slope * 1e6, 1),
    }
