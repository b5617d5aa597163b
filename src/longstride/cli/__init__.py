"""The command line: ``longstride demo | calibrate | sample | evaluate | bench | show``."""

from longstride.cli import benching, evaluating  # noqa: F401 - they add their commands
from longstride.cli.app import app

__all__ = ["app"]
