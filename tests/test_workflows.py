"""What runs on GitHub: its files are read, and it tests the versions of Python that the package promises."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
FILES = sorted((ROOT / ".github").rglob("*.yml"))


def read(file: Path) -> dict[Any, Any]:
    return yaml.safe_load(file.read_text())


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_every_action_has_a_version_and_every_form_its_fields(file: Path):
    content = read(file)
    if file.parent.name == "workflows":
        uses = [step["uses"] for job in content["jobs"].values() for step in job["steps"] if "uses" in step]
        assert uses
        assert all("@" in name for name in uses)
        assert content["permissions"] == {"contents": "read"}
    elif file.stem != "config":
        assert {"name", "description", "body"} <= set(content)
        assert all(field["attributes"]["label"] for field in content["body"])


def test_the_matrix_is_what_the_package_promises():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    promised = [line.rpartition(" ")[2] for line in project["classifiers"] if "Python :: 3." in line]
    matrix = read(ROOT / ".github" / "workflows" / "ci.yml")["jobs"]["test"]["strategy"]["matrix"]["python"]
    assert matrix == promised
    assert project["requires-python"] == f">={promised[0]}"


def test_the_links_of_the_issue_forms_lead_somewhere():
    """To pages of this repository."""
    for link in read(ROOT / ".github" / "ISSUE_TEMPLATE" / "config.yml")["contact_links"]:
        assert (ROOT / link["url"].partition("/blob/main/")[2]).is_file()
