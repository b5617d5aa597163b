"""The command line: ``longstride demo | calibrate | sample | evaluate | show | convert``."""

from longstride.cli import evaluating  # noqa: F401 - it adds its command
from longstride.cli.app import app

__all__ = ["app"]
