"""What a network is told besides the state and its time: nothing, a class, or (in ``text.py``) a prompt.

A conditioning offers numbered choices: its classes or prompts. Seeds go through the choices in turn.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

__all__ = ["ClassLabels", "Conditioning", "Unconditional"]


class Conditioning(ABC):
    """Numbered choices, and the arguments that tell them to the network.

    Attributes:
        choices: What the choices are called in messages, such as ``"classes"``.
    """

    choices: ClassVar[str]

    @property
    @abstractmethod
    def size(self) -> int:
        """Number of choices; 0 if the network is told nothing."""

    @property
    @abstractmethod
    def guided(self) -> bool:
        """Whether the network has an unconditional call, which guidance needs."""

    @abstractmethod
    def condition(self, chosen: Tensor) -> Mapping[str, Tensor]:
        """Keyword arguments of the network for choices ``(B,)``: each has shape ``(B, *)``, on the choices' device."""

    @abstractmethod
    def uncondition(self, device: torch.device) -> Mapping[str, Tensor]:
        """Keyword arguments of the unconditional call, each of shape ``(1, *)``; only if ``guided``."""


@dataclass(frozen=True)
class Unconditional(Conditioning):
    """The network is told nothing."""

    choices = "classes"
    size = 0
    guided = False

    def condition(self, chosen: Tensor) -> Mapping[str, Tensor]:
        return {}

    def uncondition(self, device: torch.device) -> Mapping[str, Tensor]:
        return {}


@dataclass(frozen=True)
class ClassLabels(Conditioning):
    """Whole-numbered labels, told as ``class_labels`` of shape ``(B,)``.

    Attributes:
        count: Number of classes.
        null_class: Label of the unconditional prediction, or None.
        names: Names of the classes, or empty.
    """

    count: int
    null_class: int | None = None
    names: tuple[str, ...] = ()
    choices = "classes"

    @property
    def size(self) -> int:
        return self.count

    @property
    def guided(self) -> bool:
        return self.null_class is not None

    def condition(self, chosen: Tensor) -> Mapping[str, Tensor]:
        return {"class_labels": chosen}

    def uncondition(self, device: torch.device) -> Mapping[str, Tensor]:
        return {"class_labels": torch.tensor([self.null_class], device=device)}
