"""Other people's doors: k-diffusion's call, ComfyUI's nodes, the Hugging Face hub."""

from __future__ import annotations

import base64
import importlib.util
import json
import sys
import types
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
from longstride.integrations.k_diffusion import sample_longstride, sigmas_of

SIGMAS = ls.grid("karras", 4, sigma_min=0.05, sigma_max=20.0)


def noise(count: int, seed: int = 0) -> torch.Tensor:
    return 20.0 * torch.randn(count, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture(scope="module")
def card() -> ls.Card:
    return ls.calibrate(Mixture(), noise(32), ls.build("ddim", SIGMAS), method="iia").card


def model(x: torch.Tensor, sigma: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
    """As k-diffusion wraps networks: a level per sample."""
    assert sigma.shape == x.shape[:1]
    return scale * Mixture()(x, float(sigma[0]))


# k-diffusion


def k_diffusion_dpmpp_2m(model: Any, x: torch.Tensor, sigmas: torch.Tensor) -> torch.Tensor:
    """DPM-Solver++(2M) as its authors state it, in k-diffusion's variables: sigma = exp(-t), alpha = 1."""
    before = None
    for i in range(len(sigmas) - 1):
        denoised = model(x, sigmas[i] * x.new_ones([len(x)]))
        t, following = -sigmas[i].log(), -sigmas[i + 1].log()
        h = following - t
        if before is None or sigmas[i + 1] == 0:
            mixed = denoised
        else:
            r = (t + sigmas[i - 1].log()) / h
            mixed = (1 + 1 / (2 * r)) * denoised - before / (2 * r)
        x = sigmas[i + 1] / sigmas[i] * x - (-h).expm1() * mixed
        before = denoised
    return x


def test_it_is_called_as_k_diffusions_samplers_are() -> None:
    sigmas = torch.from_numpy(ls.grid("karras", 6, sigma_min=0.05, sigma_max=20.0, final="zero"))
    seen: list[dict[str, Any]] = []
    options = {"lower_order_final": False}
    found = sample_longstride(model, noise(5), sigmas, {"scale": 0.9}, seen.append, True, **options)
    expected = k_diffusion_dpmpp_2m(lambda x, s: model(x, s, 0.9), noise(5), sigmas)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    assert [told["i"] for told in seen] == [0, 1, 2, 3, 4, 5]
    assert all(float(told["sigma"]) == pytest.approx(float(s)) for told, s in zip(seen, sigmas, strict=False))
    torch.testing.assert_close(seen[2]["denoised"], model(seen[2]["x"], sigmas[2].expand(5), 0.9))
    assert set(seen[0]) == {"x", "i", "sigma", "sigma_hat", "denoised"}


def test_a_card_is_run_on_its_own_levels(card: ls.Card, tmp_path: Path) -> None:
    card.save(tmp_path / "card.json")
    expected = ls.sample(Mixture(), noise(5), card.table)
    found = sample_longstride(model, noise(5), sigmas_of(card), disable=True, card=tmp_path / "card.json")
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    assert sigmas_of(card).dtype == torch.float32
    more = torch.from_numpy(ls.grid("karras", 7, sigma_min=0.05, sigma_max=20.0))
    with pytest.warns(UserWarning, match="for network calls 4, not 7; dpmpp_2m runs in its place"):
        found = sample_longstride(model, noise(5), more, disable=True, card=card)
    torch.testing.assert_close(found, sample_longstride(model, noise(5), more, disable=True), rtol=0, atol=0)
    with pytest.raises(ls.CardError, match="for network calls 4, not 7; without strict"):
        sample_longstride(model, noise(5), more, disable=True, card=card, strict=True)
    with pytest.raises(ls.CardError, match="starts at noise level 20, not 10"):
        sample_longstride(model, noise(5), torch.from_numpy(SIGMAS) / 2, disable=True, card=card, strict=True)


def test_cards_of_flows_are_refused() -> None:
    sigmas = [1.0, 0.6, 0.2, 0.0]
    table = ls.build("ddim", sigmas, alphas=[0.0, 0.4, 0.8, 1.0])
    flow = ls.calibrate(lambda x, s: torch.tanh(x), noise(24) / 20, table, method="iia").card
    with pytest.raises(ls.InputError, match="k-diffusion does not divide"):
        sigmas_of(flow)


# ComfyUI: the real one cannot be installed here, so a stand-in plays its part of the protocol.


@pytest.fixture
def nodes(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The folder of nodes as ComfyUI loads it, beside a module ``comfy.samplers`` with what they use of it."""

    class KSAMPLER:
        def __init__(self, sampler_function: Any, extra_options: Any = None, inpaint_options: Any = None) -> None:
            self.sampler_function = sampler_function

        def sample(self, model_wrap: Any, sigmas: torch.Tensor, extra_args: Any, callback: Any, x: Any) -> Any:
            def told(one: dict[str, Any]) -> None:
                callback(one["i"], one["denoised"], one["x"], len(sigmas) - 1)

            return self.sampler_function(model_wrap, x, sigmas, extra_args=extra_args, callback=told, disable=True)

    samplers = types.ModuleType("comfy.samplers")
    samplers.KSAMPLER = KSAMPLER  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "comfy", types.ModuleType("comfy"))
    monkeypatch.setitem(sys.modules, "comfy.samplers", samplers)
    place = Path(__file__).parent.parent / "comfyui" / "__init__.py"
    found = importlib.util.spec_from_file_location("longstride_nodes", place)
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


def test_nodes_of_comfyui(nodes: Any, card: ls.Card, tmp_path: Path) -> None:
    card.save(tmp_path / "card.json")
    assert set(nodes.NODE_CLASS_MAPPINGS) == set(nodes.NODE_DISPLAY_NAME_MAPPINGS)
    for node in nodes.NODE_CLASS_MAPPINGS.values():
        assert hasattr(node(), node.FUNCTION)
        assert set(node.INPUT_TYPES()["required"]) <= {"solver", "card"}
        assert node.RETURN_TYPES
        assert node.CATEGORY.startswith("sampling/")
    (levels,) = nodes.NODE_CLASS_MAPPINGS["LongstrideSigmas"]().get(str(tmp_path / "card.json"))
    (sampler,) = nodes.NODE_CLASS_MAPPINGS["LongstrideSampler"]().get("unipc", str(tmp_path / "card.json"))
    seen: list[int] = []
    found = sampler.sample(model, levels, {}, lambda i, d, x, n: seen.append(i), noise(3))
    torch.testing.assert_close(found, ls.sample(Mixture(), noise(3), card.table), rtol=1e-6, atol=1e-6)
    assert seen == [0, 1, 2, 3]
    (plain,) = nodes.NODE_CLASS_MAPPINGS["LongstrideSampler"]().get("unipc")
    found = plain.sample(model, torch.from_numpy(SIGMAS), {}, lambda *a: None, noise(3))
    expected = ls.sample(Mixture(), noise(3), ls.build("unipc", SIGMAS))
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


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
