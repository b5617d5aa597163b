"""The networks of galaxygrad: the port against plain NumPy, the score against mathematics, and every error."""

from __future__ import annotations

import math
import shutil
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import longstride as ls
from longstride.errors import InputError, LongstrideError
from longstride.zoo import galaxy
from longstride.zoo.galaxy import GALAXY_NETS, GalaxyScoreNet, load_galaxy, read_network

SCHEDULE = ls.Schedule.vp_continuous(beta_min=1.0, beta_max=1.0, t_min=0.0025, t_max=10.0)


@pytest.fixture(scope="module")
def folder() -> Path:
    spec = find_spec("galaxygrad")
    assert spec is not None, "these tests need: pip install --no-deps galaxygrad==0.2.1"
    assert spec.origin is not None
    return Path(spec.origin).parent


@pytest.fixture(scope="module")
def hsc32(folder: Path) -> GalaxyScoreNet:
    return load_galaxy("hsc32")


@pytest.fixture(scope="module")
def samples(hsc32: GalaxyScoreNet) -> Tensor:
    """Sixteen pictures drawn by the network itself."""
    table = ls.build("dpmpp_2m", ls.grid("karras", 20, schedule=SCHEDULE, final="zero"))
    noise = torch.randn(16, *hsc32.shape, generator=torch.Generator().manual_seed(0)) * float(table.sigmas[0])
    return ls.sample(ls.as_denoiser(hsc32, SCHEDULE, "score"), noise, table)


def read(path: Path) -> list[np.ndarray]:
    with path.open("rb") as handle:
        return [np.load(handle, allow_pickle=False) for _ in range(55)]


def write(path: Path, leaves: list[np.ndarray]) -> Path:
    with path.open("wb") as handle:
        for leaf in leaves:
            np.save(handle, leaf)
    return path


def reference(leaves: list[np.ndarray], x: np.ndarray, t: np.ndarray) -> np.ndarray:
    """The network in float64 NumPy, pixel by pixel from its definition; ``x`` is (B, S, S)."""
    queue = [leaf.astype(np.float64) for leaf in leaves]
    kernel_in, bias_in, kernel_out, bias_out = (queue.pop(0) for _ in range(4))
    t1 = queue.pop()

    def norm(y: np.ndarray, scale: np.ndarray, shift: np.ndarray) -> np.ndarray:
        mean, variance = y.mean((1, 2), keepdims=True), y.var((1, 2), keepdims=True)
        return (y - mean) / np.sqrt(variance + 1e-5) * scale + shift

    def mlp(y: np.ndarray, w1: np.ndarray, b1: np.ndarray, w2: np.ndarray, b2: np.ndarray) -> np.ndarray:
        hidden = np.maximum(np.einsum("hi,bni->bnh", w1, y) + b1, 0)
        return np.einsum("oh,bnh->bno", w2, hidden) + b2

    batch, size = len(x), x.shape[-1]
    side = size // 4
    planes = np.stack([x, np.broadcast_to((t / t1)[:, None, None], x.shape)], axis=1)
    patches = planes.reshape(batch, 2, side, 4, side, 4)
    y = np.einsum("ocuv,bciujv->boij", kernel_in, patches) + bias_in
    y = y.reshape(batch, 64, side * side)
    for _ in range(4):
        mixers = [queue.pop(0) for _ in range(12)]
        y = y + mlp(norm(y, *mixers[8:10]), *mixers[:4])
        z = y.transpose(0, 2, 1)
        z = z + mlp(norm(z, *mixers[10:]), *mixers[4:8])
        y = z.transpose(0, 2, 1)
    y = norm(y, *queue).reshape(batch, 64, side, side)
    # Correlation with the input stretched by the stride and padded by 3, which is what the stored kernel means.
    stretched = np.zeros((batch, 64, size + 3, size + 3))
    stretched[:, :, 3::4, 3::4] = y
    windows = np.lib.stride_tricks.sliding_window_view(stretched, (4, 4), axis=(2, 3))
    return np.einsum("cuv,bcijuv->bij", kernel_out[0], windows, optimize=True) + bias_out


@pytest.mark.parametrize("name", ["hsc32", "ztf32", "lsst60"])
def test_equals_plain_numpy(name: str, folder: Path) -> None:
    net = load_galaxy(name)
    t = np.array([0.003, 1.0, 9.5])
    x = np.random.default_rng(1).standard_normal((3, *net.shape[1:]))
    expected = reference(read(folder / GALAXY_NETS[name]), x, t)
    got = net(torch.from_numpy(x[:, None]).float(), torch.from_numpy(t).float())[:, 0].numpy()
    error = np.abs(got - expected).max((1, 2)) / np.abs(expected).max((1, 2))
    assert error.max() < 1e-5  # measured 1e-6


@pytest.mark.parametrize("name", GALAXY_NETS)
def test_every_network_knows_pure_noise(name: str, folder: Path) -> None:
    """At t = 10, x_t is normal with variance 1 about alpha m, so the score is alpha m - x, with alpha = 0.0067."""
    net = load_galaxy(name)
    size = int("".join(filter(str.isdigit, name)))
    assert net.shape == (1, size, size)
    assert not net.training
    assert not any(p.requires_grad for p in net.parameters())
    x = torch.randn(4, *net.shape, generator=torch.Generator().manual_seed(2))
    score = net(x, torch.full((4,), 10.0))
    mean = 7.0 if name in ("lsst60", "roman120") else 0.0  # the empty sky of these two surveys
    error = (score - math.exp(-5.0) * mean + x).norm() / x.norm()
    assert error < 0.02  # measured 0.005 to 0.012


