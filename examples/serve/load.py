"""A bounded load generator: so many requests, from so many threads, to a service on this machine.

python -m examples.serve.load --requests 500 --threads 4
"""

from __future__ import annotations

import argparse
import collections
import http.client
import itertools
import threading
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import urlencode

__all__ = ["Reply", "generate", "get"]


@dataclass(frozen=True)
class Reply:
    """An answer of the service.

    Attributes:
        number: Of the request; its seed and key.
        status: HTTP status.
        arm: Who answered, or None.
        body: What came.
    """

    number: int
    status: int
    arm: str | None
    body: bytes


def get(
    port: int, path: str, connection: http.client.HTTPConnection | None = None
) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of a path of the service on this machine."""
    own = connection or http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    try:
        own.request("GET", path)
        answer = own.getresponse()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
    finally:
        if connection is None:
            own.close()


def generate(
    port: int, requests: int, threads: int, *, first: int = 0, stop: Callable[[], bool] = lambda: False
) -> list[Reply]:
    """Ask for ``requests`` pictures, at most; each thread asks again when it has its answer.

    Args:
        port: Of the service, on this machine.
        requests: Most requests.
        threads: Number of threads.
        first: Number of the first request.
        stop: Looked at before every request.

    Returns:
        The answers in the order of their numbers.
    """
    numbers, replies, lock = itertools.count(first), list[Reply](), threading.Lock()

    def ask() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
        while not stop():
            with lock:
                number = next(numbers)
            if number >= first + requests:
                break
            status, headers, body = get(port, "/image?" + urlencode({"seed": number}), connection)
            with lock:
                replies.append(Reply(number, status, headers.get("x-longstride-arm"), body))
        connection.close()

    workers = [threading.Thread(target=ask) for _ in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return sorted(replies, key=lambda reply: reply.number)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=8000, help="of the service on this machine (default: 8000)")
    parser.add_argument("--requests", type=int, default=100, help="(default: 100)")
    parser.add_argument("--threads", type=int, default=2, help="(default: 2)")
    args = parser.parse_args()
    replies = generate(args.port, args.requests, args.threads)
    for (status, arm), count in sorted(collections.Counter((r.status, str(r.arm)) for r in replies).items()):
        print(f"{status} {arm}: {count}")


if __name__ == "__main__":
    main()
