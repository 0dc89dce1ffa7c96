"""Chat prompts: control tokens as ids, contents as plain text.

What a content says never becomes a control token.

With a Jinja chat template, the template is rendered with private placeholders where the contents
would stand, and its control tokens become ids. The plain text between two control tokens, be it the
template's or a content, is encoded together, with a tokenizer that knows no control tokens: the
result is what the reference gives, save where a content spells a control token.

Markers that a template writes as plain text (`[INST]` where the vocabulary has no such token) are
broken up in contents with a zero-width joiner behind their first character.
"""

from __future__ import annotations

import json
import re
import secrets
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from jinja2 import TemplateError

from model_runner.errors import BadRequest, Unsupported
from model_runner.transformers.calls import CallTokens
from model_runner.transformers.codec import Codec, break_up, check_text
from model_runner.types import Message, Tool

PAD = "\v"  # space that templates strip and never write
NAME = re.compile("x[0-9a-f]{24}x")
MARKER = re.compile(r"<\|[^|<>\s]+\|>|\[/?[A-Z_]+\]|<</?[A-Z]+>>|</?s>|<(?:start|end)_of_turn>")


class Prompts(Protocol):
    """calls: how the model writes tool calls; None: its format has no tools that we know of."""

    @property
    def calls(self) -> CallTokens | None: ...

    def render(self, messages: Sequence[Message], tools: Sequence[Tool] = ()) -> list[int]:
        """The prompt's ids; a last assistant message is left open, to be continued.

        Raises: BadRequest if the model's chat format does not take these messages.
        """
        ...


def check_messages(messages: Sequence[Message], tools: Sequence[Tool], *, calls: bool) -> None:
    """Raises BadRequest or Unsupported on what no chat format takes here.

    calls: whether this one has tools.
    """
    if not messages:
        raise BadRequest("messages must not be empty", "messages")
    for message in messages:
        if not calls and (message.role == "tool" or message.tool_calls):
            raise Unsupported("this engine takes no tool messages", "messages")
        check_text(message.content, "messages")
        for call in message.tool_calls:
            check_text(call.id + call.name + call.arguments, "messages")
        check_text(message.tool_call_id or "", "messages")
    if messages[-1].tool_calls:
        raise BadRequest("messages end with calls that no `tool` message answers", "messages")
    for tool in tools:
        said = json.dumps(tool.parameters, ensure_ascii=False)
        check_text(f"{tool.name}{tool.description or ''}{said}", "tools")


class TemplatePrompts:
    """Chat prompts by the Jinja template of a transformers tokenizer.

    Without tools: each family of models has a form of its own for calls.
    """

    calls = None

    def __init__(self, tokenizer: Any, codec: Codec) -> None:
        self._tokenizer = tokenizer
        self._codec = codec
        added = tokenizer.backend_tokenizer.get_added_tokens_decoder().values()
        names = sorted((t for t in added if t.content in codec.control), key=_length, reverse=True)
        self._control = re.compile("|".join(map(_pattern, names)) or r"(?!)")
        source = str(tokenizer.chat_template or "")
        self._markers = set(MARKER.findall(source)) - set(codec.control)

    def render(self, messages: Sequence[Message], tools: Sequence[Tool] = ()) -> list[int]:  # noqa: ARG002
        if not self._tokenizer.chat_template:
            raise Unsupported("this model has no chat template", "messages")
        continues = messages[-1].role == "assistant"
        names = [f"x{secrets.token_hex(12)}x" for _ in messages]
        rendered = self._fill(messages, names, continues=continues)
        if continues:
            rendered = rendered[: rendered.rfind(names[-1]) + len(names[-1])]
        contents = dict(zip(names, messages, strict=True))
        return self._encode(self._pieces(rendered, contents))

    def _fill(self, messages: Sequence[Message], names: Sequence[str], *, continues: bool) -> str:
        """The template's text with `names` in place of contents, in the padding left by it."""
        # an empty content stays empty, since templates ask for that
        shown = [bool(m.content) for m in messages[:-1]] + [bool(messages[-1].content) or continues]
        conversation = [
            {
                "role": "system" if message.role == "developer" else message.role,
                "content": f"{PAD}{name}{PAD}" if show else "",
            }
            for message, name, show in zip(messages, names, shown, strict=True)
        ]
        try:
            rendered = self._tokenizer.apply_chat_template(
                conversation, tokenize=False, add_generation_prompt=not continues
            )
        except (TemplateError, TypeError, ValueError, KeyError, IndexError) as error:
            # contents were not handed in, so the message holds none
            raise BadRequest(
                f"the model's chat template refuses these messages: {error}", "messages"
            ) from error
        text = str(rendered)
        found = Counter(NAME.findall(text))
        for i, (name, show) in enumerate(zip(names, shown, strict=True)):
            if show and found[name] != 1:
                # Left out, or put in twice: a role that the template knows elsewhere or not at all.
                raise BadRequest(
                    f"messages[{i}]: this model's chat template does not take a "
                    f"`{messages[i].role}` message here",
                    f"messages[{i}]",
                )
        return text

    def _pieces(self, rendered: str, contents: dict[str, Message]) -> Iterator[int | str]:
        """Control token ids, and plain text."""
        pattern = re.compile(f"({PAD}?)({NAME.pattern})({PAD}?)")
        at = 0
        for match in pattern.finditer(rendered):
            yield from self._template(rendered[at : match.start()])
            content = break_up(contents[match[2]].content, self._markers)
            content = content if match[1] else content.lstrip()
            # at the end stands a message to continue: exactly as it is
            yield content if match[3] or match.end() == len(rendered) else content.rstrip()
            at = match.end()
        yield from self._template(rendered[at:])

    def _template(self, text: str) -> Iterator[int | str]:
        at = 0
        for match in self._control.finditer(text):
            yield text[at : match.start()]
            yield self._codec.control[
                match[0] if match[0] in self._codec.control else match[0].strip()
            ]
            at = match.end()
        yield text[at:]

    def _encode(self, pieces: Iterator[int | str]) -> list[int]:
        ids: list[int] = []
        text = ""
        for piece in (*pieces, None):
            if isinstance(piece, str):
                text += piece
                continue
            if text:
                ids += self._codec.segment(text) if ids else self._codec.encode(text)
                text = ""
            if piece is not None:
                ids.append(piece)
        return ids


def _length(token: Any) -> int:
    return len(str(token.content))


def _pattern(token: Any) -> str:
    before, after = r"\s*" if token.lstrip else "", r"\s*" if token.rstrip else ""
    return before + re.escape(str(token.content)) + after
