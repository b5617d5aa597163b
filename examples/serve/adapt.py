"""A job beside the service: proposals of its adaptation enter the roll-out, and the end of a roll-out is told to it.

    python -m examples.serve --store rollout.db --adapt adaptation.db
    python -m examples.serve.adapt --store rollout.db --adapt adaptation.db --cards cards

Run it now and then, such as once an hour.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import longstride as ls
from longstride.rollout import STAGES, Stage

__all__ = ["advance", "in_use"]


def in_use(rollout: ls.Rollout) -> Path | None:
    """File of the card that answers most requests; None: the classical solver does."""
    plan, complete = rollout.plan, rollout.status().status == "complete"
    name = plan.new if complete else rollout.control
    found = next(arm.card for arm in plan.arms if arm.name == name)
    return None if found is None else Path(found)


def advance(store: Path, adapt: Path, cards: Path, stages: Sequence[Stage] = STAGES) -> str:
    """Do what is to be done, and tell it.

    Args:
        store: Of the roll-out.
        adapt: Of the adaptation.
        cards: Folder for proposals.
        stages: Of the roll-out of a proposal.
    """
    with ls.Adaptation(None, adapt) as adaptation, ls.Rollout(store) as rollout:
        proposal, standing = adaptation.proposal(), rollout.status()
        if proposal is None:
            return "nothing is proposed"
        file = cards.resolve() / f"adapted-{adaptation.status().counters.proposed}.json"
        if standing.status == "running":
            return f"a roll-out is under way, at stage {standing.stage + 1}"
        if rollout.plan.arms[-1].card == str(file):
            adaptation.settle(adopted=standing.status == "complete")
            return f"the roll-out of {file.name} has ended: {standing.status}"
        old = in_use(rollout)
        if old is None or ls.load_card(old).table.distance(adaptation.card.table) > 0:
            return "another card is in use than the one that is adapted: begin an adaptation of it, in another file"
        proposal.card.save(file)
        ls.Rollout.start(store, new=file, old=old, stages=stages).close()
        return f"{file.name} enters a roll-out: {proposal.reason}"


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", type=Path, required=True, help="of the roll-out")
    parser.add_argument("--adapt", type=Path, required=True, help="of the adaptation")
    parser.add_argument("--cards", type=Path, required=True, help="folder for proposals")
    args = parser.parse_args()
    print(advance(args.store, args.adapt, args.cards))


if __name__ == "__main__":
    main()
