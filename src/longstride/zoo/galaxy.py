r"""Score networks for telescope pictures, read from the package ``galaxygrad`` 0.2.1 without JAX.

The package states no licence, so nothing of it is shipped here: ``pip install --no-deps galaxygrad==0.2.1`` installs
it. Its weight files are found without an import, because an import needs JAX.

**Process.** Variance preserving with :math:`\int_0^t \beta = t` for t in (0, 10]: :math:`\alpha_t = e^{-t/2}`,
:math:`\sigma_t^2 = 1 - e^{-t}`. The network returns the score :math:`\nabla_x \log p_t(x_t)`, so it is wrapped as ::

    schedule = Schedule.vp_continuous(beta_min=1.0, beta_max=1.0, t_min=0.0025, t_max=10.0)
    denoiser = as_denoiser(load_galaxy("hsc32"), schedule, "score")

Pictures are on a logarithmic scale: a brightness y is seen as x = 10 log(1 + y). Below ``sigma = 0.05``, which is
t = 0.0025, the networks leave a part of the noise (roman120 below 0.2). So a sampler should stop there.

**Network.** An MLP-mixer (Tolstikhin et al., 2021) in the form of Equinox's public example of a score-based diffusion
model. With pictures of S x S pixels, P = (S/4)² patches and C = 64 channels:

==============================================================  ===============
step                                                            shape
==============================================================  ===============
picture, and t / t1 as a second channel                         (B, 2, S, S)
convolution of 4 x 4 patches, stride 4                          (B, C, P)
4 blocks: ``y += mix_patch(norm1(y))``, an MLP over P, then     (B, C, P)
``y += mix_hidden(norm2(y))`` of the transpose, an MLP over C   (B, P, C)
layer norm, transposed convolution of 4 x 4 patches, stride 4   (B, 1, S, S)
==============================================================  ===============

MLPs have one hidden layer of 512 and ReLU; layer norms run over the (C, P) plane, with a scale and shift per entry.

**Files.** 55 NumPy arrays one behind another: the parameters in the order in which :class:`GalaxyScoreNet` makes them,
then t1. Convolutions have biases of shape (channels, 1, 1). The kernel K of the transposed convolution, of shape (out,
in, 4, 4), is correlated with the stretched, zero-filled input. PyTorch scatters its W of shape (in, out, 4, 4) instead.
Pixel (a, b) of a patch meets :math:`K_{oi(3-a)(3-b)}` there and :math:`W_{ioab}` here, so these are equal.
"""

from __future__ import annotations

import math
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from longstride.errors import InputError, LongstrideError, unknown

__all__ = ["GALAXY_NETS", "GalaxyScoreNet", "load_galaxy", "read_network"]

#: Names of the networks and their files; the number is the side S of the picture. HSC, ZTF, LSST and Roman name the
#: surveys of the galaxies; ``quasar72`` knows lensed quasars. Two older files, ``LogNet``, have no reader there either.
GALAXY_NETS: dict[str, str] = {
    "hsc32": "eqx_hsc_ScoreNet32.eqx",
    "hsc64": "eqx_hsc_ScoreNet64.eqx",
    "ztf32": "eqx_ZTF_ScoreNet32.eqx",
    "ztf64": "eqx_ZTF_ScoreNet64.eqx",
    "lsst60": "eqx_lsst_ScoreNet60.eqx",
    "quasar72": "eqx_quasar_lens72.eqx",
    "roman120": "eqx_roman_Scorenet120.eqx",
}
#: The first 10 hexadecimal digits of the files' SHA-256 in version 0.2.1, in the order above.
_DIGESTS = ("cb926562fc", "4758114b1b", "60b29e6b9b", "806cb83de9", "93ef40f17a", "b1574b390d", "68a1d78410")
_INSTALL = "pip install --no-deps galaxygrad==0.2.1"
_CHANNELS, _PATCH, _WIDTH, _BLOCKS, _LEAVES = 64, 4, 512, 4, 55


def _mlp(size: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(size, _WIDTH), nn.ReLU(), nn.Linear(_WIDTH, size))


class _MixerBlock(nn.Module):
    """One mixer block, ``(B, C, P)`` to the same shape; its parameters are made in the order of the file."""

    def __init__(self, patches: int) -> None:
        super().__init__()
        self.mix_patch, self.mix_hidden = _mlp(patches), _mlp(_CHANNELS)
        self.norm1, self.norm2 = nn.LayerNorm((_CHANNELS, patches)), nn.LayerNorm((patches, _CHANNELS))

    def forward(self, y: Tensor) -> Tensor:
        y = (y + self.mix_patch(self.norm1(y))).transpose(1, 2)
        y = y + self.mix_hidden(self.norm2(y))
        return y.transpose(1, 2)


