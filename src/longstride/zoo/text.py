"""Prompts as conditioning, with the tokens and the text encoder of Stable Diffusion 1 and 2."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from longstride.errors import InputError
from longstride.zoo.conditioning import Conditioning

__all__ = ["DEFAULT_PROMPTS", "Prompts", "TextEncoder", "as_prompts"]

#: The prompts if none are given: plain subjects, so that a calibration sees different pictures.
DEFAULT_PROMPTS = (
    "a photo of a red apple on a wooden table",
    "a lighthouse on a rocky coast at sunset",
    "a bowl of soup with bread beside it",
    "a narrow street in an old town after rain",
    "a portrait of an old man with a hat",
    "a brown dog running through shallow water",
    "a mountain lake with a small boat",
    "a vase of yellow flowers by a window",
    "a steam train crossing a stone bridge",
    "a cup of coffee next to an open book",
    "a field of wheat under a cloudy sky",
    "a black cat asleep on a sofa",
    "a modern kitchen with large windows",
    "an oil painting of ships in a harbour",
    "a pencil drawing of a bicycle",
    "a snowy forest in the morning",
)
#: Most texts per call of the encoder.
_BATCH = 16


class TextEncoder:
    """Texts as embeddings; every text is encoded once.

    Args:
        tokenizer: A tokenizer of transformers.
        network: A text model of transformers; its first output, of shape ``(B, L, C)``, is the embedding.
    """

    def __init__(self, tokenizer: Any, network: Any) -> None:
        self.tokenizer, self.network = tokenizer, network
        self._known: dict[str, Tensor] = {}

    @torch.no_grad()
    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Embeddings ``(len(texts), L, C)`` of texts, padded to the encoder's full length L.

        Raises:
            InputError: a text has more tokens than the encoder reads.
        """
        new = [text for text in dict.fromkeys(texts) if text not in self._known]
        for start in range(0, len(new), _BATCH):
            part = new[start : start + _BATCH]
            self._known.update(zip(part, self._encode(part), strict=True))
        return torch.stack([self._known[text] for text in texts])

    def _encode(self, texts: list[str]) -> Tensor:
        limit = int(self.tokenizer.model_max_length)
        limit = min(limit, int(getattr(self.network.config, "max_position_embeddings", limit)))
        for text, tokens in zip(texts, self.tokenizer(texts, padding=False)["input_ids"], strict=True):
            if len(tokens) > limit:
                raise InputError(f"the prompt {text[:40]!r}… has {len(tokens)} tokens, the encoder reads {limit}")
        told = self.tokenizer(texts, padding="max_length", max_length=limit, return_tensors="pt")
        ids, mask = (told[name].to(self.network.device) for name in ("input_ids", "attention_mask"))
        # Stable Diffusion was trained without the mask: the padding is read like words.
        use_mask = bool(getattr(self.network.config, "use_attention_mask", False))
        embedded: Tensor = self.network(ids, attention_mask=mask if use_mask else None)[0]
        return embedded


@dataclass(frozen=True, eq=False)
class Prompts(Conditioning):
    """Prompts, told as ``encoder_hidden_states`` of shape ``(B, L, C)``.

    Attributes:
        encoder: Turns texts into embeddings.
        prompts: The choices.
        negative: Prompt of the unconditional call of guidance.
    """

    encoder: TextEncoder
    prompts: tuple[str, ...] = DEFAULT_PROMPTS
    negative: str = ""
    choices = "prompts"
    guided = True

    @property
    def size(self) -> int:
        return len(self.prompts)

    def condition(self, chosen: Tensor) -> Mapping[str, Tensor]:
        return {"encoder_hidden_states": self.encoder([self.prompts[n] for n in chosen.tolist()])}

    def uncondition(self, device: torch.device) -> Mapping[str, Tensor]:
        return {"encoder_hidden_states": self.encoder([self.negative]).to(device)}


def as_prompts(prompts: Iterable[str] | None) -> tuple[str, ...]:
    """A checked tuple of prompts; None stands for the default ones.

    Raises:
        InputError: there are no prompts, a string stands in place of the list, or a prompt is no string.
    """
    if prompts is None:
        return DEFAULT_PROMPTS
    if isinstance(prompts, str):
        raise InputError(f'prompts must be a list of texts: ["{prompts}"]')
    given = tuple(prompts)
    if not given or not all(isinstance(prompt, str) for prompt in given):
        raise InputError(f"prompts must be a list of at least one text, got {list(given)!r}")
    return given
