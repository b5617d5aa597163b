"""``python -m examples.serve``: the service under uvicorn."""

from __future__ import annotations

import argparse
from pathlib import Path

import uvicorn

from examples.serve.app import create_app
from examples.serve.service import Settings


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="A picture service whose cards are rolled out in stages.")
    parser.add_argument("--store", type=Path, required=True, help="file made by: longstride rollout start")
    parser.add_argument("--model", default="garments", help="as in longstride calibrate (default: garments)")
    parser.add_argument("--concurrency", type=int, default=1, help="pictures at the same time (default: 1)")
    parser.add_argument("--waiting", type=int, default=8, help="requests that may wait; more get a 503 (default: 8)")
    parser.add_argument("--adapt", type=Path, help="file of an adaptation of the card in use (default: none)")
    parser.add_argument("--host", default="127.0.0.1", help="(default: 127.0.0.1)")
    parser.add_argument("--port", type=int, default=8000, help="(default: 8000)")
    args = parser.parse_args()
    settings = Settings(args.store, args.model, args.concurrency, args.waiting, adapt=args.adapt)
    uvicorn.run(create_app(settings), host=args.host, port=args.port)


if __name__ == "__main__":
    main()
