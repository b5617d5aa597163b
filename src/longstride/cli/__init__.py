"""The command line: ``longstride demo | calibrate | sample | evaluate | show | convert``."""

from longstride.cli.app import app

__all__ = ["app"]
