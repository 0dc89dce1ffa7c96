"""Backends by name. A new one is a file and a line here; it is imported only when asked for."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Final, cast

from model_runner.types import ModelRunner

BACKENDS: Final[Mapping[str, str]] = {
    "openai": "model_runner.openai:OpenAIRunner",
    "scripted": "model_runner.scripted:ScriptedRunner",
    "transformers": "model_runner.transformers.runner:TransformersRunner",
}


def backend(name: str) -> Callable[..., ModelRunner]:
    """The runner's class by its name here, or as a dotted path `package.module:Class`.

    Raises: KeyError, for a name that is neither; ImportError, if what it needs is not installed.
    """
    module, _, attribute = (name if ":" in name else BACKENDS[name]).partition(":")
    found = getattr(importlib.import_module(module), attribute)
    return cast(Callable[..., ModelRunner], found)
