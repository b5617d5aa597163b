"""Tokenizers, processors and text encoders that are made on the spot, in place of the hub's.

A tokenizer of single letters or bytes serves: what matters is that other prompts become other embeddings.
"""

from __future__ import annotations

import string
from collections.abc import Callable, Mapping
from typing import Any

import torch
import transformers
from tokenizers.pre_tokenizers import ByteLevel
from transformers.feature_extraction_utils import BatchFeature

__all__ = ["ENCODERS", "IMAGE_TOKEN", "PROCESSORS", "Processor", "tokenizer"]

_LETTERS = list(string.ascii_lowercase)
_MARKS = list(string.ascii_letters + string.digits + ".,:;!?'-\"<>|\n_")
_SPACE = "\u2581"
_BYTES = sorted(ByteLevel.alphabet())
_QWEN_MARKS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
    "<think>",
    "</think>",
)
#: Number of the token that stands for a patch of a picture in prompts of Qwen's tokenizer.
IMAGE_TOKEN = len(_BYTES) + _QWEN_MARKS.index("<|image_pad|>")
#: Patches of a picture, and numbers per patch, in Qwen's vision towers.
_GRID, _MERGE, _PATCH = (1, 4, 4), 2, 3 * 2 * 14 * 14
_CHAT = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
    "{% if m['content'] is string %}{{ m['content'] }}{% else %}{% for c in m['content'] %}"
    "{% if c['type'] == 'image' or 'image' in c %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif 'text' in c %}{{ c['text'] }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def _numbered(tokens: list[str]) -> dict[str, int]:
    return {token: n for n, token in enumerate(tokens)}


def _clip() -> Any:
    start, pad, end = "<|startoftext|>", "<|pad|>", "<|endoftext|>"
    vocabulary = _numbered([start, pad, end, *_LETTERS, *(letter + "</w>" for letter in _LETTERS)])
    special = {"unk_token": end, "pad_token": end, "eos_token": end, "bos_token": start}
    return transformers.CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=77, **special)


def _t5() -> Any:
    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -2.0), (_SPACE, -2.0)]
    pieces = [*special, *((mark, -3.0) for mark in string.ascii_letters + string.digits + ".,:;!?'-\"")]
    return transformers.T5Tokenizer(vocab=pieces, extra_ids=20, model_max_length=512)


def _qwen() -> Any:
    made = transformers.Qwen2Tokenizer(
        vocab=_numbered([*_BYTES, *_QWEN_MARKS]),
        merges=[],
        model_max_length=4096,
        additional_special_tokens=list(_QWEN_MARKS[1:]),
    )
    made.chat_template = _CHAT
    return made


def _gemma() -> Any:
    vocabulary = _numbered(["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", _SPACE, *_MARKS])
    made: Any = transformers.GemmaTokenizer(vocab=vocabulary, merges=[], model_max_length=512)
    made.padding_side, made.chat_template, made.add_bos_token = "right", _CHAT, True
    return made


def _llama(kind: Any = transformers.LlamaTokenizer) -> Any:
    vocabulary = _numbered(["<unk>", "<s>", "</s>", "<pad>", _SPACE, *_MARKS])
    made: Any = kind(vocab=vocabulary, merges=[], model_max_length=512)
    made.pad_token, made.chat_template, made.add_bos_token = "<pad>", _CHAT, True
    return made


class _ChatTokenizer(transformers.LlamaTokenizer):
    """A tokenizer that tells the places of tokens, too, as ChatGLM's does."""

    def __call__(self, *args: Any, **settings: Any) -> Any:
        found = super().__call__(*args, **settings)
        found["position_ids"] = torch.arange(found["input_ids"].shape[1]).expand_as(found["input_ids"])
        return found


def _bert() -> Any:
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocabulary = _numbered([*special, *_LETTERS, *("##" + letter for letter in _LETTERS)])
    return transformers.BertTokenizer(vocab=vocabulary, model_max_length=512)


def _roberta() -> Any:
    vocabulary = _numbered(["<s>", "<pad>", "</s>", "<unk>", "<mask>", *_BYTES])
    return transformers.RobertaTokenizer(vocab=vocabulary, merges=[], model_max_length=77)


