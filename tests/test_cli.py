"""The command line: what it writes, that it repeats itself, and one line for everything that is wrong."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from tiny_models import save_tiny_model
from typer.testing import CliRunner, Result

import longstride as ls
from longstride.cli import app
from longstride.cli.written import guidances_of, nfes_of
from longstride.evaluation import CONTESTANTS, load_results

COMMANDS = ("demo", "calibrate", "sample", "evaluate", "show", "convert")
SMALL = ("--method", "iia", "--nfe", "3", "--substeps", "2", "--batch", "2", "--held-out", "2")


def invoke(*args: object) -> Result:
    return CliRunner().invoke(app, [str(arg) for arg in args])


def run(*args: object) -> str:
    """Standard output of a command that must succeed."""
    result = invoke(*args)
    assert result.exit_code == 0, result.output
    assert only_phases(result.stderr)
    return result.stdout


def only_phases(stderr: str) -> bool:
    """Whether a log holds nothing but the names of phases, one a line: no warning of any library."""
    phases = "converging|filling|calibrating|teacher|evaluating|intervals|drawing|fitting|checking|ablations on [^ ]*"
    return all(re.fullmatch(rf"([a-z0-9_]+: )?({phases}) …", line) for line in stderr.splitlines())


@pytest.fixture(scope="module")
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


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


# Help


@pytest.mark.parametrize("command", COMMANDS)
def test_help_ends_with_an_example_that_runs(command: str):
    """The example stands on one line, and every option in it exists."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", run(command, "--help"))
    example = next(line.strip() for line in text.splitlines() if "Example:" in line)
    assert example.startswith(f"Example: longstride {command} ")
    assert all(option in text.split("Example:")[0] for option in re.findall(r"--\w+", example))
    assert text.rstrip().endswith(example)


def test_version():
    assert run("--version") == f"longstride {ls.__version__}\n"


def test_no_command_shows_the_help():
    output = invoke().output
    assert all(command in output for command in COMMANDS)


def test_a_real_process(model: Path, card: Path):
    """Nothing but JSON on standard output, one line on standard error, and an exit code for scripts."""
    code = "import sys; from longstride.cli import app; sys.argv[0] = 'longstride'; app()"
    command = [sys.executable, "-W", "error", "-c", code, "sample", str(model), "--card", str(card), "--num", "2"]
    good = subprocess.run([*command, "--json"], capture_output=True, text=True, timeout=120, check=False)
    assert good.returncode == 0, good.stderr
    assert only_phases(good.stderr)
    assert json.loads(good.stdout)["files"] == ["samples.png"]
    bad = subprocess.run([*command, "--device", "abacus"], capture_output=True, text=True, timeout=120, check=False)
    assert (bad.returncode, bad.stdout) == (2, "")
    assert bad.stderr.startswith("error: device 'abacus' cannot be used here")
    assert bad.stderr.count("\n") == 1


# Calibrate and show


def test_calibrate_writes_a_card_that_fits_the_model(model: Path, card: Path):
    loaded = ls.load_card(card)
    assert (loaded.solver, loaded.base.name, loaded.nfe) == ("iia_ddim", "ddim", 3)
    loaded.check_model(ls.load_model(model).info())
    assert loaded.settings == {
        "directions": "differences", "r": 1, "substeps": 2, "fine": "base", "ridge": 1e-6, "stages": False,
        "trajectory": "calibrated", "samples": 4, "held_out": 2, "seed": 0
    }  # fmt: skip


def test_the_same_seed_gives_the_same_card(model: Path, card: Path):
    for name, seed in (("same", 0), ("other", 1)):
        run("calibrate", model, *SMALL, "--seed", seed, "--out", name)
    assert Path("same").read_bytes() == card.read_bytes()
    same, other = ls.load_card("same").table, ls.load_card("other").table
    assert same.distance(other) > 0


def test_calibrate_prints_its_card_as_json(model: Path):
    output = run("calibrate", model, *SMALL, "--out", "card.json", "--solver", "ipndm", "--guidance", 2, "--json")
    assert output == Path("card.json").read_text()
    assert json.loads(output)["model"]["guidance"] == 2.0


def test_calibrate_tells_costs_and_result(shared: Path):
    out = Path("[bold]:smile:.json")  # a name that looks like markup is a name
    output = run("calibrate", shared / "plain", *SMALL, "--final", "zero", "--out", out)
    assert "at most 36 network calls in samples" in output
    assert "whole trajectories on 2 held-out samples" in " ".join(output.split())
    assert f"card written to {out}" in output
    assert list(Path().iterdir()) == [out]


