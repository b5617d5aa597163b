"""What the simulated roll-outs came to, for the page on roll-outs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.markdown import markdown_table

__all__ = ["rollout_table"]

_WHAT = {
    "base": "equal to its base",
    "mixed": "errs as much, on other samples",
    "better": "truly better",
    "shuffled": "its weights in random order",
    "subtle": "a subtle one",
}


def _line(row: dict[str, Any], samplers: dict[str, dict[str, float]]) -> tuple[object, ...]:
    shares = row["shares"]
    traffic = f"{100 * shares[0]:g} %" if len(shares) == 1 else f"{100 * shares[0]:g} to {100 * shares[-1]:g} %"
    rmse = samplers[row["new"]]["rmse"] / samplers["base"]["rmse"]
    requests = row["requests"]
    return (
        _WHAT[row["new"] if row["errors"] != "mixed" else "mixed"],
        f"{rmse:.2f}",
        traffic,
        "yes" if row["flags"] else "no",
        f"{100 * row['measured']:g} %",
        f"{row['rolled back']} of {row['runs']}",
        f"{row['complete']} of {row['runs']}" if len(shares) > 1 else "–",
        f"{requests['median']:,} ({requests['q95']:,}; {requests['most']:,})",
    )


def rollout_table(file: Path) -> str:
    """Ends of the simulated roll-outs, and what killed processes lost."""
    found = json.loads(file.read_text(encoding="utf-8"))
    head = (
        "new card",
        "RMSE, in its base's",
        "traffic",
        "guard",
        "measured",
        "rolled back",
        "at 100 %",
        "requests until then: median (19 of 20; most)",
    )
    table = markdown_table(head, (_line(row, found["samplers"]) for row in found["rollouts"]))
    kills, cost = found["kills"], found["cost"]
    where = f"errors of {found['model']} at {found['calls']} calls; `python -m benchmarks.rollouts`"
    lost = (
        f"{kills['kills']} processes were killed while they wrote: of {kills['requests']:,} acknowledged requests and "
        f"{kills['decisions']} decisions {kills['lost']} are lost, and {kills['damaged']} stores are damaged."
    )
    arm, before, new = (f"{cost[f'{name}_us'] / 1000:.2f} ms" for name in ("arm", "record_base", "record_new"))
    spent = f"`arm` takes {arm}, and `record` {before} for the arm before and {new} for the new one."
    mixed = (
        f"The second card is within all tolerances but one: {100 * found['mixed_much_worse']:.1f} % of its samples are "
        "more than 4 times as far off as the base's on the same request."
    )
    return f"{table}\n\n({where})\n\n{mixed}\n\n{lost} {spent}"
