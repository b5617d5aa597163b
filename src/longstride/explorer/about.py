"""What a page says of a model: its facts, and what can be chosen."""

from __future__ import annotations

from longstride.zoo import Model

__all__ = ["can_be_guided", "facts_of", "labels_of"]

_FAMILIES = {"ve": "variance exploding", "vp": "variance preserving", "flow": "flow"}
#: More choices are not listed.
_MOST, _LONGEST = 1000, 48


def labels_of(model: Model) -> dict[int, str]:
    """Every class or prompt by its number; empty for a model without."""
    size = min(model.conditioning.size, _MOST)
    names = model.prompts or model.class_names
    found = {n: str(names[n]) if n < len(names) else str(n) for n in range(size)}
    return {n: text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…" for n, text in found.items()}


def can_be_guided(model: Model) -> bool:
    """Whether a guidance scale may be chosen."""
    return model.conditioning.guided


def facts_of(model: Model) -> str:
    """The model in a line."""
    shape = "×".join(map(str, model.shape))
    low, high = model.schedule.sigma_range
    levels = f"{_FAMILIES.get(model.schedule.family, model.schedule.family)}, σ from {high:.3g} to {low:.3g}"
    count = sum(p.numel() for p in model.network.parameters())
    size = f"{count / 1e6:.3g} M weights" if count >= 1e5 else f"{count:,} weights"
    choices = f"{model.conditioning.size} {model.conditioning.choices}" if model.conditioning.size else "unconditional"
    return " · ".join([f"{shape}{' latents' if model.decoder else ''}", size, levels, choices, str(model.device)])