def test_show(card: Path):
    output = run("show", card)
    assert all(word in output for word in ("card: IIA-DDIM", "x3 = ", "normal form", "D2"))
    assert json.loads(run("show", card, "--json")) == json.loads(card.read_text())


# Fitting everything together, and books

FEW = ("--batch", 8, "--held-out", 8, "--iterations", 1)


@pytest.fixture(scope="module")
def book(shared: Path) -> Path:
    """A book of the first model; tests do not write here."""
    run("calibrate", shared / "a", *FEW, "--nfe", "4-6", "--guidance", "1,4", "--out", shared / "book.json")
    return shared / "book.json"


def test_by_default_everything_is_fitted_together(shared: Path):
    output = run("calibrate", shared / "plain", *FEW, "--nfe", 3, "--out", "new.json")
    assert "fitting 8 samples and holding out 8" in output
    loaded = ls.load_card("new.json")
    assert (loaded.method, loaded.solver, loaded.nfe) == ("gauss_newton", "gauss_newton", 3)
    assert (loaded.settings["samples"], loaded.settings["held_out"], loaded.settings["iterations"]) == (16, 8, 1)
    shown = " ".join(run("show", "new.json").split())
    assert all(word in shown for word in ("card: Gauss–Newton", "classical", "gain", "started from", "stopped: "))
    assert "accepted" in shown or "this card holds the base: " in shown


def test_several_settings_make_one_book(book: Path):
    loaded = ls.load_book(book)
    assert (loaded.nfes, loaded.guidances) == ([4, 5, 6], [1.0, 4.0])
    output = run("show", book)
    assert all(word in output for word in ("card book", "guidance 1", "guidance 4", "best classical", "change"))
    assert json.loads(run("show", book, "--json")) == json.loads(book.read_text())


def test_sampling_with_a_book(model: Path, book: Path):
    options = ("--card", book, "--num", 2, "--json")
    entry = json.loads(run("sample", model, *options, "--nfe", 4, "--guidance", 4))
    assert (entry["solver"], entry["nfe"], "note" in entry) == ("gauss_newton", 8, False)
    outside = json.loads(run("sample", model, *options, "--nfe", 7, "--guidance", 4))
    assert outside["nfe"] == 14
    assert "7 network calls at guidance 4: not in this book" in outside["note"]
    between = json.loads(run("sample", model, *options, "--nfe", 5, "--guidance", 2))
    assert between["note"].startswith(("filled between guidance 1, 4", "5 network calls at guidance 2: not in"))


def test_a_book_needs_a_number_of_calls(model: Path, shared: Path, book: Path, card: Path):
    message = error("sample", model, "--card", book, "--num", 2)
    assert "is a book of 4, 5, 6 network calls at guidance 1, 4: say which with --nfe" in message
    assert "holds the guidance scales 1, 4: say which" in error("sample", model, "--card", book, "--nfe", 4)
    assert "is a card for 3 network calls, not 4" in error("sample", model, "--card", card, "--nfe", 4)
    assert "was calibrated on" in error("sample", shared / "b", "--card", book, "--nfe", 4, "--guidance", 4)


@pytest.mark.parametrize(
    ("text", "expected"), [("8", [8]), ("4-6", [4, 5, 6]), ("4 - 6", [4, 5, 6]), ("8,4,4,6", [4, 6, 8]), ("5-5", [5])]
)
def test_how_calls_are_written(text: str, expected: list[int]):
    assert nfes_of(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [(None, [None]), ("7.5", [7.5]), ("1-8", [1, 2.83, 8]), ("7.5,1,3", [1, 3, 7.5]), ("-1", [-1]), ("2", [2])],
)
def test_how_guidance_is_written(text: str | None, expected: list[float | None]):
    assert guidances_of(text) == expected


