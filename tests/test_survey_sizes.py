"""The survey draws small pictures also with pipelines that choose their size by themselves."""

from __future__ import annotations

import importlib
import inspect
from types import SimpleNamespace
from typing import Any

import diffusers
import pytest

from benchmarks.pipelines.parts import Built, fresh_inputs
from benchmarks.pipelines.small_sizes import AREAS, shrink, shrink_targets


@pytest.mark.parametrize(
    ("name", "attribute"),
    [
        ("HiDreamImagePipeline", "default_sample_size"),
        ("Kandinsky5I2IPipeline", "resolutions"),
        ("Kandinsky5T2IPipeline", "resolutions"),
    ],
)
def test_sizes_that_a_pipeline_keeps_are_small(name: str, attribute: str):
    kind = getattr(diffusers, name)
    assert f"self.{attribute} = " in inspect.getsource(kind.__init__)
    pipeline = kind.__new__(kind)
    shrink(pipeline)
    kept = vars(pipeline)[attribute]
    assert kept == 8 if attribute == "default_sample_size" else max(map(max, kept)) <= 64


def test_other_pipelines_keep_their_sizes():
    pipeline = SimpleNamespace(resolutions=[(1024, 1024)])
    shrink(pipeline)
    assert pipeline.resolutions == [(1024, 1024)]


def test_pictures_are_brought_to_a_small_area(monkeypatch: pytest.MonkeyPatch):
    modules = [importlib.import_module(f"diffusers.{name}") for name in AREAS]
    for module in modules:
        monkeypatch.setattr(module, "calculate_dimensions", module.calculate_dimensions)
    shrink_targets()
    for module in modules:
        width, height = module.calculate_dimensions(1024 * 1024, 1.0)[:2]
        assert 0 < width == height <= 64
        width, height = module.calculate_dimensions(384 * 384, 4.0)[:2]
        assert width == 4 * height


@pytest.mark.parametrize("given", [{}, {"use_resolution_binning": True}])
def test_no_pipeline_takes_the_nearest_size_of_its_training_unless_its_tests_say_so(given: dict[str, Any]):
    class Binned:
        def __call__(self, height: int = 32, use_resolution_binning: bool = True) -> None: ...

    tester = SimpleNamespace(made=lambda: SimpleNamespace(get_dummy_inputs=lambda: dict(given)))
    found = fresh_inputs(Built(Binned(), tester))  # type: ignore[arg-type]
    assert found["use_resolution_binning"] is bool(given)
