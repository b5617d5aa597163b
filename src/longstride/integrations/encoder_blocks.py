"""Blocks of modular pipelines that encode prompts and pictures: what they put into the state is remembered.

A modular pipeline has no methods that encode. Its text encoder returns the hidden states of all layers, and the logits
of a language model, of which a block keeps the embeddings alone. So blocks are remembered, and not what they call.
"""

from __future__ import annotations

from copy import copy
from typing import Any

from longstride.integrations.remembered import Remembered

__all__ = ["remember_encoders"]


def remember_encoders(mine: Any, remembered: Remembered) -> None:
    """Let a copy of a modular pipeline remember its blocks that encode; other pipelines have none.

    Args:
        mine: The copy.
        remembered: Results of encoders.
    """
    blocks = getattr(mine, "_blocks", None)
    parts = getattr(blocks, "sub_blocks", None)
    if not parts:
        return
    kept = {name: _Encoder(name, block, remembered) if "encoder" in name else block for name, block in parts.items()}
    mine.__dict__["_blocks"] = whole = copy(blocks)
    whole.__dict__["sub_blocks"] = type(parts)(kept)


class _Encoder:
    """A block that encodes, in the place of the block itself.

    Args:
        name: Name of the block.
        block: The block.
        remembered: Results of encoders.
    """

    def __init__(self, name: str, block: Any, remembered: Remembered) -> None:
        self._name, self._block, self._remembered = name, block, remembered

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._block, name)

    def __call__(self, pipeline: Any, state: Any) -> tuple[Any, Any]:
        names = {one.name for one in self._block.inputs} | set(getattr(self._block, "block_trigger_inputs", None) or ())
        given = {name: state.values.get(name) for name in sorted(names - {None})}

        def encoded(**given: Any) -> tuple[dict[str, Any], dict[str, list[str]]]:
            before, kinds = dict(state.values), {kind: set(names) for kind, names in state.kwargs_mapping.items()}
            self._block(pipeline, state)
            fresh = {name: value for name, value in state.values.items() if value is not before.get(name, _ABSENT)}
            return fresh, {
                kind: [name for name in names if name not in kinds.get(kind, ())]
                for kind, names in state.kwargs_mapping.items()
            }

        fresh, kinds = self._remembered.result(("block", self._name), encoded, (), given)
        state.values.update(fresh)
        for kind, names in kinds.items():
            known = state.kwargs_mapping.setdefault(kind, [])
            known += [name for name in names if name not in known]
        return pipeline, state


_ABSENT = object()
