"""References measure what they say, survive a file and refuse a broken one."""

from __future__ import annotations

import io
import zipfile
from dataclasses import replace

import numpy as np
import pytest
import torch

import longstride as ls
from longstride.evaluation.frechet import Moments, frechet_distance
from longstride.evaluation.reference_set import ReferenceSet
from longstride.evaluation.statistics import picture_statistics


class Pixels:
    """Features of a picture are its values, so everything has a closed form."""

    name, label, dimensions = "pixels", "Pixels", 27

    def __call__(self, images):
        return images.flatten(1)


@pytest.fixture(scope="module")
def splits():
    draw = torch.Generator().manual_seed(14)
    return torch.rand(240, 3, 3, 3, generator=draw) * 2 - 1, torch.rand(130, 3, 3, 3, generator=draw) * 2 - 1


@pytest.fixture(scope="module")
def reference(splits):
    real, held_out = splits
    return ReferenceSet.measure(iter(real.split(100)), iter(held_out.split(64)), Pixels(), 5, "a test's noise")


def test_a_reference_measures_both_splits(reference, splits):
    real, held_out = splits
    coordinates = reference.space.project(real.flatten(1))
    np.testing.assert_allclose(reference.moments.pack(), Moments.of(coordinates).pack(), atol=1e-9)
    np.testing.assert_allclose(reference.pictures, picture_statistics(real).mean(0), rtol=1e-12)
    assert sorted(map(tuple, reference.coordinates)) == sorted(map(tuple, coordinates.astype(np.float32)))
    assert [size for size, _ in reference.floor] == [100, 130]
    other = Moments.of(reference.space.project(held_out.flatten(1)))
    assert reference.floor[-1][1] == pytest.approx(frechet_distance(other, reference.moments), rel=1e-9)
    assert (reference.space.features, reference.source) == ("pixels", "a test's noise")
    assert reference.floor_near(20) == reference.floor_near(110) == reference.floor[0]
    assert reference.floor_near(120) == reference.floor_near(10**6) == reference.floor[1]


def test_the_floor_does_not_depend_on_a_sorted_split(reference, splits):
    """Its small sizes are random subsets: the darkest 100 of 130 would be farther than any."""
    real, held_out = splits
    dark_first = held_out[reference.space.project(held_out.flatten(1))[:, 0].argsort()]
    found = ReferenceSet.measure([real], [dark_first], Pixels(), 5, "sorted")
    first = Moments.of(found.space.project(dark_first[:100].flatten(1)))
    assert found.floor[0][1] < 0.75 * frechet_distance(first, found.moments)
    assert found.floor[1][1] == pytest.approx(reference.floor[1][1], rel=1e-4)  # features are float32 all along


def test_a_reference_needs_pictures_on_both_sides(splits):
    with pytest.raises(ls.InputError, match="needs pictures, got none"):
        ReferenceSet.measure([], [splits[1]], Pixels(), 5, "nothing")
    with pytest.raises(ls.InputError, match="two held-out pictures or more, got 0"):
        ReferenceSet.measure([splits[0]], [], Pixels(), 5, "nothing")


def test_a_reference_survives_its_file(reference, tmp_path):
    reference.save(tmp_path / "a.npz")
    again = ReferenceSet.load(tmp_path / "a.npz")
    assert (again.source, again.floor, again.space.features) == (reference.source, reference.floor, "pixels")
    for field in ("coordinates", "pictures"):
        assert getattr(again, field).dtype == getattr(reference, field).dtype
        assert np.array_equal(getattr(again, field), getattr(reference, field))
    assert np.array_equal(again.moments.pack(), reference.moments.pack())
    assert np.array_equal(again.space.mean, reference.space.mean)
    assert np.array_equal(again.space.axes, reference.space.axes)
    assert again.digest == reference.digest != replace(reference, source="another").digest
    again.save(tmp_path / "b.npz")
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


def refused(path, match: str) -> None:
    """The file gives one error, which names it."""
    with pytest.raises(ls.InputError, match=match) as caught:
        ReferenceSet.load(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.__suppress_context__


def test_files_that_are_no_reference_are_refused(reference, tmp_path):
    path = tmp_path / "reference.npz"
    refused(path, "there is no such file")
    refused(tmp_path, "no reference set that can be read")
    reference.save(path)
    whole = path.read_bytes()
    single = io.BytesIO()
    np.save(single, np.ones(3))
    flipped = bytearray(whole)
    flipped[len(flipped) // 2] ^= 255
    for content in (b"", b"text", whole[: len(whole) // 2], whole[:-1], single.getvalue(), bytes(flipped)):
        path.write_bytes(content)
        refused(path, "no reference set that can be read")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("version", b"1")
    refused(path, "its version are no numbers")


CHANGES = {
    "newer": ("version", lambda a: a + 1, "its version is 2, this longstride reads 1"),
    "no moments": ("moments", None, "it has no moments"),
    "no source": ("source", None, "source"),
    "text": ("axes", lambda a: a.astype(str), "its axes are no numbers"),
    "pickled": ("source", lambda a: np.array([{}], dtype=object), "allow_pickle=False"),
    "other features": ("mean", lambda a: a[:-1], r"mean of shape \(26,\)"),
    "fewer axes": ("axes", lambda a: a[:, :-1], "moments in 4 dimensions are 21 numbers"),
    "other coordinates": ("coordinates", lambda a: a[:, 1:], r"expected coordinates \(n, 5\)"),
    "no coordinates": ("coordinates", lambda a: a[:0], r"expected coordinates \(n, 5\)"),
    "no samples": ("moments", lambda a: 0 * a, "moments of 0 pictures"),
    "statistics": ("pictures", lambda a: a[1:], "expected 6 picture statistics"),
    "flat floor": ("floor", lambda a: a[0], r"expected a floor \(n, 1"),
    "falling floor": ("floor", lambda a: a[::-1], "rising sizes of the floor"),
    "no floor": ("floor", lambda a: a[:0], "rising sizes of the floor"),
    "infinite size": ("floor", lambda a: a * np.inf, "must be finite"),
    "NaN": ("mean", lambda a: a * np.nan, "NaN or infinity"),
}


@pytest.mark.parametrize(("name", "change", "match"), CHANGES.values(), ids=CHANGES)
def test_references_that_do_not_fit_together_are_refused(reference, tmp_path, name, change, match):
    path = tmp_path / "reference.npz"
    reference.save(path)
    with np.load(path) as content:
        arrays = dict(content)
    original = arrays.pop(name)
    np.savez(path, **arrays, **({} if change is None else {name: change(original)}))
    refused(path, match)
