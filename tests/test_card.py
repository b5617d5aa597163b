"""The coefficient card: what is saved comes back, and whatever is wrong with a file is said in one line."""

from __future__ import annotations

import ast
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from problems import Mixture
from toy_fits import SIGMAS, noise_of

import longstride as ls
from longstride.documents import checksum as checksum_of
from longstride.files import check_writable, write_atomically

PACKAGE = Path(ls.__file__).parent
MODEL = ls.ModelInfo(name="toy", fingerprint="ab" * 32, guidance=2.0)


@pytest.fixture(scope="module")
def calibration() -> ls.Calibration:
    table = ls.build("ipndm", ls.grid("karras", 4, sigma_min=0.01, sigma_max=10.0))
    noise = 10 * torch.randn(8, 4, generator=torch.Generator().manual_seed(0))
    return ls.calibrate(lambda x, sigma: x / (1 + 4 * sigma**2), noise, table, model=MODEL, seed=0, method="iia")


@pytest.fixture
def file(calibration: ls.Calibration, tmp_path: Path) -> Path:
    calibration.card.save(tmp_path / "card.json")
    return tmp_path / "card.json"


def refusal(file: Path) -> str:
    """The message with which a card is refused; it must be one line that names the file."""
    with pytest.raises(ls.CardError) as caught:
        ls.load_card(file)
    message = str(caught.value)
    assert "\n" not in message
    assert str(file) in message
    return message


def rewrite(file: Path, *, checksum: bool = True, **changes: Any) -> None:
    """Change top-level fields and, where ``checksum``, the checksum with them."""
    raw = {**json.loads(file.read_text()), **changes}
    if checksum:
        del raw["checksum"]
        raw["checksum"] = checksum_of(raw)
    file.write_text(json.dumps(raw))


# Round trip


def test_a_saved_card_comes_back_unchanged(calibration: ls.Calibration, file: Path):
    card, table = ls.load_card(file), calibration.table
    assert card == calibration.card
    assert card.table.distance(table) == 0
    assert (card.table.name, card.table.options, card.table.exact) == ("iia_ipndm", table.options, table.exact)
    assert (card.base_table.name, card.base_table.options) == ("ipndm", table.options)
    assert [step.coefficients for step in card.steps] == [row.coefficients for row in calibration.rows]
    assert card.end.calibrated.rmse == calibration.end.calibrated.rmse
    assert card.model == MODEL


def test_a_card_is_text_that_people_can_read(calibration: ls.Calibration, file: Path):
    text = file.read_text()
    assert text.endswith("}\n")
    assert text.isascii()
    assert len(text.splitlines()) > 50
    raw = json.loads(text)
    assert (raw["format"], raw["version"], raw["longstride"]) == ("longstride-card", 5, ls.__version__)
    assert raw["calls"] == calibration.calls > 0
    assert raw["settings"] == {
        "directions": "differences", "r": 1, "substeps": 10, "fine": "base", "ridge": 1e-6, "stages": False,
        "trajectory": "calibrated", "samples": 8, "held_out": 4, "seed": 0
    }  # fmt: skip
    calibration.card.save(file)
    assert file.read_text() == text


def test_a_card_of_a_search_comes_back(found, tmp_path):
    found.card.save(tmp_path / "card.json")
    card = ls.load_card(tmp_path / "card.json")
    assert card == found.card
    assert card.table.distance(found.table) == 0.0
    assert card.steps == []
    assert card.search.start == found.search.start
    assert {name: final.detail for name, final in card.search.finals.items()} == {
        name: final.detail for name, final in found.search.finals.items()
    }
    assert [line.damping for line in card.search.iterations] == [line.damping for line in found.search.iterations]
    assert card.end.stability.gain == found.end.stability.gain
    assert card.end.stability.gain <= 4 * card.end.stability.base_gain
    assert card.schedule.times == pytest.approx(found.table.sigmas.tolist())


def test_cards_of_the_first_version_load(tmp_path):
    """They had rows, and nothing of a search, of stability or of reasons."""
    result = ls.calibrate(Mixture(), noise_of(12), ls.build("ddim", SIGMAS), method="iia")
    raw = json.loads(result.card.dumps())
    del raw["checksum"], raw["search"], raw["calls"], raw["end"]["reason"], raw["end"]["stability"]
    raw["version"] = 1
    file = tmp_path / "old.json"
    canonical = json.dumps(raw, sort_keys=True, separators=(",", ":"))
    file.write_text(json.dumps({**raw, "checksum": "sha256:" + hashlib.sha256(canonical.encode()).hexdigest()}))
    card = ls.load_card(file)
    assert card.version == 1
    assert card.table.distance(result.table) == 0.0
    assert len(card.steps) == 4
    assert (card.search, card.calls, card.end.stability, card.end.reason) == (None, None, None, "")


