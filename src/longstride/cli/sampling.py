"""What ``longstride sample`` does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from longstride.book import CardBook, Unjudged, load_any
from longstride.calibration import solve_reference
from longstride.calibration.reference.solve import Errors, errors, in_batches
from longstride.card import Card
from longstride.errors import InputError
from longstride.evaluation.contestants import base_table
from longstride.evaluation.contestants import label as label_of
from longstride.evaluation.plots import comparison, picture_grid
from longstride.evaluation.seeds import seed_range
from longstride.files import check_writable
from longstride.sampler import sample
from longstride.zoo import load_model

__all__ = ["draw"]


def draw(
    *,
    model: str,
    out: Path,
    card_path: Path | None,
    solver: str,
    nfe: int | None,
    grid: str,
    num: int,
    label: int | None,
    guidance: float | None,
    compare: bool,
    any_model: bool,
    batch_size: int,
    seed: int,
    device: str,
) -> dict[str, Any]:
    """Draw ``num`` pictures and write them; see the options of ``longstride sample``.

    Returns:
        What was made: solver, nfe, seeds, files, errors where compared, and lines to print.
    """
    one_file = out.suffix.lower() == ".png"
    check_writable(out if one_file else out / "0000000.png", new_folders=True)
    card = None if card_path is None else _chosen(card_path, nfe, guidance)
    loaded = load_model(model, device=device)
    loaded.check_pictures()
    if card is not None:
        guidance = card.model.guidance if guidance is None else guidance
        if not any_model:
            card.check_model(loaded.info(guidance))
        table = card.table
    else:
        table = base_table(loaded.schedule, solver, nfe or 8, spacing=grid)
    seeds = seed_range("evaluation", seed, num)
    if label is not None:
        loaded.check_labels([label])
    labels = None if label is None else torch.full((num,), label)
    denoiser = loaded.denoiser(seeds, guidance, labels)
    noise, network = loaded.noise(seeds, table.sigmas[0]), in_batches(denoiser, batch_size)
    drawn = sample(network, noise, table)
    images = loaded.pictures(drawn)
    name = label_of(table.name)
    made: dict[str, Any] = {"solver": table.name, "nfe": table.nfe * denoiser.cost, "seeds": [seeds[0], seeds[-1]]}
    lines = [f"{num} pictures by {name}, {made['nfe']} network calls each"]
    if isinstance(card, Unjudged):
        made["note"] = card.note
        lines.insert(0, f"note: {card.note}")
    if compare:
        reference = solve_reference(denoiser, noise, table, batch_size=batch_size)
        rows = [*_base_rows(card, network, noise), (f"{name}\n{table.nfe} calls", drawn)]
        found = {label.split("\n")[0]: errors(shown, reference.samples) for label, shown in rows}
        rows.append((f"converged\n{reference.nfe} calls", reference.samples))
        rows = [(key, loaded.pictures(shown[:20])) for key, shown in rows]
        made["errors"] = {key: {"rmse": e.rmse, "median": e.median} for key, e in found.items()}
        lines += [_error_line(key, e) for key, e in found.items()]
        sheet = out if one_file else out / "comparison.png"
        _make_folder(sheet.parent)
        comparison(rows, sheet, title="Same network, same noise")
        made["files"] = [str(sheet)]
    elif one_file:
        _make_folder(out.parent)
        columns = loaded.num_classes if 0 < loaded.num_classes <= 20 else 10
        picture_grid(images, out, columns=min(columns, num), scale=max(1, 96 // images.shape[-1]))
        made["files"] = [str(out)]
    else:
        _make_folder(out)
        made["files"] = [str(out / f"{s:07d}.png") for s in seeds]
        for file, image in zip(made["files"], images, strict=True):
            picture_grid(image[None], Path(file), columns=1)
    made["lines"] = [*lines, f"written to {out}"]
    return made


def _chosen(path: Path, nfe: int | None, guidance: float | None) -> Card | Unjudged:
    """The card of a file, or the sampler that a book has for a setting.

    Raises:
        InputError: a book without a number of calls, or a card of another one.
    """
    loaded = load_any(path)
    if isinstance(loaded, CardBook):
        if nfe is None:
            raise InputError(f"{path} is a book of {loaded.contents}: say which with --nfe")
        return loaded.choose(nfe, guidance)
    if nfe not in (None, loaded.nfe):
        raise InputError(f"{path} is a card for {loaded.nfe} network calls, not {nfe}: drop --nfe, or take a book")
    return loaded


def _base_rows(card: Card | Unjudged | None, network: Any, noise: torch.Tensor) -> list[tuple[str, torch.Tensor]]:
    if card is None or card.table is card.base_table:
        return []
    base = card.base_table
    return [(f"{label_of(base.name)}\n{base.nfe} calls", sample(network, noise, base))]


def _error_line(name: str, found: Errors) -> str:
    return f"  {name:<16} RMSE {found.rmse:.4f}  median {found.median:.4f}  (distance to the converged solution)"


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make folder {folder}: {error.strerror or error}") from None