@pytest.mark.parametrize(("sigma", "most"), [(0.1, 0.45), (0.5, 0.3), (2.0, 0.18), (10.0, 0.08)])
def test_removes_noise(sigma: float, most: float, hsc32: GalaxyScoreNet, samples: Tensor) -> None:
    """Of noise added to its own pictures the network leaves a small part (measured 0.33, 0.22, 0.12 and 0.04)."""
    noise = sigma * torch.randn(samples.shape, generator=torch.Generator().manual_seed(3))
    cleaned = ls.as_denoiser(hsc32, SCHEDULE, "score")(samples + noise, sigma)
    assert (cleaned - samples).norm() < most * noise.norm()


def test_samples_are_galaxies(samples: Tensor) -> None:
    """A bright source in the middle of an empty sky, in every one of them."""
    centre, rim = samples[:, 0, 12:20, 12:20], samples[:, 0, 0]
    assert (centre.amax((1, 2)) > 4).all()  # measured: at least 6.1
    assert rim.abs().median() < 0.02  # 0.004


def test_loading_draws_no_random_numbers(folder: Path) -> None:
    before = torch.get_rng_state()
    first, second = load_galaxy("hsc32"), load_galaxy("hsc32")
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_unknown_name() -> None:
    with pytest.raises(InputError, match=r"unknown galaxy network 'hsc_32': did you mean 'hsc32'"):
        load_galaxy("hsc_32")


def test_missing_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(galaxy, "find_spec", lambda name: None)
    with pytest.raises(LongstrideError, match=r"pip install --no-deps galaxygrad==0\.2\.1"):
        load_galaxy()


def test_other_weights_under_the_same_name(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copy(folder / GALAXY_NETS["ztf32"], tmp_path / GALAXY_NETS["hsc32"])
    spec = find_spec("galaxygrad")
    assert spec is not None
    monkeypatch.setattr(spec, "submodule_search_locations", [str(tmp_path)])
    monkeypatch.setattr(galaxy, "find_spec", lambda name: spec)
    with pytest.raises(InputError, match=r"not from galaxygrad 0\.2\.1.*--force-reinstall"):
        load_galaxy("hsc32")
    with pytest.raises(LongstrideError, match="'ztf64' needs the package"):
        load_galaxy("ztf64")


@pytest.mark.parametrize(("kept", "number"), [(0.5, r"\d+"), (0.0, "1"), (0.99999, "55")])
def test_truncated_file(kept: float, number: str, folder: Path, tmp_path: Path) -> None:
    data = (folder / GALAXY_NETS["hsc32"]).read_bytes()
    path = tmp_path / "short.eqx"
    path.write_bytes(data[: int(kept * len(data))])
    with pytest.raises(InputError, match=rf"damaged.*array {number} of 55 cannot be read"):
        read_network(path)


def test_damaged_headers_raise_nothing_else(folder: Path, tmp_path: Path) -> None:
    data = bytearray((folder / GALAXY_NETS["hsc32"]).read_bytes()[:20_000])
    rng = np.random.default_rng(4)
    path = tmp_path / "damaged.eqx"
    for _ in range(100):
        damaged = bytearray(data)
        damaged[int(rng.integers(128))] = int(rng.integers(256))
        path.write_bytes(damaged)
        with pytest.raises(InputError, match="damaged"):
            read_network(path)


def test_wrong_arrays(folder: Path, tmp_path: Path) -> None:
    leaves = read(folder / GALAXY_NETS["hsc32"])
    path = tmp_path / "wrong.eqx"
    assert read_network(write(path, leaves)).shape == (1, 32, 32)
    with pytest.raises(InputError, match="array 55 of 55 cannot be read"):
        read_network(write(path, leaves[:-1]))
    with pytest.raises(InputError, match="more than 55 arrays"):
        read_network(write(path, [*leaves, leaves[-1]]))
    with pytest.raises(InputError, match="not finite"):
        read_network(write(path, [leaves[0] * np.nan, *leaves[1:]]))
    with pytest.raises(InputError, match="not finite"):
        read_network(write(path, [np.array("text"), *leaves[1:]]))
    with pytest.raises(InputError, match=r"conv_in\.weight has shape \(64, 1, 4, 4\)"):
        read_network(write(path, [leaves[0][:, :1], *leaves[1:]]))
    with pytest.raises(InputError, match=r"conv_out\.weight has shape \(4, 4\)"):
        read_network(write(path, [*leaves[:2], leaves[2][0, 0], *leaves[3:]]))
    with pytest.raises(InputError, match=r"shape \(512, 63\)"):
        read_network(write(path, [*leaves[:4], leaves[4][:, 1:], *leaves[5:]]))
    with pytest.raises(InputError, match="t1 is 0"):
        read_network(write(path, [*leaves[:-1], np.array(0.0)]))


def test_shapes_are_checked(hsc32: GalaxyScoreNet) -> None:
    with pytest.raises(InputError, match=r"\(B, 1, 32, 32\).*got \(2, 3, 32, 32\) and \(2,\)"):
        hsc32(torch.zeros(2, 3, 32, 32), torch.ones(2))
    with pytest.raises(InputError, match=r"got \(2, 1, 32, 32\) and \(\)"):
        hsc32(torch.zeros(2, 1, 32, 32), torch.tensor(1.0))
    with pytest.raises(InputError, match="multiple of 4, got 30"):
        GalaxyScoreNet(30)
