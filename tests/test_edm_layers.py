"""The layers of EDM's U-Nets against plain PyTorch."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from longstride.zoo.edm_layers import Block, Conv


@torch.no_grad()
def test_halving_and_doubling_with_two_taps_are_pooling_and_repeating():
    x = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(Conv(3, 3, 0, down=True)(x), F.avg_pool2d(x, 2))
    torch.testing.assert_close(Conv(3, 3, 0, up=True)(x), x.repeat_interleave(2, 2).repeat_interleave(2, 3))


@torch.no_grad()
@pytest.mark.parametrize("direction", ["up", "down"])
def test_four_taps_keep_a_constant_away_from_the_border(direction: str):
    out = Conv(1, 1, 0, taps=[1, 3, 3, 1], **{direction: True})(torch.full((1, 1, 8, 8), 2.5))
    torch.testing.assert_close(out[..., 2:-2, 2:-2], torch.full_like(out[..., 2:-2, 2:-2], 2.5))


@torch.no_grad()
def test_a_fused_convolution_differs_at_the_border_alone():
    """Halving first or last commutes with the convolution only when the kernel is a point."""
    x = torch.randn(1, 3, 12, 12)
    fused, plain = Conv(3, 4, 3, down=True, taps=[1, 3, 3, 1], fused=True), Conv(3, 4, 3)
    plain.load_state_dict({name: value for name, value in fused.state_dict().items() if name != "resample_filter"})
    then = Conv(4, 4, 0, down=True, taps=[1, 3, 3, 1])(plain(x))
    torch.testing.assert_close(fused(x)[..., 1:-1, 1:-1], then[..., 1:-1, 1:-1], rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_attention_is_the_textbook_one():
    """Per head, softmax(q k^T / sqrt(d)) v; q, k and v of a channel are neighbours."""
    block = Block(16, 16, 4, heads=2, ada=False, project=True, scale=1.0, eps=1e-6)
    y = torch.randn(2, 16, 3, 3)
    told = block.qkv(block.norm2(y)).reshape(2, 2, 8, 3, 9)
    q, k, v = told[:, :, :, 0], told[:, :, :, 1], told[:, :, :, 2]
    weights = torch.einsum("bhcq,bhck->bhqk", q, k / 8**0.5).softmax(-1)
    expected = torch.einsum("bhqk,bhck->bhcq", weights, v).reshape(y.shape)
    torch.testing.assert_close(block.attention(y), expected, rtol=1e-4, atol=1e-5)