class GalaxyScoreNet(nn.Module):
    """The mixer of this module; its weights are random until :func:`load_galaxy` fills them.

    Args:
        size: Side S of the picture in pixels, a multiple of 4.
        t1: Greatest time; times are divided by it.

    Attributes:
        shape: Shape ``(1, S, S)`` of one sample.

    Raises:
        InputError: ``size`` is not a positive multiple of 4.

    References:
        Tolstikhin et al., 2021 (MLP-Mixer); the package ``galaxygrad`` 0.2.1.
    """

    def __init__(self, size: int, t1: float = 10.0) -> None:
        super().__init__()
        if size < _PATCH or size % _PATCH:
            raise InputError(f"size must be a positive multiple of {_PATCH}, got {size}")
        self.shape, self.t1 = (1, size, size), t1
        patches = (size // _PATCH) ** 2
        self.conv_in = nn.Conv2d(2, _CHANNELS, _PATCH, stride=_PATCH)
        self.conv_out = nn.ConvTranspose2d(_CHANNELS, 1, _PATCH, stride=_PATCH)
        self.blocks = nn.Sequential(*(_MixerBlock(patches) for _ in range(_BLOCKS)))
        self.norm = nn.LayerNorm((_CHANNELS, patches))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """Score of ``x`` at times ``t``, in the shape of ``x``.

        Args:
            x: Noisy pictures on the network's own scale, ``(B, 1, S, S)``, in the dtype of the weights.
            t: Times, ``(B,)``, between 0 and ``t1``.

        Raises:
            InputError: the shape of ``x`` or ``t`` differs.
        """
        if x.shape[1:] != self.shape or t.shape != x.shape[:1]:
            expected = f"x of shape (B, {', '.join(map(str, self.shape))}) and t of shape (B,)"
            raise InputError(f"expected {expected}, got {tuple(x.shape)} and {tuple(t.shape)}")
        time = (t / self.t1).to(x.dtype).view(-1, 1, 1, 1).expand_as(x)
        y: Tensor = self.conv_in(torch.cat([x, time], dim=1))
        y = self.norm(self.blocks(y.flatten(2))).reshape(y.shape)
        return cast(Tensor, self.conv_out(y))


def load_galaxy(name: str = "hsc32") -> GalaxyScoreNet:
    """A network of the installed package ``galaxygrad`` 0.2.1, on the CPU in float32, frozen and in evaluation mode.

    Args:
        name: One of :data:`GALAXY_NETS`.

    Raises:
        InputError: the name is unknown, or the file is damaged or not of version 0.2.1.
        LongstrideError: the package is not installed; the message says how to install it.
    """
    if name not in GALAXY_NETS:
        raise unknown("galaxy network", name, GALAXY_NETS)
    spec = find_spec("galaxygrad")
    paths = [Path(folder, GALAXY_NETS[name]) for folder in (spec and spec.submodule_search_locations) or ()]
    path = next((path for path in paths if path.is_file()), None)
    if path is None:
        raise LongstrideError(f"network {name!r} needs the package galaxygrad, without JAX: run {_INSTALL}")
    net = read_network(path)
    if sha256(path.read_bytes()).hexdigest()[:10] != _DIGESTS[list(GALAXY_NETS).index(name)]:
        raise _damaged(path, "its SHA-256 is another one")
    return net


def _damaged(path: Path, what: str) -> InputError:
    return InputError(f"{path} is damaged or not from galaxygrad 0.2.1: {what}; run {_INSTALL} --force-reinstall")


def _leaves(path: Path) -> list[NDArray[np.generic]]:
    """The arrays of a file; :class:`InputError` unless there are exactly 55, of finite numbers."""
    leaves: list[NDArray[np.generic]] = []
    with path.open("rb") as handle:
        while len(leaves) < _LEAVES:
            try:
                leaves.append(np.lib.format.read_array(handle, allow_pickle=False))
            except Exception as error:  # a damaged header can raise nearly anything
                raise _damaged(path, f"array {len(leaves) + 1} of {_LEAVES} cannot be read ({error})") from error
        if handle.read(1):
            raise _damaged(path, f"it holds more than {_LEAVES} arrays")
    if not all(np.issubdtype(leaf.dtype, np.floating) and np.isfinite(leaf).all() for leaf in leaves):
        raise _damaged(path, "it holds values that are not finite numbers")
    return leaves


def read_network(path: Path) -> GalaxyScoreNet:
    """The network in one file of the package, frozen and in evaluation mode.

    Args:
        path: The file.

    Raises:
        InputError: the file is damaged, or its arrays do not fit the network.
    """
    *leaves, t1 = _leaves(path)
    patches = leaves[4].shape[1] if leaves[4].ndim == 2 and len(leaves[4]) == _WIDTH else 0
    side = math.isqrt(patches)
    if t1.shape != () or float(t1) <= 0 or side == 0 or side**2 != patches:
        raise _damaged(path, f"array 5, of an MLP, has shape {leaves[4].shape}, and t1 is {t1}")
    with torch.device("meta"):  # no random weights are drawn
        net = GalaxyScoreNet(_PATCH * side, float(t1))
    state = {}
    for leaf, (name, parameter) in zip(leaves, net.named_parameters(), strict=True):
        value = leaf
        if name == "conv_out.weight" and leaf.ndim == 4:
            value = leaf.swapaxes(0, 1)[:, :, ::-1, ::-1]
        elif name in ("conv_in.bias", "conv_out.bias") and leaf.shape[1:] == (1, 1):
            value = leaf[:, 0, 0]
        if value.shape != parameter.shape:
            raise _damaged(path, f"{name} has shape {leaf.shape}")
        state[name] = torch.from_numpy(np.array(value, np.float32, order="C"))
    net.load_state_dict(state, assign=True)
    return net.requires_grad_(False).eval()
