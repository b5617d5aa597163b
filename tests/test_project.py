"""The project as a stranger meets it: the README's code runs, its figures are the committed ones, the wheel works."""

from __future__ import annotations

import ast
import inspect
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import longstride as ls
from benchmarks.pages import write_pages

ROOT = Path(__file__).resolve().parent.parent
LOCK = ROOT / "requirements.lock"


def sources(path: Path) -> list[Path]:
    """A file itself, or every file of code in a folder."""
    return [path] if path.is_file() else sorted(path.rglob("*.py"))


@pytest.mark.slow
def test_the_readme_code_runs(tmp_path, monkeypatch):
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    blocks = [block for block in blocks if "pipe" not in block]  # those run in test_docs.py
    assert len(blocks) == 2
    monkeypatch.chdir(tmp_path)
    scope: dict[str, object] = {}
    make_card = blocks[0]
    smaller_sizes = (("range(176)", "range(12)"), ("held_out=48", "held_out=4, scouts=0, iterations=1"))
    for size, smaller in smaller_sizes:  # the README's takes minutes
        assert make_card.count(size) == 1
        make_card = make_card.replace(size, smaller)
    exec(make_card, scope)
    exec(blocks[1], scope)
    assert tuple(scope["images"].shape) == (10, 1, 28, 28)


def test_the_lock_has_the_constraints_versions_and_a_hash_for_every_package():
    """After a change of constraints.txt or pyproject.toml: make lock."""
    pins = re.findall(r"^([a-z0-9-]+)==(\S+)", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    entries = re.findall(r"^([a-z0-9-]+)==(\S+)(.*\n(?:    .*\n)*)", LOCK.read_text(), re.MULTILINE)
    assert len(entries) > 40
    assert [name for name, _, rest in entries if not re.search(r"--hash=sha256:[0-9a-f]{64}", rest)] == []
    locked: dict[str, set[str]] = {}
    for name, version, _ in entries:
        locked.setdefault(name, set()).add(version)
    assert {name: {version} for name, version in pins if name in locked} == {
        name: locked[name] for name, _ in pins if name in locked
    }
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    asked = [*project["project"]["dependencies"], *project["project"]["optional-dependencies"]["metrics"]]
    asked += project["build-system"]["requires"]
    assert {re.split(r"[><=\[]", one)[0] for one in asked} <= set(locked)


def test_the_pages_say_what_the_results_say():
    """Every table of README and docs is the one that the committed results files give."""
    assert write_pages(ROOT, ROOT / "benchmarks" / "results", check=True) == []


def test_every_picture_and_link_of_the_pages_is_there():
    missing = []
    for page in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")):
        for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
            if "://" not in target and not (page.parent / target).exists():
                missing.append(f"{page.name}: {target}")
    assert missing == []


@pytest.mark.parametrize("name", [name for name in ls.__all__ if name != "SOLVERS"])
def test_every_public_name_is_documented(name):
    assert inspect.getdoc(getattr(ls, name))


def test_every_public_function_and_class_has_a_docstring():
    bare = []
    for file in (*sources(ROOT / "src"), *sources(ROOT / "benchmarks")):
        for node in ast.parse(file.read_text()).body:
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
                bare += [] if ast.get_docstring(node) else [f"{file.name}:{node.lineno} {node.name}"]
    assert bare == []


def test_imports_run_downward():
    """The table knows no network, solvers know no calibration, calibration knows no command line.

    Nothing of the package knows the benchmarks; of these the commands alone know the command line.
    """
    forbidden = {
        "": ("benchmarks",),
        "table.py": ("torch", "longstride.calibration", "longstride.zoo", "longstride.sampler"),
        "schedule.py": ("torch", "longstride.table"),
        "solvers": ("torch", "longstride.calibration", "longstride.zoo", "longstride.sampler"),
        "calibration": ("longstride.cli", "longstride.zoo", "longstride.evaluation", "longstride.demo"),
        "zoo": ("longstride.cli", "longstride.evaluation", "longstride.calibration"),
        "evaluation": ("longstride.cli", "longstride.demo"),
    }
    package, wrong = ROOT / "src" / "longstride", []
    checked = [(file, names) for place, names in forbidden.items() for file in sources(package / place)]
    checked += [(f, ("longstride.cli",)) for f in sources(ROOT / "benchmarks") if not f.name.endswith("commands.py")]
    for file, names in checked:
        for node in ast.walk(ast.parse(file.read_text())):
            found = [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
            found += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            wrong += [f"{file.name}: {f}" for f in found for n in names if f == n or f.startswith(n + ".")]
    assert wrong == []


def test_the_wheel_holds_the_model(tmp_path):
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        str(tmp_path),
    ]
    subprocess.run([*command, str(ROOT)], check=True, capture_output=True)
    (wheel,) = tmp_path.glob("longstride-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        sizes = {info.filename: info.file_size for info in archive.infolist()}
    weights = "longstride/zoo/garments/unet/diffusion_pytorch_model.safetensors"
    assert 1_000_000 < sizes[weights] <= 10_000_000
    assert "longstride/py.typed" in sizes
    assert "longstride/zoo/garments/README.md" in sizes
    assert not any(name.startswith(("training/", "tests/", "benchmarks/")) for name in sizes)
