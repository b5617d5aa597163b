"""The command ``python -m benchmarks pipelines``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import diffusers

from benchmarks.pipelines.catalogue import Entry, catalogue, testers
from benchmarks.pipelines.offline import go_offline
from benchmarks.pipelines.records import KINDS, Record, load_records, save_records
from benchmarks.pipelines.survey import Say, run_survey
from longstride.errors import InputError, unknown

__all__ = ["survey_pipelines"]


def survey_pipelines(
    tests: Path, out: Path, *, only: Sequence[str], kinds: Sequence[str], limit: int, say: Say
) -> list[Record]:
    """Try pipelines and write what was found.

    Args:
        tests: Folder that holds the folder ``tests`` of diffusers.
        out: Results file. If only some classes or trials are asked for, what it says of the others stays.
        only: Names of the classes; empty: all.
        kinds: Kinds of trials; empty: all.
        limit: Seconds of processor time that a class may take.
        say: Told of every class that is finished.

    Returns:
        The records of the classes that were asked for.

    Raises:
        InputError: there are no tests of pipelines in the folder, or an unknown name.
    """
    if not (tests / "tests" / "pipelines").is_dir():
        raise InputError(f"{tests} holds no tests/pipelines: expected a checkout of diffusers")
    for name in kinds:
        if name not in KINDS:
            raise unknown("trial", name, KINDS)
    go_offline(tests)
    entries = catalogue()
    wanted = _chosen(entries, only)
    work = out.parent / "work" / f"{out.stem}.json"
    work.parent.mkdir(parents=True, exist_ok=True)
    found = run_survey(wanted, testers(tests), work, limit=limit, kinds=kinds or tuple(KINDS), say=say)
    known = {record.name: record for record in load_records(out)} if out.exists() else {}
    known |= {record.name: record.after(known.get(record.name)) for record in found}
    names = {entry.name for entry in entries}
    save_records(out, [known[name] for name in sorted(known) if name in names], {"diffusers": diffusers.__version__})
    work.unlink()
    return found


def _chosen(entries: Sequence[Entry], only: Sequence[str]) -> list[Entry]:
    by_name = {entry.name: entry for entry in entries}
    for name in only:
        if name not in by_name:
            raise unknown("pipeline", name, by_name)
    return [by_name[name] for name in only] if only else list(entries)
