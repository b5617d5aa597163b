"""Fashion-MNIST from the Debian package ``dataset-fashion-mnist`` (MIT licence), verified by checksum.

The four idx files are looked for in ``--data`` first, then where the package installs them. Where
neither holds them, the package is fetched with ``apt-get download`` and unpacked; no root is needed.
"""

from __future__ import annotations

import gzip
import hashlib
import subprocess
from pathlib import Path

import numpy as np

FILES = {
    "train-images-idx3-ubyte.gz": "b0564c3eedabfbf835052cff8503ea422014ce006caf5b757f851416ee8300c7",
    "train-labels-idx1-ubyte.gz": "0ae29f65d86684f32d1b9c85147786c547b9c6aebcaf235f0400a0cce308b056",
    "t10k-images-idx3-ubyte.gz": "cc1d090a38ace84dfa1aa66e3ada7c336ef481a96936906477e6dd344da56eaa",
    "t10k-labels-idx1-ubyte.gz": "8d3605d196f4be44669e46906da9733c8131fef761fdbfec72c424d5222f1a05",
}
INSTALLED = Path("/usr/share/datasets/fashion-mnist")
CLASSES = ("T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")


def locate(data: Path) -> Path:
    """Folder that holds the idx files: ``data``, the installed package, or a fresh download under ``data``."""
    for folder in (data, data / INSTALLED.relative_to("/"), INSTALLED):
        if all((folder / name).is_file() for name in FILES):
            return folder
    data.mkdir(parents=True, exist_ok=True)
    subprocess.run(["apt-get", "download", "dataset-fashion-mnist"], cwd=data, check=True)
    (package,) = data.glob("dataset-fashion-mnist_*.deb")
    subprocess.run(["dpkg", "-x", package.name, "."], cwd=data, check=True)
    return data / INSTALLED.relative_to("/")


def read_idx(path: Path) -> np.ndarray:
    """One gzipped idx file of unsigned bytes, after its checksum was compared with the known one."""
    raw = path.read_bytes()
    if (found := hashlib.sha256(raw).hexdigest()) != FILES[path.name]:
        raise ValueError(f"{path}: sha256 is {found}, expected {FILES[path.name]}; delete the file and run again")
    content = gzip.decompress(raw)
    dims = content[3]
    shape = np.frombuffer(content, ">u4", count=dims, offset=4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * dims).reshape(shape)


def load(data: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Images ``(N, 28, 28)`` and labels ``(N,)``, both uint8, of ``split`` ``"train"`` or ``"t10k"``."""
    folder = locate(data)
    return read_idx(folder / f"{split}-images-idx3-ubyte.gz"), read_idx(folder / f"{split}-labels-idx1-ubyte.gz")
