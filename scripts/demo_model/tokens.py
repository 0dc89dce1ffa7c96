"""The tokenizer: byte-level BPE in which a space belongs to the word before it.

In most byte-level vocabularies a space belongs to the word after it, so that a text quoted after
"Repeat: " and the same text at the head of an answer begin with different tokens. Here they are
cut alike, and copying is a matter of pointing at tokens, which is what a small model can learn.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tokenizers import AddedToken, Regex, Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel, Split
from tokenizers.pre_tokenizers import Sequence as Steps
from tokenizers.trainers import BpeTrainer
from transformers import PreTrainedTokenizerFast

from scripts.demo_model.conversation import Example

UNK, BOS, EOS, PAD, INST, END_INST = "<unk>", "<s>", "</s>", "<pad>", "[INST]", "[/INST]"
CONTROL = (UNK, BOS, EOS, PAD, INST, END_INST)

# A word keeps the apostrophe or the space before a next word; digits stand alone; quotation marks
# and brackets stand alone, so that what they enclose is cut as if it stood by itself.
_PIECES = (
    r"[\p{L}\p{M}]+(?:['’](?=\p{L})| (?=[\p{L}\p{N}]))?"
    r"|\p{N}"
    r"| [?!:;»](?: (?=[\p{L}\p{N}]))?"
    r"|[\"“”«»'’()\[\]{}<>](?: (?=[\p{L}\p{N}]))?"
    r"|[^\s\p{L}\p{M}\p{N}\"“”«»'’()\[\]{}<>]+(?: (?=[\p{L}\p{N}]))?"
    r"|\n+|\s"
)

# Mistral's form. A system text stands before the first user text; a last assistant message gets
# its </s> unless the caller continues it (`continue_final_message` cuts the text after it).
CHAT_TEMPLATE = (
    "{%- set system = namespace(text='') -%}"
    "{{- bos_token -}}"
    "{%- for message in messages -%}"
    "{%- if message['role'] == 'system' -%}"
    "{%- set system.text = message['content'] + '\\n\\n' -%}"
    "{%- elif message['role'] == 'user' -%}"
    "{{- '[INST]' + system.text + message['content'] + '[/INST]' -}}"
    "{%- set system.text = '' -%}"
    "{%- elif message['role'] == 'assistant' -%}"
    "{{- message['content'] + eos_token -}}"
    "{%- else -%}"
    "{{- raise_exception('the roles are system, user and assistant') -}}"
    "{%- endif -%}"
    "{%- endfor -%}"
)


def train_tokenizer(texts: Iterable[str], size: int) -> PreTrainedTokenizerFast:
    """Learns a vocabulary of `size` entries (256 bytes and the control tokens among them)."""
    bpe = Tokenizer(BPE())
    bpe.pre_tokenizer = Steps(
        [
            Split(Regex(_PIECES), behavior="isolated"),
            ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    bpe.decoder = ByteLevelDecoder()
    control = [AddedToken(t, special=True, normalized=False) for t in CONTROL]
    trainer = BpeTrainer(
        vocab_size=size,
        special_tokens=control,
        initial_alphabet=ByteLevel.alphabet(),
        show_progress=False,
        max_token_length=16,
    )
    bpe.train_from_iterator(texts, trainer)
    tokenizer = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=bpe,
        unk_token=UNK,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        additional_special_tokens=[INST, END_INST],
        clean_up_tokenization_spaces=False,
        model_max_length=2048,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


class Encoder:
    """Turns examples into token ids and the mask of those that the model has to predict."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self._bpe: Tokenizer = tokenizer.backend_tokenizer
        ids = self._bpe.get_vocab(with_added_tokens=True)
        self.bos, self.eos, self.inst, self.end_inst = (ids[t] for t in (BOS, EOS, INST, END_INST))
        self.size = len(tokenizer)

    def text(self, text: str) -> list[int]:
        """Ids of `text` alone, without control tokens."""
        ids: list[int] = self._bpe.encode(text, add_special_tokens=False).ids
        return ids

    def user(self, text: str) -> list[int]:
        """Ids of a user's turn, its control tokens included."""
        return [self.inst, *self.text(text), self.end_inst]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of `ids`."""
        text: str = self._bpe.decode(list(ids), skip_special_tokens=False)
        return text

    def example(self, example: Example, cut: float | None = None) -> tuple[list[int], list[bool]]:
        """Ids and, for each, whether the loss falls on its prediction.

        With `cut` (0..1) the last answer is encoded in two parts, as when it is continued from a
        text that ends inside a word.
        """
        if example.kind == "novel":
            body = self.text(example.turns[0].answer)
            return [self.bos, *body], [False] + [True] * len(body)
        ids, mask = [self.bos], [False]
        system = f"{example.system}\n\n" if example.system else ""
        for turn in example.turns:
            asked = self.user(system + turn.user)
            at = int(len(turn.answer) * cut) if cut is not None else 0
            answered = [*self.text(turn.answer[:at]), *self.text(turn.answer[at:]), self.eos]
            ids += asked + answered
            mask += [False] * len(asked) + [True] * len(answered)
            system = ""
        return ids, mask
