r"""What networks return, and the clean prediction that it stands for.

A network sees the process on its own scale, :math:`x_t = \alpha_t x_0 + \sigma_t \epsilon`. There are five predictions:

==============  ==========================================  =========================================
prediction      the network returns                         clean prediction
==============  ==========================================  =========================================
``noise``       eps                                         (x_t - sigma_t eps) / alpha_t
``data``        x_0                                         itself
``v``           v = alpha_t eps - sigma_t x_0               (alpha_t x_t - sigma_t v) / (alpha_t² + sigma_t²)
``flow``        u = eps - x_0                               x_t - sigma_t u
``score``       -eps / sigma_t                              (x_t + sigma_t² score) / alpha_t
==============  ==========================================  =========================================
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from longstride.errors import InputError

__all__ = ["DIFFUSERS_PREDICTIONS", "CleanWeights", "Prediction", "clean_weights", "combined"]

Prediction = Literal["noise", "data", "v", "flow", "score"]
#: Weights of the state and of the network's output in the clean prediction, at alpha and sigma of the network's scale.
CleanWeights = Callable[[float, float], tuple[float, float]]

#: Names that diffusers gives to prediction types.
DIFFUSERS_PREDICTIONS: dict[str, Prediction] = {
    "epsilon": "noise",
    "sample": "data",
    "v_prediction": "v",
    "flow_prediction": "flow",
}


def clean_weights(prediction: Prediction, alpha: float, sigma: float) -> tuple[float, float]:
    """Weights of the state and of the network's output in the clean prediction; see the module.

    Args:
        prediction: Kind of the network's output.
        alpha: Alpha of the state, on the network's own scale.
        sigma: Sigma of the state, on the network's own scale.

    Raises:
        InputError: a prediction of noise or score at alpha = 0.
    """
    if alpha == 0 and prediction in ("noise", "score"):
        raise InputError(
            f"a {prediction} prediction does not tell the clean picture at alpha = 0 (sigma = {sigma:g}): "
            "start below the schedule's last level"
        )
    if prediction == "noise":
        return 1 / alpha, -sigma / alpha
    if prediction == "data":
        return 0.0, 1.0
    if prediction == "v":
        energy = alpha**2 + sigma**2
        return alpha / energy, -sigma / energy
    return (1.0, -sigma) if prediction == "flow" else (1 / alpha, sigma**2 / alpha)


def combined(x: Tensor, out: Tensor, weights: tuple[float, float]) -> Tensor:
    """``weights[0] * x + weights[1] * out``, in float32 or better.

    Args:
        x: State.
        out: The network's output, in the shape of ``x``.
        weights: Weights of ``x`` and ``out``.
    """
    of_state, of_output = weights
    wide = out.to(torch.promote_types(torch.promote_types(x.dtype, out.dtype), torch.float32))
    if of_state == 0:
        return wide if of_output == 1 else wide * of_output
    return (wide * of_output).add_(x, alpha=of_state)
