"""The example service under uvicorn: pictures, a canary that goes back by itself, full queues, metrics, its files."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import uvicorn
import yaml
from command_line import run
from fastapi import FastAPI
from prometheus_client.parser import text_string_to_metric_families
from tiny_models import save_tiny_model

import longstride as ls
from benchmarks.rollout_samples import shuffled, worse_by
from examples.serve.app import create_app, png
from examples.serve.load import generate, get
from examples.serve.service import Settings
from longstride.card_parts import TableData
from longstride.rollout import Stage

ROOT = Path(__file__).resolve().parent.parent
CANARY = (Stage(share=0.1, requests=10**9),)


@contextmanager
def served(settings: Settings) -> Iterator[tuple[int, FastAPI]]:
    """The service on a free port of this machine."""
    app = create_app(settings)
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="error", ws="none"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started and thread.is_alive():
            time.sleep(0.02)
        assert server.started
        yield server.servers[0].sockets[0].getsockname()[1], app
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="module")
def cards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model without classes, its card, and this card spoilt: much, to 1.5 times its error, and to NaN."""
    folder = tmp_path_factory.mktemp("cards")
    save_tiny_model(folder / "model", classes=None)
    small = ("--method", "iia", "--nfe", "3", "--substeps", "2", "--batch", "2", "--held-out", "2")
    run("calibrate", folder / "model", *small, "--out", folder / "good.json")
    card = ls.load_card(folder / "good.json")
    bad = card.model_copy(update={"data": TableData.of(shuffled(card.table))})
    bad.save(folder / "bad.json")
    model = ls.load_model(str(folder / "model"))
    seeds = range(32)
    noise, denoiser = model.noise(seeds, card.table.sigmas[0]), model.denoiser(seeds)
    converged = ls.solve_reference(denoiser, noise, card.table, check_samples=0).samples

    def rmse(table: ls.SolverTable) -> float:
        return float((ls.sample(denoiser, noise, table) - converged).square().mean().sqrt())

    subtle = worse_by(1.5, card.table, rmse)
    card.model_copy(update={"data": TableData.of(subtle)}).save(folder / "subtle.json")
    broken = replace(card.table.chained(), rows=tuple(1e25 * row for row in card.table.chained().rows))
    card.model_copy(update={"data": TableData.of(broken)}).save(folder / "nan.json")
    return folder


@pytest.fixture
def settings(cards: Path, tmp_path: Path) -> Settings:
    return Settings(tmp_path / "rollout.db", str(cards / "model"), concurrency=2, reference_steps=8)


def picture_of(settings: Settings, table: ls.SolverTable, seed: int) -> bytes:
    """What a table gives without any service."""
    model = ls.load_model(settings.model)
    seeds = range(seed, seed + 1)
    return png(model.pictures(ls.sample(model.denoiser(seeds), model.noise(seeds, table.sigmas[0]), table))[0])


@pytest.mark.parametrize("name", ["bad", pytest.param("subtle", marks=pytest.mark.slow)])
def test_a_bad_card_at_a_tenth_of_the_traffic_goes_back_and_no_request_fails(settings, cards, name):
    """After it, everyone has the old card's picture, to the bit."""
    good = ls.load_card(cards / "good.json")
    ls.Rollout.start(settings.store, cards / f"{name}.json", old=cards / "good.json", stages=CANARY).close()
    measured = replace(settings, reference_share={"new": 1.0})
    with served(measured) as (port, app):
        rollout = app.state.service.rollout
        replies = generate(port, 1500, 3, stop=lambda: rollout.status().status == "rolled back")
        app.state.service.reference.wait()
        assert rollout.log()[-1].action == "rolled back"
        assert re.match("typical error|mean error|samples 4 times|alarms of drift", rollout.log()[-1].reason)
        new = [reply.number for reply in replies if reply.arm == "new"]
        after = [generate(port, 1, 1, first=number)[0] for number in new[:3]]
    assert {reply.status for reply in replies} == {200}
    assert {reply.arm for reply in replies} == {"old", "new"}
    assert 5 < len(new) < 0.2 * len(replies)
    assert [reply.arm for reply in after] == ["old"] * 3
    for reply in (*after, *(r for r in replies[:10] if r.arm == "old")):
        assert reply.body == picture_of(settings, good.table, reply.number)


def test_nan_is_answered_by_the_base_and_withdrawn_at_once(settings, cards):
    good = ls.load_card(cards / "good.json")
    ls.Rollout.start(settings.store, cards / "nan.json", stages=(Stage(share=0.99),)).close()
    with served(settings) as (port, app):
        (first,) = generate(port, 1, 1)
        (second,) = generate(port, 1, 1, first=1)
        assert app.state.service.rollout.log()[-1].reason == "new returned NaN or infinity"
    assert (first.status, second.status, first.arm, second.arm) == (200, 200, "base", "base")
    assert first.body == picture_of(settings, good.base_table, 0)