@pytest.mark.parametrize("text", ["8-4", "4-", "0-3", "4,,5", "4.5", "1-100000"])
def test_calls_that_cannot_be_read(model: Path, text: str):
    assert f"expected network calls such as 8, 4-20 or 4,6,8, got '{text}'" in error("calibrate", model, "--nfe", text)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("--guidance 8-1", "expected guidance scales such as"),
        ("--guidance much", "expected guidance scales such as"),
        ("--guidance 1,-3", "must be 0 or more"),
        ("--substeps 3", "method 'gauss_newton' does not know --substeps; of these options it takes --iterations"),
        ("--fine ddim --r 1 --directions split", "does not know --directions and --r and --fine"),
        ("--method iia --iterations 3 --residual pixels", "method 'iia' does not know --iterations and --residual"),
        ("--method global --substeps 3", "of these options it takes --window, --ridge"),
        ("--residual pixel", "unknown residual 'pixel'"),
        ("--method iia --nfe 3-4", "a book of several settings is made by method 'gauss_newton', not by 'iia'"),
        ("--solver unipc --nfe 3-4", "a book starts from every classical solver"),
    ],
)
def test_settings_that_a_method_does_not_have(model: Path, options: str, expected: str):
    assert expected in error("calibrate", model, *options.split())


# Sample


def test_a_sheet_of_pictures(model: Path, card: Path):
    made = json.loads(run("sample", model, "--card", card, "--num", 5, "--out", "new/sheet.png", "--json"))
    assert (made["solver"], made["nfe"], made["files"]) == ("iia_ddim", 3, ["new/sheet.png"])
    with Image.open("new/sheet.png") as sheet:
        assert sheet.size == (2 * 8 * 12, 3 * 8 * 12)  # 2 classes across, 5 pictures, each pixel 12 wide


def test_a_folder_of_pictures(shared: Path):
    made = json.loads(
        run("sample", shared / "plain", "--num", 3, "--out", "out", "--solver", "ipndm", "--nfe", 2, "--json")
    )
    assert sorted(made["files"]) == sorted(map(str, Path("out").iterdir()))
    assert len(made["files"]) == 3
    for file in made["files"]:
        with Image.open(file) as picture:
            assert picture.size == (8, 8)


def test_sampling_repeats_itself_and_batches_do_not_matter(model: Path):
    for name, options in (("a", ()), ("b", ("--batch-size", 2)), ("c", ("--seed", 1)), ("d", ("--label", 1))):
        run("sample", model, "--num", 4, "--nfe", 2, "--out", f"{name}.png", *options)
    a, b, c, d = (Path(f"{name}.png").read_bytes() for name in "abcd")
    assert a == b
    assert len({a, c, d}) == 3


def test_guided_pictures_count_both_calls(model: Path):
    assert json.loads(run("sample", model, "--num", 2, "--nfe", 3, "--guidance", 2, "--json"))["nfe"] == 6


def test_a_card_brings_its_guidance(model: Path):
    run("calibrate", model, *SMALL, "--guidance", 2)
    assert json.loads(run("sample", model, "--num", 2, "--card", "card.json", "--json"))["nfe"] == 6
    assert "at guidance 2.0, not 3.0" in error("sample", model, "--card", "card.json", "--guidance", 3)


def test_compare_draws_base_calibrated_and_converged(model: Path, card: Path):
    output = run("sample", model, "--card", card, "--num", 3, "--out", "both.png", "--compare")
    assert "IIA-DDIM" in output
    assert "distance to the converged solution" in output
    made = json.loads(run("sample", model, "--card", card, "--num", 3, "--out", "folder", "--compare", "--json"))
    assert made["files"] == ["folder/comparison.png"]
    assert all(math.isfinite(made["errors"][name]["rmse"]) for name in ("DDIM", "IIA-DDIM"))
    for file in ("both.png", "folder/comparison.png"):
        with Image.open(file) as picture:
            assert min(picture.size) > 100


def test_a_card_of_another_model_is_refused_unless_forced(shared: Path, card: Path):
    message = error("sample", shared / "b", "--card", card, "--num", 2)
    assert repr(str(shared / "a")) in message
    assert repr(str(shared / "b")) in message
    assert "--any-model" in message
    run("sample", shared / "b", "--card", card, "--num", 2, "--any-model")


# Errors


def error(*args: object) -> str:
    """The one line that a bad command prints; it must exit with 2 and leave no file behind."""
    before = sorted(Path().rglob("*"))
    result = invoke(*args)
    assert result.exit_code == 2, result.output
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    assert result.stdout == ""
    assert sorted(Path().rglob("*")) == before
    return result.stderr


