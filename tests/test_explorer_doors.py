"""The explorer's doors, without its page: files, calibration, a proof of concept, the command and its server."""

from __future__ import annotations

import ast
import socket
import sys
import threading
from pathlib import Path

import pytest
from command_line import error
from toy_outcomes import OUTCOMES

import longstride as ls
from longstride.book import load_any
from longstride.evaluation.contestants import base_table
from longstride.evaluation.seeds import seed_range
from longstride.explorer import Classical, FromFile, Scene, Shelf, Workbench
from longstride.explorer.about import facts_of, labels_of
from longstride.explorer.calibrating import Effort, Stopped, cost_of, summary_of, usual_effort
from longstride.explorer.findings import finding_of
from longstride.explorer.web import server
from longstride.report import headline_of, load_language, save_outcome
from longstride.report.decision import decide

ROOT = Path(__file__).resolve().parent.parent
TINY = Effort(calls=3, fitted=4, held_out=4, method="iia")


# The shelf


def test_the_shelf_holds_ours_alone(bench: Workbench, shared: Path):
    folder = bench.shelf.folder
    (folder / "other.json").write_text('{"format": "other"}')
    (folder / "broken.json").write_text("{")
    (folder / "report.files").mkdir()
    save_outcome(OUTCOMES["great"], folder / "report.files" / "outcome.json")
    assert bench.shelf.files() == {"card.json": "card", "report.files/outcome.json": "outcome"}
    assert bench.shelf.samplers() == ["card.json"]
    for name in ("../card.json", str(shared / "card.json"), "other.json", "report.files/../card.json"):
        with pytest.raises(ls.InputError, match="there is no card, book or outcome"):
            bench.shelf.load(name)


@pytest.mark.parametrize("name", ["../card.json", "a/b", "", ".", "..", ".hidden", "a\\b", "a\nb", "/tmp/card"])
def test_cards_are_saved_here_alone(bench: Workbench, name: str):
    before = sorted(bench.shelf.folder.parent.rglob("*"))
    with pytest.raises(ls.InputError, match="file name without folders"):
        bench.shelf.new(name)
    assert sorted(bench.shelf.folder.parent.rglob("*")) == before


def test_no_card_is_overwritten(bench: Workbench):
    with pytest.raises(ls.InputError, match="is there already"):
        bench.shelf.new("card")


# Calibration


def test_a_calibration_is_that_of_the_library_and_can_be_drawn(bench: Workbench, scene: Scene):
    steps: list[tuple[int, int, str]] = []
    found = bench.calibrate(scene, TINY, lambda *step: steps.append(step))
    model, seeds = bench.model(scene.model), seed_range("calibration", 0, 8)
    table = base_table(model.schedule, "ddim", 3)
    noise = model.noise(seeds, table.sigmas[0])
    expected = ls.calibrate(model.denoiser(seeds), noise, table, method="iia", held_out=4, batch_size=64)
    assert found.table.distance(expected.table) == 0
    assert steps[-1] == (1, 1, "checking")
    assert f"{found.end.calibrated.rmse:.4f} against {found.end.base.rmse:.4f} of DDIM" in summary_of(found)
    name = bench.shelf.save(found.card, "mine")
    assert load_any(bench.shelf.folder / "mine.json") == found.card
    assert bench.show(scene, FromFile(name)).drawn.sampler.table.distance(found.table) == 0


def test_a_calibration_can_be_stopped_and_runs_alone(bench: Workbench, scene: Scene):
    refused: list[str] = []

    def second() -> None:
        try:
            bench.calibrate(scene, TINY, lambda *step: None)
        except ls.InputError as found:
            refused.append(str(found))

    def at_first(*step: object) -> None:
        other = threading.Thread(target=second)
        other.start()
        other.join()
        bench.stop()

    with pytest.raises(Stopped):
        bench.calibrate(scene, TINY, at_first)
    assert len(refused) == 1
    assert "running already" in refused[0]
    assert bench.calibrate(scene, TINY, lambda *step: None).card.nfe == 3


def test_efforts_have_the_usual_numbers():
    assert (usual_effort(5).fitted, usual_effort(5).held_out) == (128, 48)
    assert "network calls" in cost_of(usual_effort(5), None)
    assert Effort(3, 4, 4, "iia").settings == {}
    for wrong in ({"calls": 0}, {"fitted": 0}, {"scouts": -1}, {"iterations": 0}, {"method": "none"}):
        with pytest.raises(ls.InputError):
            Effort(**{"calls": 3, "fitted": 4, "held_out": 4, **wrong})


# A proof of concept


@pytest.mark.parametrize("name", ["great", "worse", "guided", "base refused", "non-finite", "interrupted"])
def test_outcomes_say_what_their_pages_say(tmp_path: Path, name: str):
    save_outcome(OUTCOMES[name], tmp_path / "outcome.json")
    found, decision = finding_of(Shelf(tmp_path), "outcome.json"), decide(OUTCOMES[name])
    assert found.headline == headline_of(decision.headline, load_language("en"))
    assert found.choices[0] == Classical("dpmpp_2m", 20)
    assert len(found.choices) == (1 if decision.closest is None else 2)  # no book lies beside it
    assert found.scene.model == "toy"
    assert {line.calls for line in found.lines} == {one.calls for one in OUTCOMES[name].samplers}


def test_the_book_beside_an_outcome_is_a_choice(tmp_path: Path, plain_book: ls.CardBook):
    (tmp_path / "report.files").mkdir()
    save_outcome(OUTCOMES["great"], tmp_path / "report.files" / "outcome.json")
    plain_book.save(tmp_path / "report.files" / "cards.json")
    found = finding_of(Shelf(tmp_path), "report.files/outcome.json")
    assert found.choices[-1] == FromFile("report.files/cards.json", found.calls)


# The command and its server


def test_what_is_said_of_a_model(bench: Workbench):
    model = bench.model(bench.names[0])
    assert labels_of(model) == {0: "0", 1: "1"}
    assert labels_of(bench.model(bench.names[2])) == {}
    assert facts_of(model).startswith("1×8×8 · ")


@pytest.mark.parametrize(
    ("host", "local"),
    [("127.0.0.1", True), ("localhost", True), ("::1", True), ("0.0.0.0", False), ("192.168.0.2", False), ("a", False)],
)
def test_which_addresses_are_local(host: str, local: bool):
    assert server.is_local(host) is local


def test_a_taken_port_is_said():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(ls.InputError, match="cannot listen at 127.0.0.1, port [0-9]+: .*choose another --port"):
            server.listening("127.0.0.1", taken.getsockname()[1])


def test_a_missing_package_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "nicegui", None)
    assert "pip install 'longstride[ui]'" in error("ui")


def test_the_page_alone_needs_the_extra_package():
    """Nothing but the page, which a command imports when it runs, knows NiceGUI."""
    package, knowing = ROOT / "src" / "longstride", set()
    for file in package.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            found = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            found += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if any(name.split(".")[0] == "nicegui" for name in found):
                knowing.add(file.parent.relative_to(package).as_posix())
    assert knowing == {"explorer/web"}
