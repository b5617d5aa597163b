"""What ``longstride sample`` is asked to draw."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from longstride.files import check_writable

__all__ = ["Drawing"]


@dataclass(frozen=True)
class Drawing:
    """What is to be drawn; see the options of ``longstride sample``."""

    model: str
    out: Path
    card: Path | None
    solver: str
    nfe: int | None
    grid: str
    num: int
    label: int | None
    guidance: float | None
    compare: bool
    any_model: bool
    batch_size: int
    seed: int
    device: str

    @property
    def one_file(self) -> bool:
        """Whether all pictures go into one file."""
        return self.out.suffix.lower() == ".png"

    def check_out(self) -> None:
        """Refuse a place that cannot be written.

        Raises:
            InputError: the file or the folder cannot be made.
        """
        check_writable(self.out if self.one_file else self.out / "0000000.png", new_folders=True)
