"""Token ids to text, as it grows."""

from __future__ import annotations

from collections.abc import Sequence

from tokenizers.decoders import DecodeStream

from model_runner.transformers.codec import Codec

PRIMER = 8  # tokens of context: enough for any decoder that looks at its neighbours


class Detokenizer:
    """The pieces that `push` and `flush` return, joined, are the decoding of all ids at once.

    A token that ends inside a code point gives no text until the code point is whole. Where bytes
    are tokens of their own, a run of them is decoded together (a bad byte spoils the whole run), so
    it waits for the first token that is no byte.

    primer: ids that stand before, so that a leading space is kept. Special tokens have no text.
    """

    def __init__(self, codec: Codec, primer: Sequence[int] = ()) -> None:
        self._codec = codec
        self._window = _settled(codec, [i for i in primer if i not in codec.special][-PRIMER:])
        self._stream = DecodeStream(ids=self._window)
        self._pending: list[int] = []
        self._run: list[int] = []

    @property
    def pending(self) -> bool:
        """Whether the last tokens have not given all their text."""
        return bool(self._pending)

    def push(self, token: int) -> str:
        if token in self._codec.special:
            return ""
        self._pending.append(token)
        self._run.append(token)
        if token in self._codec.byte_tokens:
            return ""
        text = self._stream.step(self._codec.decoder, self._run)
        self._run = []
        if text is None:
            return ""
        self._window, self._pending = self._pending, []
        return text

    def flush(self) -> str:
        """The rest; bytes that never became a code point read as U+FFFD."""
        before = self._codec.decoder.decode(self._window)
        text = self._codec.decoder.decode(self._window + self._pending)
        self._pending, self._run = [], []
        return text[len(before) :]


def _settled(codec: Codec, ids: list[int]) -> list[int]:
    """`ids`, or other context where they end inside a code point."""
    if not ids or (
        ids[-1] not in codec.byte_tokens and not codec.decoder.decode(ids).endswith("\ufffd")
    ):
        return ids
    return codec.encode("a")
