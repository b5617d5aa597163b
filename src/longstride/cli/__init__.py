"""The command line: ``longstride demo | calibrate | sample | show``."""

from longstride.cli.app import app

__all__ = ["app"]
