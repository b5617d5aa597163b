"""What the tests of several commands share: models, a card and a book; tests do not write there."""

from __future__ import annotations

from pathlib import Path

import pytest
from command_line import FEW, SMALL, run
from tiny_models import save_tiny_model


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two models, one without classes, and a card of the first; tests do not write here."""
    folder = tmp_path_factory.mktemp("shared")
    save_tiny_model(folder / "a", null_class=2)
    save_tiny_model(folder / "b", null_class=2, seed=1)
    save_tiny_model(folder / "plain", classes=None, prediction="epsilon")
    run("calibrate", folder / "a", *SMALL, "--out", folder / "card.json")
    return folder


@pytest.fixture
def model(shared: Path) -> Path:
    return shared / "a"


@pytest.fixture
def card(shared: Path) -> Path:
    return shared / "card.json"


@pytest.fixture(scope="session")
def book(shared: Path) -> Path:
    """A book of the first model; tests do not write here."""
    run("calibrate", shared / "a", *FEW, "--nfe", "4-6", "--guidance", "1,4", "--out", shared / "book.json")
    return shared / "book.json"