#: Makers of tokenizers, by what is in the name that the hub has for the tokenizer. The first that fits is taken.
_TOKENIZERS: Mapping[str, Callable[[], Any]] = {
    "chatglm": lambda: _llama(_ChatTokenizer),
    "cosmos3": _qwen,
    "t5": _t5,
    "roberta": _roberta,
    "qwen": _qwen,
    "gemma": _gemma,
    "llama": _llama,
    "hunyaun": _llama,
    "glm": _llama,
    "bert": _bert,
    "clip": _clip,
}


def tokenizer(name: str, subfolder: str = "") -> Any:
    """A tokenizer of the kind that the hub has under a name.

    Args:
        name: Name of a model of the hub.
        subfolder: Folder in the model.

    Raises:
        OSError: there is no stand-in for the name, as the hub itself says of a name that it does not know.
    """
    wanted = f"{name}/{subfolder}".lower()
    if "hunyaun" in wanted and "tokenizer_2" in wanted:
        return _clip()
    for hint, make in _TOKENIZERS.items():
        if hint in wanted:
            return make()
    raise OSError(f"no stand-in for the tokenizer {name}")


class Processor:
    """Qwen-VL's processor: text and pictures become tokens and patches; the patches of a picture are fixed noise."""

    merge_size = _MERGE
    image_token_id = IMAGE_TOKEN

    def __init__(self) -> None:
        self.tokenizer = _qwen()
        self.image_processor = self

    def decode(self, *args: Any, **settings: Any) -> str:
        """Text of tokens."""
        return str(self.tokenizer.decode(*args, **settings))

    def batch_decode(self, *args: Any, **settings: Any) -> list[str]:
        """Texts of rows of tokens."""
        return list(self.tokenizer.batch_decode(*args, **settings))

    def apply_chat_template(self, *args: Any, **settings: Any) -> Any:
        """A dialogue, or several, as text or as tokens."""
        return self.tokenizer.apply_chat_template(*args, **{"tokenize": False, **settings})

    def __call__(
        self, text: Any = None, images: Any = None, padding: Any = True, return_tensors: str = "pt", **settings: Any
    ) -> BatchFeature:
        texts = [text] if isinstance(text, str) else list(text)
        tokens = (_GRID[1] // _MERGE) * (_GRID[2] // _MERGE)
        pictures = sum(one.count("<|image_pad|>") for one in texts)
        told = self.tokenizer(
            [one.replace("<|image_pad|>", "<|image_pad|>" * tokens) for one in texts],
            padding=padding,
            return_tensors=return_tensors,
        )
        found = {"input_ids": told["input_ids"], "attention_mask": told["attention_mask"]}
        found["mm_token_type_ids"] = (found["input_ids"] == IMAGE_TOKEN).long()
        if pictures:
            generator = torch.Generator().manual_seed(0)
            patches = pictures * _GRID[0] * _GRID[1] * _GRID[2]
            found["pixel_values"] = torch.randn(patches, _PATCH, generator=generator)
            found["image_grid_thw"] = torch.tensor([_GRID] * pictures)
        return BatchFeature(found)


def _seeded(kind: Any, config: Any) -> Any:
    torch.manual_seed(0)
    return kind(config).eval()


def t5_config() -> Any:
    """A T5 of three narrow layers."""
    sizes: dict[str, Any] = {"vocab_size": 1103, "d_model": 32, "d_kv": 8, "d_ff": 37, "num_layers": 3, "num_heads": 4}
    kind: Any = transformers.T5Config
    return kind(**sizes, dropout_rate=0.0, decoder_start_token_id=0)


_T5: dict[str, Any] = {
    "vocab_size": 1103,
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 37,
    "num_layers": 2,
    "num_heads": 4,
    "dropout_rate": 0.0,
}
_LAYERS: dict[str, Any] = {"num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 37}
_WORDS: dict[str, Any] = {"vocab_size": 400, "hidden_size": 16, "num_key_value_heads": 2, **_LAYERS}
_MARKED: dict[str, Any] = {
    "image_token_id": IMAGE_TOKEN,
    "vision_start_token_id": IMAGE_TOKEN - 2,
    "vision_end_token_id": IMAGE_TOKEN - 1,
}


def _gemma3() -> Any:
    sight: dict[str, Any] = {"hidden_size": 8, "image_size": 8, "patch_size": 4, **_LAYERS}
    config = transformers.Gemma3Config(
        text_config={**_WORDS, "hidden_size": 32, "head_dim": 4}, vision_config=sight, mm_tokens_per_image=4
    )
    return _seeded(transformers.Gemma3ForConditionalGeneration, config)


def _qwen2_vl() -> Any:
    rope: dict[str, Any] = {"type": "default", "rope_type": "default", "mrope_section": [1, 1, 0], "rope_theta": 1e6}
    sight: dict[str, Any] = {"depth": 2, "embed_dim": 16, "hidden_size": 16, "num_heads": 2, "patch_size": 14}
    config = transformers.Qwen2VLConfig(
        text_config={**_WORDS, "rope_parameters": rope}, vision_config=sight, tie_word_embeddings=False, **_MARKED
    )
    return _seeded(transformers.Qwen2VLForConditionalGeneration, config)


def _qwen3_vl() -> Any:
    rope: dict[str, Any] = {
        "rope_type": "default",
        "mrope_section": [1, 1, 0],
        "mrope_interleaved": True,
        "rope_theta": 1e6,
    }
    words: dict[str, Any] = {**_WORDS, "head_dim": 4, "rope_parameters": rope}
    sight: dict[str, Any] = {
        "depth": 2,
        "hidden_size": 16,
        "out_hidden_size": 16,
        "num_heads": 2,
        "intermediate_size": 16,
    }
    sight |= {"patch_size": 14, "num_position_embeddings": 16, "deepstack_visual_indexes": [0]}
    config = transformers.Qwen3VLConfig(text_config=words, vision_config=sight, **_MARKED)
    return _seeded(transformers.Qwen3VLForConditionalGeneration, config)


def _chat_glm() -> Any:
    from diffusers.pipelines.kolors import ChatGLMModel
    from diffusers.pipelines.kolors.text_encoder import ChatGLMConfig

    sizes: dict[str, Any] = {
        "num_layers": 2,
        "padded_vocab_size": 400,
        "hidden_size": 8,
        "ffn_hidden_size": 16,
        "kv_channels": 4,
    }
    made = _seeded(ChatGLMModel, ChatGLMConfig(num_attention_heads=2, seq_length=256, original_rope=True, **sizes))
    for weight in made.parameters():  # the class leaves them as the memory was
        torch.nn.init.normal_(weight, std=0.02)
    return made


def _siglip() -> Any:
    sizes: dict[str, Any] = {"hidden_size": 32, "image_size": 30, "patch_size": 10, **_LAYERS}
    return _seeded(transformers.SiglipVisionModel, transformers.SiglipVisionConfig(**sizes))


#: Models in place of the hub's, by the class that is asked for them.
ENCODERS: Mapping[str, Callable[[], Any]] = {
    "T5EncoderModel": lambda: _seeded(transformers.T5EncoderModel, t5_config()),
    "UMT5EncoderModel": lambda: _seeded(transformers.UMT5EncoderModel, transformers.UMT5Config(**_T5)),
    "BertModel": lambda: _seeded(
        transformers.BertModel, transformers.BertConfig(vocab_size=1124, hidden_size=32, **_LAYERS)
    ),
    "LlamaForCausalLM": lambda: _seeded(
        transformers.LlamaForCausalLM, transformers.LlamaConfig(vocab_size=1000, hidden_size=16, **_LAYERS)
    ),
    "Gemma3ForConditionalGeneration": _gemma3,
    "Qwen2VLForConditionalGeneration": _qwen2_vl,
    "Qwen3VLForConditionalGeneration": _qwen3_vl,
    "ChatGLMModel": _chat_glm,
    "SiglipVisionModel": _siglip,
}
#: Classes in place of which :class:`Processor` is given.
PROCESSORS = ("AutoProcessor", "Qwen2VLProcessor", "Qwen3VLProcessor")
#: Preprocessors that are made of their defaults and of what is said beside their name.
EXTRACTORS = ("ClapFeatureExtractor", "CLIPImageProcessor", "SiglipImageProcessor", "DPTImageProcessor")
