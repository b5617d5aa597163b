"""EDM's U-Nets: names, sizes, labels, and outputs that another implementation gave."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from longstride.zoo.edm_unet import EDM_UNETS, DhariwalUNet, SongUNet

SMALL: dict[str, tuple[str, dict[str, Any]]] = {
    "ddpmpp": ("SongUNet", {"model_channels": 16, "channel_mult": [1, 2], "num_blocks": 1, "attn_resolutions": [8]}),
    "ncsnpp": (
        "SongUNet",
        {
            "model_channels": 16,
            "channel_mult": [1, 2],
            "num_blocks": 1,
            "attn_resolutions": [8],
            "embedding_type": "fourier",
            "encoder_type": "residual",
            "resample_filter": [1, 3, 3, 1],
            "channel_mult_noise": 2,
        },
    ),
    "skip": (
        "SongUNet",
        {
            "model_channels": 16,
            "channel_mult": [1, 2],
            "num_blocks": 1,
            "attn_resolutions": [],
            "encoder_type": "skip",
            "decoder_type": "skip",
            "resample_filter": [1, 3, 3, 1],
        },
    ),
    "adm": ("DhariwalUNet", {"model_channels": 64, "channel_mult": [1, 2], "num_blocks": 1, "attn_resolutions": [8]}),
}
LABELS, SIDE = 3, 16


def fill(network: torch.nn.Module) -> torch.nn.Module:
    """Weights from a formula, the same in any implementation with the same names in the same order."""
    for n, (name, value) in enumerate(network.state_dict().items()):
        if name.endswith("resample_filter"):
            continue
        wave = torch.sin(torch.arange(value.numel(), dtype=torch.float64) * 1.7 + n).view(value.shape)
        if name.endswith("weight") and value.ndim == 1:
            wave = 1 + 0.1 * wave
        elif value.ndim > 1:
            wave = wave * (2 / value[0].numel()) ** 0.5
        value.copy_(wave)
    return network.eval()


def inputs() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    x = torch.sin(torch.arange(2 * 3 * SIDE**2, dtype=torch.float64) * 0.37).view(2, 3, SIDE, SIDE)
    return x.float(), torch.tensor([0.4, -0.9]), torch.tensor([2, 0])


#: What nvidia-modulus 0.9.0 (Apache-2.0) gave for the same weights, its group norm in PyTorch's form: mean, standard
#: deviation, and channel 1 of both samples at row 3, column 5.
MEASURED = {
    "ddpmpp": (-0.2118481, 0.6493639, -0.8726736, -0.8847138),
    "ncsnpp": (0.0324599, 0.7874361, 0.1844963, 0.1993176),
    "skip": (0.3484394, 0.9239894, 1.8350229, 1.6508603),
    "adm": (-0.0458966, 0.8844591, -0.1282544, -0.1307881),
}


@torch.no_grad()
@pytest.mark.parametrize("name", SMALL)
def test_outputs_of_another_implementation(name: str):
    kind, settings = SMALL[name]
    out = fill(EDM_UNETS[kind](SIDE, 3, 3, label_dim=LABELS, augment_dim=9, **settings))(*inputs())
    found = (out.mean().item(), out.std().item(), out[0, 1, 3, 5].item(), out[1, 1, 3, 5].item())
    assert found == pytest.approx(MEASURED[name], rel=1e-4, abs=1e-5)


@pytest.mark.parametrize(
    ("network", "millions"),
    [
        (("SongUNet", 32, {"channel_mult": [2, 2, 2], "augment_dim": 9}), 55.7),
        (("DhariwalUNet", 64, {"label_dim": 1000}), 295.9),
    ],
    ids=["CIFAR-10", "ImageNet-64"],
)
def test_sizes_of_the_published_networks(network: tuple[str, int, dict[str, Any]], millions: float):
    """Karras et al., 2022, Table 7."""
    kind, side, settings = network
    with torch.device("meta"):
        made = EDM_UNETS[kind](side, 3, 3, **settings)
    assert sum(p.numel() for p in made.parameters()) / 1e6 == pytest.approx(millions, abs=0.1)


def test_names_of_the_parameters():
    with torch.device("meta"):
        names = set(SongUNet(32, 3, 3, label_dim=10, augment_dim=9, channel_mult=[2, 2, 2]).state_dict())
        adm = set(DhariwalUNet(64, 3, 3, label_dim=1000).state_dict())
    assert {
        "map_label.weight",
        "map_label.bias",
        "map_augment.weight",
        "map_layer1.bias",
        "enc.32x32_conv.weight",
    } <= names
    assert {"enc.16x16_down.conv0.resample_filter", "enc.16x16_block2.qkv.weight", "dec.8x8_in0.proj.bias"} <= names
    assert {"dec.16x16_up.skip.weight", "dec.32x32_block4.affine.weight", "dec.32x32_aux_conv.bias"} <= names
    assert {"map_label.weight", "enc.32x32_down.skip.resample_filter", "out_norm.weight", "out_conv.bias"} <= adm
    assert not {"map_label.bias", "enc.32x32_down.skip.weight"} & adm


# Labels


@torch.no_grad()
@pytest.mark.parametrize("name", ["ddpmpp", "adm"])
def test_the_label_after_the_last_is_no_class(name: str):
    kind, settings = SMALL[name]
    network = fill(EDM_UNETS[kind](SIDE, 3, 3, label_dim=LABELS, **settings))
    x, t, labels = inputs()
    torch.testing.assert_close(network(x, t, torch.full((2,), LABELS)), network(x, t))
    assert not torch.allclose(network(x, t, labels), network(x, t))


# Levels of different widths


@torch.no_grad()
@pytest.mark.parametrize("encoder", ["residual", "skip"])
def test_the_second_path_is_as_wide_as_what_it_is_added_to(encoder: str):
    """Its layer at a level reads what the level above it left, and gives what the halved skip has."""
    network = SongUNet(SIDE, 3, 3, model_channels=8, channel_mult=[1, 2, 3], num_blocks=1, encoder_type=encoder)
    last = {"residual": "aux_residual", "skip": "aux_skip"}[encoder]
    widths = [tuple(network.enc[f"{side}x{side}_{last}"].weight.shape[:2]) for side in (8, 4)]
    assert widths == {"residual": [(8, 3), (16, 8)], "skip": [(8, 3), (16, 3)]}[encoder]
    assert network.eval()(*inputs()[:2]).shape == (2, 3, SIDE, SIDE)
