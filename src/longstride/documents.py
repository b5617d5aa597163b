"""Cards and books as files: JSON with a format, a version and a checksum, validated when read, never pickled."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from longstride.card_parts import Part
from longstride.errors import CardError, InputError
from longstride.files import write_atomically

__all__ = ["Document", "checksum", "downloaded", "located", "parse", "read_json", "written"]

AnyDocument = TypeVar("AnyDocument", bound="Document")

#: No card or book is larger, in bytes, or nested deeper; what is, is refused before it costs memory or time.
_LARGEST, _DEEPEST = 16 << 20, 32


def checksum(content: Mapping[str, Any]) -> str:
    """SHA-256 of the content as canonical JSON: keys sorted, no spaces."""
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return "sha256:" + hashlib.sha256(canonical.encode()).hexdigest()


def written(content: Mapping[str, Any]) -> bytes:
    """Content of a file, its checksum included, as the bytes of the file."""
    return (json.dumps(dict(content), indent=1, allow_nan=False) + "\n").encode()


class Document(Part):
    """A part with a file of its own, which can be written, and uploaded to the hub."""

    def dumps(self) -> str:
        """The document as JSON text, checksum included."""
        content = self.model_dump(mode="json")
        return written({**content, "checksum": checksum(content)}).decode()

    def save(self, path: str | Path) -> None:
        """Write the document, whole or not at all; an existing file is replaced.

        Raises:
            InputError: the path cannot be written.
        """
        write_atomically(Path(path), self.dumps().encode())

    def push_to_hub(self, repo_id: str, filename: str, **options: Any) -> str:
        """Upload the document to a repository of the Hugging Face hub, which is made if it is missing.

        Args:
            repo_id: ``"user/repo"``.
            filename: Name of the file there.
            **options: ``token=`` and ``endpoint=`` of ``huggingface_hub.HfApi``, ``private=`` of its ``create_repo``,
                and options of its ``upload_file``.

        Returns:
            Address of the commit.

        Raises:
            InputError: the hub refuses the document, or cannot be reached.
        """
        from huggingface_hub import HfApi

        api = HfApi(**{key: options.pop(key) for key in ("endpoint", "token") if key in options})
        try:
            api.create_repo(repo_id, exist_ok=True, private=options.pop("private", None))
            made = api.upload_file(
                path_or_fileobj=self.dumps().encode(), path_in_repo=filename, repo_id=repo_id, **options
            )
        except Exception as error:
            reason = str(error).strip().partition("\n")[0]
            raise InputError(f"cannot upload to {repo_id!r} ({type(error).__name__}: {reason})") from None
        return str(made.commit_url)


def located(path: str | Path, filename: str, **options: Any) -> Path:
    """Path of a local file, or of the local copy of a file on the hub.

    Args:
        path: A local path, ``"user/repo"``, or ``"user/repo/name.json"``.
        filename: Name of the file in a repository, if ``path`` has none.
        **options: Options of ``hf_hub_download``.

    Raises:
        CardError: the file cannot be downloaded.
    """
    name, parts = str(path), str(path).split("/")
    is_repository = isinstance(path, str) and 2 <= len(parts) <= 3 and all(parts) and not name.startswith((".", "~"))
    if Path(path).exists() or not is_repository or (len(parts) == 2 and name.endswith(".json")):
        return Path(path)
    return downloaded("/".join(parts[:2]), parts[2] if len(parts) == 3 else filename, **options)


def downloaded(repo_id: str, filename: str, **options: Any) -> Path:
    """Path of the local copy of a file on the hub.

    Args:
        repo_id: ``"user/repo"``.
        filename: Path of the file in the repository.
        **options: Options of ``hf_hub_download``.

    Raises:
        CardError: the file cannot be downloaded.
    """
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(repo_id, filename, **options))
    except Exception as error:
        reason = str(error).strip().partition("\n")[0]
        raise CardError(
            f"there is no file {repo_id}/{filename}, and no such card on the hub ({type(error).__name__}: {reason})"
        ) from None


def _refuse(number: str) -> float:
    raise ValueError(f"{number} is no finite number")


def _finite(number: str) -> float:
    return value if math.isfinite(value := float(number)) else _refuse(number)


def _unrepeated(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON. Of two entries with one name, people and programs may read different ones."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"two entries have the name {max(names, key=names.count)!r}")
    return found


def _check_depth(raw: Any) -> None:
    layer: list[Any] = [[raw]]
    for _ in range(_DEEPEST + 1):
        parts = (part.values() if isinstance(part, dict) else part for part in layer)
        layer = [inner for part in parts for inner in part if isinstance(inner, (dict, list))]
        if not layer:
            return
    raise ValueError(f"it is nested more than {_DEEPEST} levels deep")


def read_json(path: str | Path, kind: str = "card") -> Any:
    """JSON of a file, without infinities, NaN or repeated names.

    Args:
        path: The file.
        kind: ``"card"``, ``"book"`` or ``"history"``, for messages.

    Raises:
        CardError: missing, cut short, damaged, larger than 16 MiB, or nested too deeply.
    """
    file = Path(path)
    try:
        with file.open("rb") as opened:
            content = opened.read(_LARGEST + 1)
    except (OSError, ValueError) as error:  # a ValueError of a path that holds a NUL
        raise CardError(f"cannot read {kind} {file}: {getattr(error, 'strerror', None) or error}") from None
    if len(content) > _LARGEST:
        raise CardError(f"{file} is larger than {_LARGEST >> 20} MiB: it is no {kind}")
    try:
        text = content.decode("utf-8")
        raw = json.loads(text, parse_constant=_refuse, parse_float=_finite, object_pairs_hook=_unrepeated)
        _check_depth(raw)
        if "\\ud" in text.lower():  # half of a pair, which no file could hold again
            json.dumps(raw, ensure_ascii=False).encode("utf-8")
    except (ValueError, RecursionError) as error:
        raise CardError(f"{file} is not complete JSON (cut short or damaged: {error}): calibrate again") from None
    return raw


def parse(raw: Any, path: str | Path, model: type[AnyDocument], kind: str, version: int) -> AnyDocument:
    """The document in the JSON of a file.

    Args:
        raw: The JSON, as :func:`read_json` returns it.
        path: The file, for messages.
        model: Class of the document.
        kind: ``"card"``, ``"book"`` or ``"history"``; its format is ``longstride-card`` and so on.
        version: The newest version that can be read.

    Raises:
        CardError: of another kind, edited, written by a newer longstride, or not valid; the message says which.
    """
    file, name = Path(path), f"longstride-{kind}"
    if not isinstance(raw, dict) or raw.get("format") != name:
        raise CardError(f'{file} is no longstride {kind}: expected JSON with "format": "{name}"')
    found = raw.get("version")
    if isinstance(found, int | float) and found > version:
        raise CardError(f"{file} has {kind} version {found}, this longstride reads up to {version}: upgrade longstride")
    content = {key: value for key, value in raw.items() if key != "checksum"}
    try:
        document = model.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
        raise CardError(f"{file} is not a valid {kind}: {where}: {first['msg']}{more}") from None
    if raw.get("checksum") != checksum(content):
        raise CardError(f"{file} was edited or damaged: its checksum does not match; calibrate again")
    return document