def test_a_new_card_is_served_without_a_restart_and_a_damaged_one_goes_back(settings, cards, tmp_path):
    own = tmp_path / "own.json"
    own.write_bytes((cards / "good.json").read_bytes())
    ls.Rollout.start(settings.store, cards / "bad.json", stages=(Stage(share=1.0),)).close()
    with served(settings) as (port, app):
        assert generate(port, 1, 1)[0].body == picture_of(settings, ls.load_card(cards / "bad.json").table, 0)
        with ls.Rollout(settings.store) as elsewhere:  # another process
            elsewhere.rollback()
            assert generate(port, 1, 1)[0].arm == "base"
        ls.Rollout.start(settings.store, own, stages=(Stage(share=1.0),)).close()
        (reply,) = generate(port, 1, 1)
        assert (reply.arm, reply.body) == ("new", picture_of(settings, ls.load_card(own).table, 0))
    own.write_text("{}")
    with ls.Rollout(settings.store) as rollout:
        rollout.rollback()
    with pytest.raises(ls.CardError):
        ls.Rollout.start(settings.store, own)
    own.write_bytes((cards / "good.json").read_bytes())
    ls.Rollout.start(settings.store, own, old=cards / "good.json", stages=(Stage(share=1.0),)).close()
    own.write_text("{}")
    with served(settings) as (port, app):
        assert [reply.status for reply in generate(port, 2, 1)] == [200, 200]
        last = app.state.service.rollout.log()[-1]
    assert (last.action, last.withdrawn) == ("rolled back", ("new",))
    assert "own.json has changed since the roll-out started" in last.reason


def test_a_full_queue_says_so(settings, cards):
    ls.Rollout.start(settings.store, cards / "good.json").close()
    with served(replace(settings, concurrency=1, waiting=1)) as (port, app):
        hold, held = threading.Event(), app.state.service.picture

        def slow(key: str, seed: int):
            hold.wait()
            return held(key, seed)

        app.state.service.picture = slow
        inside = threading.Thread(target=generate, args=(port, 2, 2))
        inside.start()
        while app.state.inside < 2:
            time.sleep(0.01)
        status, headers, body = get(port, "/image?seed=3")
        hold.set()
        inside.join()
        assert (status, headers["retry-after"]) == (503, "1")
        assert json.loads(body)["detail"] == "the queue is full: 1 requests wait; come back in a second"
        assert get(port, "/image?seed=3")[0] == 200
        assert get(port, "/image?seed=-3")[0] == 422
        assert get(port, f"/image?seed=3&key={'x' * 201}")[0] == 422


def exposed(port: int) -> dict[str, dict[tuple[str, ...], float]]:
    """Samples of /metrics by name and label values."""
    found: dict[str, dict[tuple[str, ...], float]] = {}
    for family in text_string_to_metric_families(get(port, "/metrics")[2].decode()):
        for sample in family.samples:
            found.setdefault(sample.name, {})[tuple(sample.labels.values())] = sample.value
    return found


def test_metrics_and_health_and_the_files_that_read_them(settings, cards):
    """Every number that the dashboard and the alerts ask for is there."""
    ls.Rollout.start(settings.store, cards / "good.json", stages=(Stage(share=0.5, requests=10**9),)).close()
    with served(replace(settings, reference_share={"base": 1.0, "new": 1.0})) as (port, app):
        generate(port, 12, 2)
        app.state.service.reference.wait()
        found = exposed(port)
        assert sum(found["longstride_requests_total"].values()) == 12
        assert found["longstride_rollout_stage"] == {(): 1.0}
        assert found["longstride_rollout_share"] == {("base",): 0.5, ("new",): 0.5}
        assert found["longstride_rollout_comparison"]["value", "error"] > 0
        assert found["longstride_mean_error"]["new", "value"] > 0
        assert found["longstride_store_trouble"] == {(): 0.0}
        assert json.loads(get(port, "/healthz")[2]) == {"status": "ok", "store": None, "model": settings.model}
        settings.store.rename(settings.store.with_suffix(".lost"))
        assert generate(port, 1, 1)[0].status == 200
        assert json.loads(get(port, "/healthz")[2])["status"] == "degraded"
        assert exposed(port)["longstride_store_trouble"] == {(): 1.0}
    folder = ROOT / "examples" / "serve"
    dashboard = json.loads((folder / "dashboard.json").read_text())
    asked = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    rules = [rule for group in yaml.safe_load((folder / "alerts.yml").read_text())["groups"] for rule in group["rules"]]
    asked += [rule["expr"] for rule in rules]
    names = {name for line in asked for name in re.findall(r"longstride_\w+", line)}
    assert len(names) > 8
    assert names <= set(found)
    runbook = (ROOT / "docs" / "rollout.md").read_text()
    for rule in rules:
        assert f"### {rule['alert']}" in runbook


@pytest.mark.slow
def test_the_bundled_model_is_served(tmp_path):
    small = ("--method", "iia", "--nfe", "3", "--substeps", "2", "--batch", "2", "--held-out", "2")
    run("calibrate", "garments", *small, "--out", tmp_path / "card.json")
    run("rollout", "start", tmp_path / "rollout.db", "--new", tmp_path / "card.json", "--stages", "100")
    settings = Settings(tmp_path / "rollout.db", reference_share={})
    with served(settings) as (port, _):
        (reply,) = generate(port, 1, 1, first=7)
    assert (reply.status, reply.arm) == (200, "new")
    assert reply.body == picture_of(settings, ls.load_card(tmp_path / "card.json").table, 7)
