"""Templates of pages: Jinja, with everything escaped that is not marked as safe."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from longstride.report.language import needs_extra

__all__ = ["TEMPLATES", "environment", "safe"]

TEMPLATES = Path(__file__).parent / "templates"


def environment() -> Any:
    """Jinja's environment; an undefined name is an error.

    Raises:
        InputError: the optional packages are missing.
    """
    jinja = needs_extra("jinja2")
    return jinja.Environment(
        loader=jinja.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def safe(text: str) -> Any:
    """Text that a template takes as it is."""
    return needs_extra("markupsafe").Markup(text)
