"""A model's folder or hub id to a model, a codec and a way to write its prompts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from mistral_common.exceptions import MistralCommonException
from safetensors import SafetensorError
from transformers import AutoTokenizer

from model_runner.errors import Unavailable
from model_runner.transformers import codec as codecs
from model_runner.transformers import mistral
from model_runner.transformers.batch import Store
from model_runner.transformers.codec import Codec
from model_runner.transformers.half import slow_half, widen
from model_runner.transformers.kernel_choice import Heads, kernels_for
from model_runner.transformers.model import Model
from model_runner.transformers.pages import PagedStore
from model_runner.transformers.prompts import Prompts, TemplatePrompts
from model_runner.transformers.rows import RowStore
from model_runner.transformers.support import check_served
from model_runner.transformers.weights import file_of, load_module

MEMORY = 2 << 30
SHARE = 0.8  # the rest is for what a step computes
Progress = Callable[[str], None]
FAULTS = (
    OSError,
    ValueError,
    RuntimeError,
    ImportError,
    LookupError,
    TypeError,
    MistralCommonException,
    SafetensorError,
)


@dataclass(frozen=True)
class Loaded:
    model: Model
    codec: Codec
    prompts: Prompts


def load(
    source: str,
    *,
    device: str | None,
    dtype: str | None,
    memory: int | None,
    progress: Progress,
    paged: bool | None = None,
) -> Loaded:
    """Blocks. device: default the GPU if there is one. dtype: default bfloat16 there, else float32.

    memory: bytes that keys and values may take; default 2 GiB, on a GPU four fifths of what is free
    beside the weights. paged: whether in pages; default on a GPU.

    Raises Unavailable if it is no model that can be served.
    """
    if _is_path(source) and not Path(source).is_dir():
        raise Unavailable(f"cannot load {source}: there is no such folder")
    place = _place(device)
    kind = getattr(torch, dtype or ("bfloat16" if place.type == "cuda" else "float32"), None)
    if not isinstance(kind, torch.dtype):
        raise Unavailable(f"no such dtype: {dtype}")
    try:
        progress("loading the tokenizer")
        codec, prompts = _tokenizer(source)
        progress(f"loading the weights, {str(kind).removeprefix('torch.')} on {place}")
        module = load_module(source, kind, place).eval()
        if place.type == "cpu" and kind is torch.bfloat16 and slow_half():
            widen(module)
        paged = place.type == "cuda" if paged is None else paged
        memory = _free(place) if memory is None else memory
        store: Store = RowStore(memory)
        if paged:
            kernels = kernels_for(place, module.dtype, _heads(module))
            progress(f"keys and values in pages, attention: {kernels.name}")
            store = PagedStore(memory, _token_bytes(module), place, kernels)
        model = _model(module, place, codec, store)
        progress("first step")
        check_served(model)
    except FAULTS as error:
        raise Unavailable(f"cannot load {source}: {error}") from error
    return Loaded(model, codec, prompts)


def _is_path(source: str) -> bool:
    """Whether it can be no hub id, of which transformers would say that it is a bad one."""
    return source.startswith((".", "/", "~", "\\")) or source.count("/") > 1


def _place(device: str | None) -> torch.device:
    """Where to run. Raises Unavailable, before torch does so in words of its own."""
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    try:
        place = torch.device(device or ("cuda" if count else "cpu"))
    except RuntimeError:
        raise Unavailable(f"device {device}: torch knows no such device") from None
    if place.type == "cuda" and not count:
        raise Unavailable(f"device {device}: torch sees no CUDA device")
    if place.type == "cuda" and (place.index or 0) >= count:
        raise Unavailable(f"device {device}: torch sees CUDA devices up to cuda:{count - 1} alone")
    return place


def _free(device: torch.device) -> int:
    """Bytes for keys and values where nobody says how many; weights are loaded already."""
    if device.type != "cuda":
        return MEMORY
    free, _ = torch.cuda.mem_get_info(device)
    return int(free * SHARE)


def _heads(module: Any) -> Heads:
    config = module.config.get_text_config()
    count = config.num_attention_heads
    return Heads(
        count=count,
        kv=getattr(config, "num_key_value_heads", None) or count,
        dim=getattr(config, "head_dim", None) or config.hidden_size // count,
        window=getattr(config, "sliding_window", None),
    )


def _token_bytes(module: Any) -> int:
    """Of one token's keys and values in all layers."""
    heads, layers = _heads(module), module.config.get_text_config().num_hidden_layers
    return int(2 * layers * heads.kv * heads.dim * module.dtype.itemsize)


def _tokenizer(source: str) -> tuple[Codec, Prompts]:
    for name in mistral.FILES:
        if path := file_of(source, name):
            tokenizer = mistral.load(path)
            return mistral.codec_of(tokenizer), mistral.MistralPrompts(tokenizer)
    hf: Any = AutoTokenizer.from_pretrained(source)
    backend = getattr(hf, "backend_tokenizer", None)
    if backend is None:
        raise ValueError("no fast tokenizer (tokenizer.json) and no mistral-common one")
    codec = codecs.from_tokenizer(backend, bos=_bos(hf), eos=hf.eos_token_id)
    return codec, TemplatePrompts(hf, codec)


def _bos(tokenizer: Any) -> int | None:
    """The id that this tokenizer puts before a plain text, if it puts any."""
    bos: int | None = tokenizer.bos_token_id
    put = tokenizer.backend_tokenizer.encode("", add_special_tokens=True).ids
    return bos if bos in put or getattr(tokenizer, "add_bos_token", False) else None


def _model(module: Any, device: torch.device, codec: Codec, store: Store) -> Model:
    config = module.config.get_text_config()
    if codec.size > config.vocab_size:
        raise ValueError("the tokenizer has more tokens than the model")
    named = module.generation_config.eos_token_id
    named = codec.eos if named is None else named
    ends = named if isinstance(named, list) else [named]
    return Model(
        module=module,
        device=device,
        vocabulary=int(config.vocab_size),
        positions=int(config.max_position_embeddings),
        eos=frozenset(end for end in ends if end is not None),
        store=store,
    )
