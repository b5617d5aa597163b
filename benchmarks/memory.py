"""Memory of an evaluation against its number of samples: peak resident size of a whole process.

The model is tiny, so that the evaluation itself would show, and the sampler is one step.

    python -m benchmarks.memory
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from longstride.files import write_atomically

ROOT = Path(__file__).resolve().parent.parent
CODE = """
import json, resource, sys, tempfile
from pathlib import Path
import torch
import longstride as ls
from longstride.evaluation import Study, run_study

torch.set_num_threads(1)
model = ls.load_model("galaxy:hsc32")
study = Study(contestants=("ddim",), nfes=(1,), samples=int(sys.argv[1]), batch_size=50, reference_steps=2)
with tempfile.TemporaryDirectory() as folder:
    run_study(model, study, Path(folder))
    disk = sum(file.stat().st_size for file in Path(folder).rglob("*.npz"))
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps({"samples": int(sys.argv[1]), "peak_rss_mib": peak / 1024, "disk_mib": disk / 2**20}))
"""


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, nargs="+", default=[1000, 10_000])
    args = parser.parse_args()
    rows = []
    for count in args.samples:
        with tempfile.NamedTemporaryFile("w", suffix=".py") as script:
            script.write(CODE)
            script.flush()
            command = [sys.executable, script.name, str(count)]
            done = subprocess.run(command, check=True, capture_output=True, text=True, env={**os.environ})
        rows.append(json.loads(done.stdout.splitlines()[-1]))
        print(rows[-1], flush=True)
    content = {"model": "galaxy:hsc32", "rows": rows}
    path = ROOT / "benchmarks" / "results" / "memory.json"
    write_atomically(path, (json.dumps(content, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