# Damaged and foreign files


def test_a_missing_file(tmp_path: Path):
    assert "No such file" in refusal(tmp_path / "none.json")


def test_a_folder(tmp_path: Path):
    assert "cannot read card" in refusal(tmp_path)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.7, 0.999])
def test_a_file_that_was_cut_short(file: Path, share: float):
    text = file.read_bytes().rstrip()
    file.write_bytes(text[: int(share * len(text))])
    assert "cut short or damaged" in refusal(file)


@pytest.mark.parametrize("garbage", [b"\x00\xff\xfe" * 50, b"\x80\x04K\x01.", b"[" * 100_000])
def test_garbage(file: Path, garbage: bytes):
    file.write_bytes(garbage)
    assert "cut short or damaged" in refusal(file)


@pytest.mark.parametrize("text", ["[]", "3", "null", "{}", '{"format": "recipe"}'])
def test_json_that_is_no_card(file: Path, text: str):
    file.write_text(text)
    assert "no longstride card" in refusal(file)


def test_an_edited_number(file: Path):
    rewrite(file, checksum=False, settings={"seed": 1})
    assert "checksum does not match" in refusal(file)


def test_a_missing_checksum(file: Path):
    raw = json.loads(file.read_text())
    del raw["checksum"]
    file.write_text(json.dumps(raw))
    assert "checksum does not match" in refusal(file)


@pytest.mark.parametrize("checksum", [False, True])
def test_an_unknown_field(file: Path, checksum: bool):
    rewrite(file, checksum=checksum, remark="mine")
    assert refusal(file).endswith("remark: Extra inputs are not permitted")


def test_a_missing_field_and_a_wrong_type_are_counted(file: Path):
    rewrite(file, nfe="many", steps=3)
    assert "(and 1 more)" in refusal(file)


def test_a_newer_version(file: Path):
    rewrite(file, version=6, something_new=1)
    assert "reads up to 5: upgrade longstride" in refusal(file)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
@pytest.mark.parametrize("where", ['"rmse": ', '"ridge": '])
def test_numbers_that_are_not_finite(file: Path, where: str, number: str):
    head, _, tail = file.read_text().partition(where)
    end = min(tail.index(","), tail.index("\n"))
    file.write_text(head + where + number + tail[end:])
    assert f"{number} is no finite number" in refusal(file)


@pytest.mark.parametrize("index", ["1", "9", "-1"])
def test_rows_that_read_what_does_not_exist_yet(file: Path, index: str):
    data = json.loads(file.read_text())["data"]
    data["rows"][0]["outputs"] = {index: 0.5}
    rewrite(file, data=data)
    assert "row 1 must read states and outputs 0 … 0 only" in refusal(file)


def test_levels_that_do_not_fit_the_rows(file: Path):
    data = json.loads(file.read_text())["data"]
    rewrite(file, data={**data, "sigmas": data["sigmas"][1:]})
    assert "no usable sampler" in refusal(file)
    rewrite(file, data={**data, "sigmas": data["sigmas"][::-1], "exact": False})
    assert "noise levels must fall strictly" in refusal(file)


def test_a_number_of_calls_that_the_table_does_not_make(file: Path):
    rewrite(file, nfe=7)
    assert "says nfe = 7" in refusal(file)


# Whose card it is


def test_a_card_of_another_model_names_both(calibration: ls.Calibration):
    calibration.card.check_model(MODEL)
    calibration.card.check_model(MODEL.model_copy(update={"name": "renamed"}))
    calibration.card.check_model(MODEL.model_copy(update={"fingerprint": None}))
    other = ls.ModelInfo(name="other", fingerprint="cd" * 32, guidance=2.0)
    with pytest.raises(ls.CardError, match=r"'toy' \(weights abababababab\), not on 'other' \(weights cdcdcdcdcdcd\)"):
        calibration.card.check_model(other)


@pytest.mark.parametrize("guidance", [None, 1.0])
def test_a_card_of_another_guidance_names_both(calibration: ls.Calibration, guidance: float | None):
    with pytest.raises(ls.CardError, match=f"at guidance 2.0, not {guidance}"):
        calibration.card.check_model(MODEL.model_copy(update={"guidance": guidance}))


# Writing


