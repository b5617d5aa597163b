"""Commands of ``python -m benchmarks`` on what can go wrong: faults survived, and what the monitor sees."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from longstride.cli.common import progress_bars
from longstride.cli.options import option

__all__ = ["faults", "monitor"]


def faults(
    out: Annotated[Path, option("Results file; what is measured takes the place of what it holds.", "FILE")] = Path(
        "benchmarks/results/faults.json"
    ),
    only: Annotated[
        list[str] | None,
        option("files, kills, shared_file, full_disk, threads or soak; may be repeated. Default: all.", "KIND"),
    ] = None,
    inputs: Annotated[int, option("Broken files of cards and books that are read.", "N", min=1)] = 100_000,
    kills: Annotated[int, option("Processes that are killed.", "N", min=12)] = 100,
    minutes: Annotated[float, option("How long the soak takes.", "MINUTES", min=0.01)] = 5,
    seed: Annotated[int, option("Of the files and of the moments.", "SEED")] = 0,
) -> None:
    """Broken and hostile files, kills at random moments of every kind of work, threads, shared files, full disks."""
    import io
    import json

    from rich.console import Console

    from benchmarks.faults import KINDS, measured
    from longstride.cli.render import shown
    from longstride.errors import unknown
    from longstride.files import check_writable, write_atomically

    if strange := [kind for kind in only or () if kind not in KINDS]:
        raise unknown("kind", strange[0], KINDS)
    check_writable(out, new_folders=True)
    out.parent.mkdir(parents=True, exist_ok=True)
    results = json.loads(out.read_text(encoding="utf-8")) if out.exists() else {}
    work, silent = out.parent / "work" / "faults", Console(file=io.StringIO(), width=100)
    with progress_bars() as say:
        for kind in only or KINDS:
            results[kind] = measured(
                kind,
                work,
                lambda document: silent.print(*shown(document)),
                inputs,
                kills,
                minutes,
                seed,
                lambda done: say("reading", done, inputs),
            )
            write_atomically(out, (json.dumps(results, indent=1) + "\n").encode())
    print(json.dumps(results, indent=1))


def monitor(
    out: Annotated[Path, option("Folder for results.", "FOLDER")] = Path("benchmarks/results"),
    case: Annotated[list[str] | None, option("Network; may be repeated. Default: all.", "CASE")] = None,
    zoo: Annotated[
        Path | None, option("Folder of networks that no package holds, digits/ among them.", "FOLDER")
    ] = None,
) -> None:
    """What the monitor of a card sees of faults, and how rare its false alarms are; added to monitor.json."""
    from benchmarks.monitor import run_cases

    run_cases(case or (), zoo, out, lambda *found: print(*found, flush=True))
    print(f"results in {out / 'monitor.json'}; python -m benchmarks pages --docs . fills docs/monitor.md")
