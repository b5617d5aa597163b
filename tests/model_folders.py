"""What tests of loaded models share: to change a folder's settings, and to see why it is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import longstride as ls

__all__ = ["edit", "normal", "refusal"]


def normal(*shape: int) -> torch.Tensor:
    """The same noise in every test."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def refusal(source: str | Path, **options: Any) -> str:
    """The message, of one line, with which a model is refused."""
    with pytest.raises(ls.InputError) as caught:
        ls.load_model(source, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def edit(file: Path, **changes: Any) -> None:
    """Change settings in a JSON file."""
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))
