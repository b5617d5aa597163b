"""All sentences of the report that a catalogue must translate, read from the code and the templates."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from babel.messages.extract import extract_from_file

import longstride.report

__all__ = ["HOME", "messages"]

HOME = Path(longstride.report.__file__).parent


def messages() -> list[str]:
    """Every message once, in the order of the files."""
    return list(dict.fromkeys(_found()))


def _found() -> Iterator[str]:
    for file in sorted(HOME.rglob("*")):
        method = {".py": "python", ".html": "jinja2"}.get(file.suffix)
        if method is not None:
            for _, found, _, _ in extract_from_file(method, file, keywords={"_": None, "text": None}):
                yield found if isinstance(found, str) else found[0]
