"""Files of results come back, and broken files are named."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import pytest

import longstride as ls
from longstride.evaluation import Line, Results, load_results, save_results

LINE = Line("m", None, "iia_ddim", "ddim", 4, 4, "rmse", 0.5, 0.4, 0.6, -0.1, -0.2, -0.05)


def test_results_come_back_and_parquet_says_the_same(tmp_path):
    import pyarrow.parquet as pq

    lines = (LINE, Line("m", 2.0, "ddim", None, 4, 8, "fd_teacher", 1.5))
    save_results(Results({"a": 1}, lines), tmp_path / "r.json")
    loaded = load_results(tmp_path / "r.json")
    assert loaded == Results({"a": 1}, lines)
    assert loaded.value("iia_ddim", 4, "rmse") == LINE
    assert loaded.value("iia_ddim", 5, "rmse") is None
    assert pq.read_table(tmp_path / "r.parquet").to_pylist() == [asdict(line) for line in lines]


def test_broken_results_are_named(tmp_path):
    file = tmp_path / "r.json"
    save_results(Results({}, (LINE,)), file)
    good = json.loads(file.read_text())

    def refused(content, message):
        file.write_text(content)
        with pytest.raises(ls.InputError, match=message):
            load_results(file)

    refused("", "is empty")
    refused(json.dumps(good)[:-20], "not complete JSON")
    refused("[]", "holds no results")
    refused(json.dumps({**good, "version": 2}), "version 2, this longstride reads version 1")
    refused(json.dumps({**good, "lines": [{"model": "m"}]}), "is damaged")
    with pytest.raises(ls.InputError, match="cannot read results"):
        load_results(tmp_path / "none.json")
    with pytest.raises(ls.InputError, match="rmse of iia_ddim at 4 calls is nan"):
        save_results(Results({}, (replace(LINE, value=float("nan")),)), file)
