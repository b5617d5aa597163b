"""What several test modules look at and none writes to: calibrations, and models, cards and books of the commands."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from command_line import FEW, SMALL, run
from problems import Mixture
from tiny_models import save_tiny_model
from toy_books import FAST, Toy
from toy_fits import SIGMAS, networked, noise_of

import longstride as ls
from longstride.explorer import Scene, Shelf, Workbench

# Calibration


@pytest.fixture(scope="session")
def found():
    """The default calibration of a mixture."""
    return ls.calibrate(networked(Mixture()), noise_of(96), ls.build("ddim", SIGMAS), seed=0)


@pytest.fixture(scope="session")
def toy_book() -> ls.CardBook:
    """Three numbers of calls, of which one is filled, at three guidance scales."""
    return ls.calibrate_book(Toy(), (3, 4, 5), (1.0, 2.0, 4.0), anchors=(3, 5), **FAST)


@pytest.fixture(scope="session")
def plain_book() -> ls.CardBook:
    """Two numbers of calls without guidance."""
    return ls.calibrate_book(Toy(), (3, 4), **{**FAST, "iterations": 1, "scouts": 1})


# Commands


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


# The explorer


@pytest.fixture
def bench(shared: Path, tmp_path: Path) -> Workbench:
    """Two models, and a folder of its own with a card of the first."""
    shutil.copy(shared / "card.json", tmp_path)
    return Workbench([str(shared / "a"), str(shared / "b"), str(shared / "plain")], Shelf(tmp_path))


@pytest.fixture
def scene(bench: Workbench) -> Scene:
    return Scene(bench.names[0], seed=3, count=4)
