"""Importing longstride opens no connection, and neither does work on local files."""

from __future__ import annotations

import subprocess
import sys

_PROGRAM = """
import sys

def watch(event, args):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.sendto"):
        raise SystemExit(f"{event}: {args[1:]}")

sys.addaudithook(watch)
import longstride as ls
import longstride.cli
import longstride.integrations.diffusers
import longstride.rollout
model = ls.load_model("garments")
table = ls.build("ddim", ls.grid("uniform", 2, schedule=model.schedule))
ls.sample(model.denoiser(range(1)), model.noise(range(1), float(table.sigmas[0])), table)
if "probe" in sys.argv:
    import socket
    socket.create_connection(("127.0.0.1", 9))
print("silent")
"""


def _run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", _PROGRAM, *arguments], capture_output=True, text=True, check=False)


def test_import_and_sampling_are_silent():
    found = _run()
    assert found.stdout == "silent\n", found.stderr


def test_a_connection_would_be_seen():
    found = _run("probe")
    assert "socket." in found.stderr
    assert found.stdout == ""
