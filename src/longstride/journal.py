"""A journal of finished work: work that was killed goes on after its last part, and ends in the same numbers.

Long work is cut into parts with names. ``journal(name, compute)`` returns the arrays of a part: from its file if the
part is finished, else from ``compute()``. A file is written whole or not at all, so that a kill costs one part. Values
are kept to the bit.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from longstride.errors import InputError
from longstride.files import write_atomically
from longstride.table import SolverTable

__all__ = ["Journal", "digest", "table_digest"]

Arrays = dict[str, NDArray[Any]]
_log = logging.getLogger(__name__)


class Journal:
    """Finished parts in a folder, or nowhere.

    Args:
        folder: The folder, made if missing. None: nothing is kept, and every part is computed.
        identity: Plain data that tell this work from other work. A folder that holds other work is refused.

    Raises:
        InputError: the folder belongs to other work, or cannot be written.
    """

    def __init__(self, folder: Path | None = None, identity: Mapping[str, Any] | None = None) -> None:
        self.folder = folder
        if folder is None:
            return
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"cannot make folder {folder}: {error.strerror or error}") from None
        wanted = json.loads(json.dumps(dict(identity or {}), default=str))
        file = folder / "identity.json"
        if not file.exists():
            write_atomically(file, (json.dumps(wanted, indent=1) + "\n").encode())
            return
        try:
            known = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            raise InputError(f"{file} is damaged: delete the folder {folder} to start afresh") from None
        if known != wanted:
            keys = sorted(k for k in {*known, *wanted} if known.get(k) != wanted.get(k))
            raise InputError(
                f"{folder} holds unfinished work with another {', '.join(keys)}: delete the folder to start afresh, "
                "or choose another one"
            )

    def __call__(self, name: str, compute: Callable[[], Mapping[str, NDArray[Any]]]) -> Arrays:
        """Arrays of the part ``name``, by their names."""
        kept = self.get(name)
        if kept is not None:
            return kept
        arrays = dict(compute())
        self.put(name, arrays)
        return arrays

    def get(self, name: str) -> Arrays | None:
        """Arrays of the part ``name``, or None if the part must be computed."""
        file = None if self.folder is None else self.folder / f"{name}.npz"
        if file is None or not file.exists():
            return None
        try:
            with np.load(io.BytesIO(file.read_bytes()), allow_pickle=False) as kept:
                return {key: kept[key] for key in kept.files}
        except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
            _log.warning("%s is damaged (%s); its part is computed again", file, error)
            return None

    def put(self, name: str, arrays: Arrays) -> None:
        """Keep the arrays of the part ``name``, whole or not at all."""
        if self.folder is None:
            return
        file, buffer = self.folder / f"{name}.npz", io.BytesIO()
        np.savez(buffer, allow_pickle=False, **arrays)
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, buffer.getvalue())

    def tensor(self, name: str, compute: Callable[[], Tensor], like: Tensor) -> Tensor:
        """The tensor of a part that gives one tensor, in the dtype and on the device of ``like``."""
        if self.folder is None:
            return compute()

        def as_array() -> Arrays:
            value = compute()  # bfloat16, which NumPy lacks, widens to float32 without loss
            wide = value if value.dtype == torch.float64 else value.float()
            return {"value": wide.cpu().numpy()}

        return torch.from_numpy(self(name, as_array)["value"]).to(like)

    def probe(self, value: Tensor) -> None:
        """Make sure that this network gave the finished parts.

        Args:
            value: Its output for a fixed input.

        Raises:
            InputError: the output differs from the kept output by more than another machine or number of threads
                explains.
        """
        if self.folder is None:
            return
        now = value.detach().double().cpu().numpy() if value.device.type != "mps" else value.cpu().double().numpy()
        then = self("probe", lambda: {"value": now})["value"]
        size = float(np.abs(then[np.isfinite(then)]).max(initial=0.0))  # a network may return NaN: that is told later
        same = then.shape == now.shape and np.allclose(then, now, rtol=1e-2, atol=1e-2 * size, equal_nan=True)
        if not same:
            raise InputError(
                f"{self.folder} holds unfinished work of another network, or of the same one with other conditions: "
                "delete the folder to start afresh, or choose another one"
            )

    def read(self, name: str) -> Arrays:
        """Arrays of the finished part ``name``.

        Raises:
            InputError: the file of the part is missing.
        """

        def missing() -> Arrays:
            raise InputError(f"{self.folder} has lost its part {name}: run the same command again")

        return self(name, missing)

    def discard(self, name: str) -> None:
        """Delete the part ``name``, if it is there."""
        if self.folder is not None:
            (self.folder / f"{name}.npz").unlink(missing_ok=True)


def digest(*values: object) -> str:
    """SHA-256, as hexadecimal digits, over the bytes of tensors and arrays, and other values as JSON."""
    found = hashlib.sha256()
    for value in values:
        if isinstance(value, Mapping):
            value = {str(key): digest(part) for key, part in sorted(value.items())}
        if isinstance(value, Tensor):
            wide = value.detach() if value.dtype == torch.float64 else value.detach().float()
            value = wide.cpu().contiguous().numpy()
        if isinstance(value, np.ndarray):
            found.update(f"{value.shape}{value.dtype}".encode())
            found.update(np.ascontiguousarray(value).tobytes())
        else:
            found.update(json.dumps(value, sort_keys=True, default=str).encode())
    return found.hexdigest()


def table_digest(table: SolverTable) -> str:
    """Digest of a table: of its levels and its normal form."""
    return digest(table.sigmas, table.alphas, table.a, table.b)