@pytest.mark.parametrize("command", ["calibrate", "sample"])
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("--solver ddin", "solver 'ddin': did you mean 'ddim'"),
        ("--grid unifrom", "unknown grid 'unifrom': did you mean 'uniform'"),
        ("--nfe 0", "Invalid value for '--nfe'"),
        ("--nfe many", "Invalid value for '--nfe'"),
        ("--seed -1", "Invalid value for '--seed'"),
        ("--seed 99999999999999999999", "Invalid value for '--seed'"),
        ("--what", "No such option: --what"),
        ("--guidance nan", "guidance must be a finite number"),
        ("--device abacus", "device 'abacus' cannot be used here"),
        ("--device meta", "device 'meta' cannot be used here"),
        ("--out {card}/sub/x.png", "cannot write"),
    ],
)
def test_bad_options(model: Path, card: Path, command: str, options: str, expected: str):
    assert expected in error(command, model, *options.format(card=card).split())


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("--method iia_edn", "unknown method 'iia_edn': did you mean 'iia_edm'"),
        ("--method iia_edm --solver ddim", "iia_edm is for the base heun, not for 'ddim'; --method iia takes any"),
        ("--directions spilt", "unknown family of directions 'spilt': did you mean 'split'"),
        ("--r -1", "expected r >= 0"),
        ("--fine eulre", "unknown fine solver 'eulre'"),
        ("--final half", "unknown final level 'half'"),
        ("--ridge inf", "a finite ridge >= 0"),
        ("--batch 0", "Invalid value for '--batch'"),
        ("--out .", "cannot write .: it is a folder"),
        ("--out missing/card.json", "cannot write missing/card.json: No such file or directory"),
    ],
)
def test_bad_options_of_calibrate(model: Path, options: str, expected: str):
    assert expected in error("calibrate", model, *SMALL, *options.split())


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("--solver heun --nfe 3", "heun cannot spend exactly 3 network calls; 2 would work"),
        ("--label 2", "has classes 0 … 1, got label 2"),
        ("--label -1", "has classes 0 … 1, got label -1"),
        ("--label 99999999999999999999", "has classes 0 … 1, got label 99999999999999999999"),
        ("--card none.json", "cannot read card none.json: No such file"),
        ("--card {model}/model_index.json", "is no longstride card"),
    ],
)
def test_bad_options_of_sample(model: Path, options: str, expected: str):
    assert expected in error("sample", model, *options.format(model=model).split())


@pytest.mark.parametrize("command", ["calibrate", "sample"])
def test_bad_models(shared: Path, command: str):
    assert "unknown model 'garment': did you mean 'garments' or 'garments_flow'?" in error(command, "garment")
    assert "model_index.json is missing" in error(command, ".")
    assert "missing argument 'model'" in error(command).lower()
    assert "cannot be guided" in error(command, shared / "plain", "--guidance", 2)


def test_a_model_without_weights(tmp_path: Path):
    folder = save_tiny_model(tmp_path / "model")
    (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    assert "cannot load the unet" in error("calibrate", folder)


def test_a_label_for_a_model_without_classes(shared: Path):
    assert "has no classes, got label 0" in error("sample", shared / "plain", "--label", 0)


def test_an_unknown_command():
    assert "No such command 'calibrat'. Did you mean 'calibrate'?" in error("calibrat")
    assert "No such option: --bogus" in error("--bogus")


def test_show_refuses_a_damaged_card(card: Path):
    Path("cut.json").write_bytes(card.read_bytes()[:500])
    assert "cut short or damaged" in error("show", "cut.json")


def test_an_existing_file_survives_an_error(model: Path):
    Path("card.json").write_text("mine")
    Path("card.json.probe").write_text("mine too")
    error("calibrate", model, "--solver", "unipcc")
    assert [Path(name).read_text() for name in ("card.json", "card.json.probe")] == ["mine", "mine too"]


# Demo

DEMO = ("--samples", 6, "--calibration-samples", 4, "--substeps", 2, "--reference-steps", 6, "--dimensions", 2)


def test_demo(model: Path):
    printed = json.loads(run("demo", "--model", model, "--out", "out", *DEMO, "--json"))
    assert printed == json.loads(Path("out/results.json").read_text())
    results = load_results(Path("out/results.json"))
    names = ["ddim", "iia_ddim", "dpmpp_2m", "unipc", "gauss_newton"]
    assert results.contestants == names
    assert results.nfes == [4, 6]
    for measure in ("rmse", "median", "fd_teacher", "contrast_ratio"):
        assert all(math.isfinite(results.value(name, nfe, measure).value) for name in names for nfe in results.nfes)
    assert results.about["model"]["fingerprint"] == ls.load_model(model).fingerprint
    cards = {file.stem: ls.load_card(file) for file in Path("out/cards").iterdir()}
    calibrated = [name for name in names if CONTESTANTS[name].method is not None]
    assert set(cards) == {f"{name}_nfe{nfe}" for name in calibrated for nfe in results.nfes}
    assert all(name == f"{card.solver}_nfe{card.nfe}" for name, card in cards.items())
    files = {"results.json", "results.parquet", "comparison.png", "error_vs_nfe.png", "cards"}
    assert {file.name for file in Path("out").iterdir()} == files
    for name in ("comparison.png", "error_vs_nfe.png"):
        with Image.open(f"out/{name}") as picture:
            assert min(picture.size) > 100


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("--grid unifrom", "unknown grid 'unifrom'"),
        ("--dimensions 6", "needs more than 6 samples"),
        ("--model garment", "unknown model 'garment'"),
        ("--samples 1", "Invalid value for '--samples'"),
        ("--out {card}", "cannot write"),
        ("--out {card}/sub", "cannot write"),
    ],
)
def test_bad_options_of_demo(model: Path, card: Path, options: str, expected: str):
    assert expected in error("demo", "--model", model, *DEMO, *options.format(card=card).split())


