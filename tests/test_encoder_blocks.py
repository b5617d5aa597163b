"""Blocks of modular pipelines that encode are computed once for the same inputs, and what they call is not kept."""

from __future__ import annotations

from copy import copy
from typing import Any

import torch
from diffusers.modular_pipelines import ModularPipelineBlocks, PipelineState, SequentialPipelineBlocks
from diffusers.modular_pipelines.modular_pipeline_utils import InputParam, OutputParam

from longstride.integrations.encoder_blocks import remember_encoders
from longstride.integrations.remembered import Remembered

FIELDS = "denoiser_input_fields"


class Encode(ModularPipelineBlocks):
    """Puts embeddings into the state, and notes every prompt that it encodes."""

    model_name = "tiny"
    encoded: list[Any] = []  # noqa: RUF012

    @property
    def inputs(self) -> list[InputParam]:
        return [InputParam("prompt"), InputParam("generator")]

    @property
    def intermediate_outputs(self) -> list[OutputParam]:
        return [OutputParam("prompt_embeds", kwargs_type=FIELDS)]

    def __call__(self, components: Any, state: PipelineState) -> tuple[Any, PipelineState]:
        block = self.get_block_state(state)
        self.encoded.append(block.prompt)
        block.prompt_embeds = torch.full((2,), float(len(block.prompt)))
        self.set_block_state(state, block)
        return components, state


class Use(ModularPipelineBlocks):
    """Writes into the embeddings, as a pipeline may."""

    model_name = "tiny"

    @property
    def inputs(self) -> list[InputParam]:
        return [InputParam("scale", default=2.0), InputParam(kwargs_type=FIELDS)]

    def __call__(self, components: Any, state: PipelineState) -> tuple[Any, PipelineState]:
        block = self.get_block_state(state)
        state.set("found", block.denoiser_input_fields["prompt_embeds"].mul_(block.scale))
        return components, state


def copy_of(pipeline: Any, remembered: Remembered) -> Any:
    mine = copy(pipeline)
    remember_encoders(mine, remembered)
    return mine


def test_a_prompt_is_encoded_once() -> None:
    pipeline = SequentialPipelineBlocks.from_blocks_dict({"text_encoder": Encode, "denoise": Use}).init_pipeline()
    remembered, Encode.encoded = Remembered(), []
    for prompt, scale in (("cat", 2.0), ("cat", 3.0), ("bird", 2.0), ("cat", 2.0)):
        state = copy_of(pipeline, remembered)(prompt=prompt, scale=scale)
        assert state.get("found").tolist() == [len(prompt) * scale] * 2
        assert state.kwargs_mapping == {FIELDS: ["prompt_embeds"]}
    assert Encode.encoded == ["cat", "bird"]
    pipeline(prompt="cat")  # the pipeline itself remembers nothing
    assert Encode.encoded == ["cat", "bird", "cat"]


def test_a_block_that_draws_is_not_remembered() -> None:
    pipeline = SequentialPipelineBlocks.from_blocks_dict({"text_encoder": Encode, "denoise": Use}).init_pipeline()
    remembered, Encode.encoded = Remembered(), []
    for _ in range(2):
        copy_of(pipeline, remembered)(prompt="cat", generator=torch.Generator().manual_seed(0))
    assert Encode.encoded == ["cat", "cat"]


def test_what_a_block_calls_is_not_kept() -> None:
    """The hidden states of a text encoder are many times larger than embeddings."""
    remembered, asked = Remembered(), []

    class Calls(Encode):
        def __call__(self, components: Any, state: PipelineState) -> tuple[Any, PipelineState]:
            remembered.result("text_encoder", asked.append, (state.get("prompt"),), {})
            return super().__call__(components, state)

    pipeline = SequentialPipelineBlocks.from_blocks_dict({"text_encoder": Calls, "denoise": Use}).init_pipeline()
    copy_of(pipeline, remembered)(prompt="cat")
    remembered.result("text_encoder", asked.append, ("cat",), {})
    assert asked == ["cat", "cat"]
