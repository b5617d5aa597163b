"""Distance to real pictures, beside that to converged samples, at few network calls: what 512 samples can tell.

    python -m benchmarks.real_pictures --model garments
    python -m benchmarks.real_pictures --model cifar10 --contestants iia_ddim dpmpp_2m gauss_newton

Finished batches are kept in ``results/work``: a run that was stopped goes on. Two processes share the work under
``torchrun --nproc-per-node 2 -m benchmarks.real_pictures``.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

import longstride as ls
from longstride.evaluation import Study, run_study, save_results
from longstride.evaluation.contestants import paper
from longstride.processes import is_first, join

ROOT = Path(__file__).resolve().parent.parent
NFES = (4, 5, 6, 8)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="garments", help="garments or cifar10")
    parser.add_argument("--nfe", type=int, nargs="+", default=list(NFES), help="network calls")
    parser.add_argument("--samples", type=int, default=512, help="evaluation samples")
    parser.add_argument(
        "--contestants", nargs="+", default=[*paper(False), "gauss_newton"], help="their bases take part, too"
    )
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results", help="folder of the results")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    join()
    study = Study(
        contestants=tuple(asked.contestants),
        nfes=tuple(asked.nfe),
        samples=asked.samples,
        batch_size=32,
        calibration_samples=128,
    )
    work = asked.out / "work" / f"real_{asked.model}"
    shown: set[str] = set()

    def say(what: str, done: int, total: int) -> None:
        line = f"{what} {done}/{total}"
        if line not in shown:
            shown.add(line)
            print(line, flush=True)

    model = ls.load_model(asked.model)
    # Convolutions on a CPU take four fifths of the time with channels last.
    model.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    outcome = run_study(model, study, work, say=say)
    if is_first():
        save_results(outcome.results, asked.out / f"real_{asked.model}.json")


if __name__ == "__main__":
    main()
