r"""EDM's preconditioning: a bare network F becomes the denoiser D (Karras et al., 2022, Sec. 5 and Table 1).

.. math:: D(x; \sigma) = c_\text{skip} x + c_\text{out} F(c_\text{in} x;\ \tfrac14 \ln\sigma)

with :math:`c_\text{skip} = \sigma_d^2 / (\sigma^2 + \sigma_d^2)`,
:math:`c_\text{out} = \sigma\sigma_d / \sqrt{\sigma^2 + \sigma_d^2}`,
:math:`c_\text{in} = 1 / \sqrt{\sigma^2 + \sigma_d^2}` and :math:`\sigma_d` the standard deviation of the data. Networks
that diffusers calls ``v_prediction`` here return -F.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from longstride.errors import InputError, unknown

__all__ = ["EDMPreconditioning"]

#: Sign of c_out, by the prediction type of diffusers' EDM schedulers.
_SIGNS = {"epsilon": 1.0, "v_prediction": -1.0}


class EDMPreconditioning(nn.Module):
    """The denoiser ``D(x, sigma)`` of a bare network, for a schedule with alpha = 1 and time sigma.

    The scalings are computed in float32 or better for weights of any precision: at sigma = 80 a state in half precision
    has lost its picture.

    Args:
        bare: Called as ``bare(c_in x, c_noise, **condition)`` with times ``(B,)``. It returns a tensor, a tuple, or an
            object with ``.sample``.
        sigma_data: Standard deviation of the data.
        prediction_type: ``"epsilon"`` for F itself, ``"v_prediction"`` for -F.

    Raises:
        InputError: the prediction type is unknown, or ``sigma_data`` is not positive.

    References:
        Karras et al., 2022, Eq. 7 and Table 1. https://arxiv.org/abs/2206.00364
    """

    def __init__(self, bare: nn.Module, sigma_data: float = 0.5, prediction_type: str = "epsilon") -> None:
        super().__init__()
        if prediction_type not in _SIGNS:
            raise unknown("prediction type of EDM's preconditioning", prediction_type, _SIGNS)
        if not 0 < sigma_data < float("inf"):
            raise InputError(f"sigma_data must be a positive number, got {sigma_data}")
        self.bare, self.sigma_data, self.sign = bare, sigma_data, _SIGNS[prediction_type]

    def forward(self, x: Tensor, sigma: Tensor, **condition: Any) -> Tensor:
        """The clean prediction for states ``x`` of shape ``(B, *)`` at levels ``sigma`` of shape ``(B,)``."""
        wide = torch.promote_types(x.dtype, torch.float32)
        x, level = x.to(wide), sigma.to(wide).view(-1, *(1,) * (x.ndim - 1))
        total = (level**2 + self.sigma_data**2).sqrt()
        returned = self.bare((x / total).to(next(self.bare.parameters()).dtype), sigma.log() / 4, **condition)
        out: Tensor = returned[0] if isinstance(returned, tuple) else getattr(returned, "sample", returned)
        return (self.sigma_data / total) ** 2 * x + self.sign * level * self.sigma_data / total * out.to(wide)
