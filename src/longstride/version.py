"""The version, which cards and books name too."""

__version__ = "0.1.0"
