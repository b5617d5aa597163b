"""The Hugging Face hub as a door: cards are shared there."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, ClassVar

import pytest
import torch
from problems import Mixture

import longstride as ls
from longstride.card import CARD_FILE


@pytest.fixture(scope="module")
def card() -> ls.Card:
    sigmas = ls.grid("karras", 4, sigma_min=0.05, sigma_max=20.0)
    noise = 20.0 * torch.randn(32, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return ls.calibrate(Mixture(), noise, ls.build("ddim", sigmas), method="iia").card


# The hub: a server that speaks as much of its protocol as uploading and getting one small file takes.


class _Hub(BaseHTTPRequestHandler):
    files: ClassVar[dict[str, bytes]] = {}
    COMMIT = "a" * 40

    def log_message(self, *args: Any) -> None:
        """Quiet."""

    def _answer(self, content: bytes, status: int = 200, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def do_GET(self) -> None:
        repository, _, name = self.path.lstrip("/").partition("/resolve/main/")
        content = self.files.get(f"{repository}/{name.partition('?')[0]}")
        if content is None:
            self._answer(b"", 404, X_Error_Code="EntryNotFound")
        else:
            self._answer(content, ETag='"abc"', X_Repo_Commit=self.COMMIT)

    do_HEAD = do_GET

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        if self.path == "/api/repos/create":
            return self._answer(json.dumps({"url": f"http://{self.headers['Host']}/me/cards"}).encode())
        if "/preupload/" in self.path:
            names = [one["path"] for one in json.loads(body)["files"]]
            files = [{"path": name, "uploadMode": "regular", "shouldIgnore": False} for name in names]
            return self._answer(json.dumps({"files": files}).encode())
        repository = self.path.removeprefix("/api/models/").partition("/commit/")[0]
        for line in map(json.loads, body.splitlines()):
            if line["key"] == "file":
                self.files[f"{repository}/{line['value']['path']}"] = base64.b64decode(line["value"]["content"])
        address = f"http://{self.headers['Host']}/{repository}/commit/{self.COMMIT}"
        return self._answer(json.dumps({"commitUrl": address, "commitOid": self.COMMIT}).encode())


@pytest.fixture
def endpoint() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Hub)
    thread = Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_cards_are_shared_on_a_hub(card: ls.Card, endpoint: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    where = card.push_to_hub("me/cards", endpoint=endpoint, token="hf_secret")
    assert where.startswith(f"{endpoint}/me/cards/commit/")
    assert json.loads(_Hub.files[f"me/cards/{CARD_FILE}"])["checksum"].startswith("sha256:")
    options = {"endpoint": endpoint, "cache_dir": tmp_path / "cache"}
    assert ls.load_card("me/cards", **options) == card
    card.push_to_hub("me/cards", "eight.json", endpoint=endpoint, token="hf_secret")
    assert ls.load_card("me/cards/eight.json", **options) == card
    with pytest.raises(ls.CardError, match="there is no file me/cards/nine.json, and no such card on the hub"):
        ls.load_card("me/cards/nine.json", **options)
    with pytest.raises(ls.InputError, match="cannot upload to 'me/cards'"):
        card.push_to_hub("me/cards", endpoint="http://127.0.0.1:9", token="hf_secret")


def test_files_win_over_repositories(card: ls.Card, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "me").mkdir()
    card.save("me/cards")
    assert ls.load_card("me/cards") == card
    with pytest.raises(ls.CardError, match="cannot read card me/none.json"):
        ls.load_card("me/none.json")
