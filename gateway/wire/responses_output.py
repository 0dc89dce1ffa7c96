"""The `output` of OpenAI's Responses as it grows, and the frames that tell of it.

Channels may take turns: a message is open until the answer ends, and a call of a function comes
whole. Frames say by index what they belong to.
"""

from __future__ import annotations

from collections.abc import Iterable
from secrets import token_hex

from gateway.choice import Event
from gateway.wire.dialect import Json
from model_runner.types import TokenLogprob

_ITEMS = {
    "content": "message",
    "refusal": "message",
    "reasoning": "reasoning",
    "tool_call": "function_call",
}
_PARTS = {"content": "output_text", "refusal": "refusal", "reasoning": "reasoning_text"}
_IDS = {"message": "msg", "reasoning": "rs", "function_call": "fc"}


class Output:
    """The items of one answer."""

    def __init__(self) -> None:
        self._items: dict[tuple[str, int], _Item] = {}

    def json(self) -> list[Json]:
        return [item.json() for item in self._items.values()]

    def say(self, event: Event) -> Iterable[Json]:
        """The frames that tell of `event`."""
        kind = _ITEMS[event.channel.kind]
        key = (kind, event.channel.index)
        item = self._items.get(key)
        if item is None:
            item = self._items[key] = _Item(kind, len(self._items))
            item.call = event
            yield item.added()
        if kind == "function_call":
            yield from _call(item, event)
            return
        part = item.parts.get(event.channel.kind)
        if part is None:
            part = _Part(_PARTS[event.channel.kind], item, len(item.parts))
            item.parts[event.channel.kind] = part
            yield part.added()
        yield part.delta(event)

    def close(self, status: str) -> Iterable[Json]:
        """The frames that end what is still open. `status`: the response's."""
        for item in self._items.values():
            if item.status == "in_progress":
                yield from item.done(status)


class _Part:
    """A part of an item's content, as it grows."""

    def __init__(self, kind: str, item: _Item, index: int) -> None:
        self.kind = kind  # output_text | refusal | reasoning_text
        self.text = ""
        self.logprobs: list[TokenLogprob] = []
        self._place: Json = {
            "item_id": item.id,
            "output_index": item.index,
            "content_index": index,
        }

    def json(self) -> Json:
        if self.kind == "refusal":
            return {"type": "refusal", "refusal": self.text}
        part: Json = {"type": self.kind, "text": self.text}
        if self.kind == "output_text":
            part |= {"annotations": [], "logprobs": [_token(t, exact=True) for t in self.logprobs]}
        return part

    def added(self) -> Json:
        return {"type": "response.content_part.added", **self._place, "part": self.json()}

    def delta(self, event: Event) -> Json:
        self.text += event.text
        self.logprobs += event.logprobs
        said: Json = {"type": f"response.{self.kind}.delta", **self._place, "delta": event.text}
        if self.kind == "output_text":
            said["logprobs"] = [_token(token) for token in event.logprobs]
        return said

    def done(self) -> Iterable[Json]:
        field = "refusal" if self.kind == "refusal" else "text"
        said: Json = {"type": f"response.{self.kind}.done", **self._place, field: self.text}
        if self.kind == "output_text":
            said["logprobs"] = [_token(token) for token in self.logprobs]
        yield said
        yield {"type": "response.content_part.done", **self._place, "part": self.json()}


class _Item:
    """An item of the output: a message, reasoning, or a call of a function."""

    def __init__(self, kind: str, index: int) -> None:
        self.kind = kind
        self.index = index
        self.id = f"{_IDS[kind]}_{token_hex(12)}"
        self.status = "in_progress"
        self.parts: dict[str, _Part] = {}
        self.call: Event | None = None
        self.arguments = ""

    def json(self) -> Json:
        content = [part.json() for part in self.parts.values()]
        item: Json = {"id": self.id, "type": self.kind, "status": self.status}
        if self.kind == "message":
            return item | {"role": "assistant", "content": content}
        if self.kind == "reasoning":
            return item | {"summary": [], "content": content}
        tool = self.call.tool if self.call else None
        return item | {
            "call_id": tool.id if tool else "",
            "name": tool.name if tool else "",
            "arguments": self.arguments,
        }

    def added(self) -> Json:
        return {
            "type": "response.output_item.added",
            "output_index": self.index,
            "item": self.json(),
        }

    def done(self, status: str) -> Iterable[Json]:
        for part in self.parts.values():
            yield from part.done()
        self.status = status
        yield {
            "type": "response.output_item.done",
            "output_index": self.index,
            "item": self.json(),
        }


def _call(item: _Item, event: Event) -> Iterable[Json]:
    """A call comes whole, in one event."""
    place: Json = {"item_id": item.id, "output_index": item.index}
    item.arguments = event.text
    yield {"type": "response.function_call_arguments.delta", **place, "delta": event.text}
    yield {"type": "response.function_call_arguments.done", **place, "arguments": event.text}
    yield from item.done("completed")


def _token(token: TokenLogprob, *, exact: bool = False) -> Json:
    """exact: with the tokens' bytes."""

    def written(text: str, logprob: float, raw: bytes) -> Json:
        return {"token": text, "logprob": logprob} | ({"bytes": list(raw)} if exact else {})

    top = [written(a.text, a.logprob, a.bytes) for a in token.top]
    return written(token.text, token.logprob, token.bytes) | {"top_logprobs": top}
