"""A request's prompt as token ids."""

from __future__ import annotations

from collections import OrderedDict
from threading import Lock

from model_runner.errors import BadRequest, Unsupported
from model_runner.transformers.calls import offered
from model_runner.transformers.codec import Codec, check_text
from model_runner.transformers.prompts import Prompts, check_messages
from model_runner.types import GenerateRequest

KEPT = 64


class PromptReader:
    """Requests are counted first, and opened soon after: what was encoded is kept until then."""

    def __init__(self, codec: Codec, prompts: Prompts, vocabulary: int) -> None:
        self._codec = codec
        self._prompts = prompts
        self._vocabulary = vocabulary
        self._lock = Lock()
        self._kept: OrderedDict[object, list[int]] = OrderedDict()

    def count(self, request: GenerateRequest) -> int:
        """Tokens of the prompt. Raises BadRequest."""
        ids = self.read(request)
        with self._lock:
            self._kept[_key(request)] = ids
            if len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        return len(ids)

    def read(self, request: GenerateRequest) -> list[int]:
        """The prompt's ids, one at least. Raises BadRequest."""
        kept = self.kept(request)
        return self._encode(request) if kept is None else kept

    def kept(self, request: GenerateRequest) -> list[int] | None:
        """Those of a request that was counted, once."""
        with self._lock:
            return self._kept.pop(_key(request), None)

    def _encode(self, request: GenerateRequest) -> list[int]:
        calls = self._prompts.calls is not None
        if not calls and (request.tools or request.tool_choice not in (None, "none")):
            raise Unsupported("this engine takes no tools", "tools")
        if request.messages is not None:
            tools, _ = offered(request)
            check_messages(request.messages, tools, calls=calls)
            return self._prompts.render(request.messages, tools)
        if request.tools or request.tool_choice not in (None, "auto", "none"):
            raise BadRequest("tools: they go with `messages`", "tools")
        if request.prompt is not None:
            if not request.prompt:
                raise BadRequest("prompt must not be empty", "prompt")
            check_text(request.prompt, "prompt")
            bos = [] if self._codec.bos is None else [self._codec.bos]
            return bos + self._codec.encode(request.prompt)
        ids = list(request.token_ids or ())
        if not ids:
            raise BadRequest("prompt must not be empty", "prompt")
        if not all(0 <= token < self._vocabulary for token in ids):
            raise BadRequest("prompt holds an id that is no token", "prompt")
        return ids


def _key(request: GenerateRequest) -> object:
    tools = repr((request.tools, request.tool_choice))  # parameters have no hash
    return (request.tenant, tools, request.messages, request.prompt, request.token_ids)