def test_a_path_that_cannot_be_written(calibration: ls.Calibration, file: Path, tmp_path: Path):
    before = sorted(tmp_path.iterdir())
    for path in (file / "card.json", tmp_path / "missing" / "card.json", tmp_path):
        with pytest.raises(ls.InputError, match="cannot write") as caught:
            calibration.card.save(path)
        assert str(path) in str(caught.value)
        with pytest.raises(ls.InputError, match="cannot write"):
            check_writable(path)
    assert sorted(tmp_path.iterdir()) == before


def test_a_check_before_writing_leaves_nothing(tmp_path: Path):
    check_writable(tmp_path / "card.json")
    check_writable(tmp_path / "a" / "b" / "card.json", new_folders=True)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize("call", ["chmod", "replace"])
def test_a_failing_write_leaves_the_old_file(
    file: Path, monkeypatch: pytest.MonkeyPatch, call: str, error: BaseException
):
    def fail(*args: object) -> None:
        raise error

    before = file.read_bytes()
    monkeypatch.setattr(os, call, fail)
    with pytest.raises((ls.InputError, KeyboardInterrupt)):
        write_atomically(file, b"new")
    assert file.read_bytes() == before
    assert list(file.parent.iterdir()) == [file]


# No pickle


def test_nothing_is_ever_unpickled():
    """No file of the package imports pickle or a relative of it, and ``torch.load`` reads weights only.

    The converter of EDM's checkpoints is the exception: it must be told that the file will run code.
    """
    loads = 0
    for source in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, (ast.Import, ast.ImportFrom)) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            if names != ["UnpicklingError", "pickle"] and source.name != "edm_pickle.py":
                assert not {name.split(".")[0] for name in names} & {"pickle", "cPickle", "dill", "joblib", "shelve"}
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
                loads += 1
                assert {key.arg: ast.unparse(key.value) for key in node.keywords}["weights_only"] == "True", source
            if isinstance(node, ast.keyword) and node.arg == "allow_pickle":
                assert ast.unparse(node.value) == "False", source
    assert loads == 1


# Hostile files


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize("depth", [32, 200, 900])
def test_settings_that_are_nested_too_deeply(file: Path, depth: int):
    """A card that were read could not be written again."""
    rewrite(file, settings={"seed": nested(depth)})
    assert "nested more than 32 levels deep" in refusal(file)


def test_settings_may_be_nested(calibration: ls.Calibration, file: Path):
    rewrite(file, settings={"seed": nested(28)})
    card = ls.load_card(file)
    card.save(file)
    assert ls.load_card(file) == card


def test_a_name_that_stands_twice(file: Path):
    """Its first value is what people read, and its last is what programs read."""
    text = file.read_text()
    assert text.count('"nfe": 4,') == 1
    file.write_text(text.replace('"nfe": 4,', '"nfe": 9,\n "nfe": 4,'))
    assert "two entries have the name 'nfe'" in refusal(file)


def test_a_file_that_is_too_large_is_not_read_to_its_end(tmp_path: Path):
    file = tmp_path / "card.json"
    with file.open("wb") as opened:
        opened.truncate(10**12)  # takes no room on the disk
    assert "larger than 16 MiB: it is no card" in refusal(file)
    assert "larger than 16 MiB" in refusal(Path("/dev/zero"))


def test_a_table_of_more_calls_than_memory(file: Path):
    data = json.loads(file.read_text())["data"]
    rewrite(file, data={**data, "rows": [{"states": {"0": 1.0}, "outputs": {}}] * 200_000})
    assert "at most 1024 items" in refusal(file)


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("weight", [1e31, -1e200, 1e308])
def test_weights_that_overflow(file: Path, weight: float, exact: bool):
    data = json.loads(file.read_text())["data"]
    for row in data["rows"]:
        row["states"] = dict.fromkeys(row["states"], weight) or {"0": weight}
    rewrite(file, data={**data, "exact": exact})
    assert "no usable sampler" in refusal(file)


@pytest.mark.parametrize(("name", "value"), [("alphas", -1.0), ("sigmas", -1e-9), ("alphas", 1e300)])
def test_levels_that_are_none(file: Path, name: str, value: float):
    data = json.loads(file.read_text())["data"]
    data[name][1] = value
    rewrite(file, data={**data, "exact": False})
    assert "no usable sampler" in refusal(file)


@pytest.mark.parametrize("name", ["two\nlines", "\x1b[31mred", "\ud800", "\u202egnp", "long" * 10_000])
def test_no_text_of_a_file_reaches_the_terminal_as_it_is(file: Path, name: str):
    rewrite(file, **{name: 1})
    message = refusal(file)
    assert message.isprintable()
    assert len(message) < 3000
    message.encode()