# Evaluate

EVALUATE = (
    "--nfe",
    "3,4",
    "--samples",
    6,
    "--calibration-samples",
    4,
    "--substeps",
    2,
    "--reference-steps",
    6,
    "--dimensions",
    2,
)


def test_evaluate_goes_on_where_it_was(model: Path, card: Path):
    options = (*EVALUATE, "--batch-size", 2, "--card", card)
    printed = json.loads(run("evaluate", model, *options, "--solvers", "iia_edm,iia_dpmpp_2m", "--json"))
    results = load_results(Path("evaluation/results.json"))
    assert printed == json.loads(Path("evaluation/results.json").read_text())
    assert results.contestants == ["heun", "iia_edm", "dpmpp_2m", "iia_dpmpp_2m", "card (base)", "card"]
    assert (results.value("heun", 2, "rmse"), results.value("heun", 3, "rmse")) != (None, None)
    parts = {file: file.stat().st_mtime_ns for file in Path("evaluation/work").rglob("*.npz")}
    run("evaluate", model, *options, "--solvers", "iia_edm,iia_dpmpp_2m,unipc")
    again = load_results(Path("evaluation/results.json"))
    assert set(results.lines) <= set(again.lines)
    assert again.contestants[-3:] == ["unipc", "card (base)", "card"]
    assert {file: file.stat().st_mtime_ns for file in parts} == parts


def test_evaluate_measures_the_entries_of_a_book(model: Path, book: Path):
    """All of one guidance scale, or those at the numbers of calls that others are measured at."""
    options = (*EVALUATE, "--guidance", 4, "--dimensions", 0)
    run("evaluate", model, *options, "--card", book, "--solvers", "")
    results = load_results(Path("evaluation/results.json"))
    name = book.stem
    assert (results.contestants, results.nfes) == ([f"{name} (base)", name], [4, 5, 6])
    for entry in ls.load_book(book).entries:
        same = entry.card.table.distance(entry.card.base_table) == 0
        if entry.guidance == 4:
            assert (results.value(name, entry.nfe, "rmse").change == 0) is same
    run("evaluate", model, *options, "--card", book, "--solvers", "ddim", "--nfe", "4,7", "--out", "other")
    results = load_results(Path("other/results.json"))
    assert [nfe for nfe in (4, 5, 6, 7) if results.value(name, nfe, "rmse")] == [4]
    message = error("evaluate", model, *options, "--card", book, "--solvers", "ddim", "--nfe", "7,8")
    assert "holds 4, 5, 6 network calls at guidance 1, 4, and nothing at guidance 4 with 7, 8 network" in message
    assert "and nothing without guidance: choose" in error("evaluate", model, *EVALUATE, "--card", book)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("--nfe 5,x", "expected numbers of network calls with commas"),
        ("--solvers ddmi", "unknown contestant 'ddmi': did you mean 'ddim'"),
        ("--solvers ,", "needs a contestant or a card"),
        ("--features vgg --solvers ddim", "unknown features 'vgg'"),
        ("--final half", "unknown final level 'half'"),
        ("--card none.json", "cannot read card none.json"),
        ("--solvers ddim --real none.npz", "cannot read none.npz"),
        ("--out {card}/sub", "cannot write"),
    ],
)
def test_bad_options_of_evaluate(model: Path, card: Path, options: str, expected: str):
    assert expected in error("evaluate", model, *EVALUATE, *options.format(card=card).split())
