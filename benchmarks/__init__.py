"""Benchmarks that write their own tables: ``python -m benchmarks paper | peers | newton | pages``."""

from __future__ import annotations

from typing import Any

__all__ = ["CLASSICAL_STARTS"]

#: Settings of calibrations that are measured: the universal tables of the package were fitted on some of the networks.
CLASSICAL_STARTS: dict[str, Any] = {"universal": False}
