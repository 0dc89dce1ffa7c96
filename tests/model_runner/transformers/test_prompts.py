"""What a content says never becomes a control token; all else is as the reference renders it."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mistral_common.tokens.tokenizers.mistral import MistralTokenizer
from tokenizers import AddedToken
from transformers import PreTrainedTokenizerFast

from model_runner.errors import BadRequest, Unsupported
from model_runner.transformers import codec as codecs
from model_runner.transformers import mistral
from model_runner.transformers.codec import JOINER, Codec, break_up
from model_runner.transformers.mistral import MistralPrompts
from model_runner.transformers.prompts import TemplatePrompts, check_messages
from model_runner.types import Message, Role, ToolCall
from tests.support import tiny

CONTROL = [
    *("<s>", "</s>", "[INST]", "[/INST]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "<unk>"),
    *("[TOOL_CALLS]", "[AVAILABLE_TOOLS]", "<|im_start|>", "<|im_end|>", "<|user|>", "<0x0A>"),
    *("<SPECIAL_20>", "[PREFIX]", "[control_8]", "[IN[INST]ST]", "［INST］"),
]
ATTACK = st.lists(st.one_of(st.sampled_from(CONTROL), st.text(max_size=5)), min_size=1).map("".join)
QUIET = settings(deadline=None, max_examples=60)


def talk(*contents: str, last: Role = "user") -> list[Message]:
    """System, user, assistant, user, ... with these contents."""
    roles: list[Role] = ["system", *(["user", "assistant"] * len(contents))]  # type: ignore[list-item]
    messages = [Message(role, text) for role, text in zip(roles, contents, strict=False)]
    assert messages[-1].role == last
    return messages


# Mistral's own tokenizers

VERSIONS: dict[str, Callable[[], Any]] = {
    "v1": MistralTokenizer.v1,
    "v2": MistralTokenizer.v2,
    "v3": MistralTokenizer.v3,
    "v7": MistralTokenizer.v7,
    "tekken": lambda: MistralTokenizer.v3(is_tekken=True),
}


@pytest.fixture(scope="module", params=VERSIONS)
def official(request: pytest.FixtureRequest) -> Any:
    return VERSIONS[request.param]()


@QUIET
@given(system=ATTACK, first=ATTACK, answer=ATTACK, second=ATTACK)
def test_official_contents_give_no_control_token(
    official: Any, system: str, first: str, answer: str, second: str
) -> None:
    raw = official.instruct_tokenizer.tokenizer
    prompts = MistralPrompts(official)

    def control(*contents: str) -> list[int]:
        # sentencepiece falls back to bytes, so no content needs <unk>
        return [i for i in prompts.render(talk(*contents)) if raw.is_special(i)]

    contents = (system, first, answer, second)
    if any(not text.strip() for text in contents):
        return  # mistral-common refuses an empty answer
    assert control(*contents) == control("a", "b", "c", "d")
    assert control(*contents).count(raw.bos_id) == 1


@cache
def v1() -> tuple[Any, Codec]:
    tokenizer = MistralTokenizer.v1()
    return tokenizer, mistral.codec_of(tokenizer)


@QUIET
@given(first=ATTACK, second=ATTACK)
def test_v1_markers_in_contents_are_broken_up(first: str, second: str) -> None:
    tokenizer, codec = v1()
    if not first.strip() or not second.strip():
        return
    ids = MistralPrompts(tokenizer).render(talk("Be kind.", first, "Ok.", second))
    text = codec.decoder.decode([i for i in ids if i not in codec.special])
    assert text.count("[INST]") == text.count("[/INST]") == 2
    assert text.replace(JOINER, "").count("[/INST]") == 2 + (first + "|" + second).replace(
        JOINER, ""
    ).count("[/INST]")


def test_official_prompts_as_mistral_writes_them(official: Any) -> None:
    raw = official.instruct_tokenizer.tokenizer
    ids = MistralPrompts(official).render([Message("user", "Bonjour")])
    inner = raw.encode("Bonjour", bos=False, eos=False)
    if raw.version.value == "v1":
        assert ids == raw.encode("[INST] Bonjour [/INST]", bos=True, eos=False)
    else:
        begin, end = raw.get_special_token("[INST]"), raw.get_special_token("[/INST]")
        assert ids == [raw.bos_id, begin, *inner, end]


def test_official_continues_a_last_answer(official: Any) -> None:
    raw = official.instruct_tokenizer.tokenizer
    prompts = MistralPrompts(official)
    asked = [Message("user", "Bonjour")]
    open_ids = prompts.render([*asked, Message("assistant", "Il fait")])
    assert open_ids == prompts.render(asked) + raw.encode("Il fait", bos=False, eos=False)
    with pytest.raises(BadRequest) as caught:
        prompts.render([Message("user", "SECRET"), Message("assistant", "")])
    assert caught.value.param == "messages"
    assert "SECRET" not in str(caught.value)


# Templates

MISTRAL = tiny.TEMPLATE
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TRIMMING = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content | trim }} "
    "[/INST]{% else %} {{ m.content | trim }}{{ eos_token }}{% endif %}{% endfor %}"
)
WRITTEN = (
    "{{ bos_token }}{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}{{ eos_token }}\n"
    "{% endfor %}{# <|user|> <|assistant|> <|system|> #}"
)
TEMPLATES = {"mistral": MISTRAL, "chatml": CHATML, "trimming": TRIMMING, "written": WRITTEN}

TOKENIZERS: dict[str, Callable[[], PreTrainedTokenizerFast]] = {
    "byte-level": tiny.tokenizer,
    "first": lambda: tiny.metaspace("first"),
    "always": lambda: tiny.metaspace("always"),
    "prepend": lambda: tiny.metaspace("prepend"),
}


def build(kind: str, template: str) -> tuple[PreTrainedTokenizerFast, TemplatePrompts]:
    tokenizer = TOKENIZERS[kind]()
    # <|im_end|> is no special token in some vocabularies, and yet ends a turn
    turns = ("<|im_start|>", "<|im_end|>")
    tokenizer.add_tokens([AddedToken(turn, normalized=False) for turn in turns])
    tokenizer.add_special_tokens({"additional_special_tokens": ["[INST]", "[/INST]"]})
    tokenizer.chat_template = template
    codec = codecs.from_tokenizer(tokenizer.backend_tokenizer, bos=1, eos=2)
    return tokenizer, TemplatePrompts(tokenizer, codec)


@pytest.fixture(scope="module", params=[(k, t) for k in TOKENIZERS for t in TEMPLATES], ids=str)
def built(request: pytest.FixtureRequest) -> tuple[PreTrainedTokenizerFast, TemplatePrompts]:
    kind, template = request.param
    return build(kind, TEMPLATES[template])


@settings(deadline=None, max_examples=25)
@given(system=ATTACK, first=ATTACK, answer=ATTACK, second=ATTACK)
def test_contents_give_no_control_token(
    built: tuple[PreTrainedTokenizerFast, TemplatePrompts],
    system: str,
    first: str,
    answer: str,
    second: str,
) -> None:
    tokenizer, prompts = built
    added = {i for i, t in tokenizer.added_tokens_decoder.items() if t.content != "<unk>"}

    def control(*contents: str) -> list[int]:
        return [i for i in prompts.render(talk(*contents)) if i in added]

    contents = (system, first, answer, second)
    assert control(*contents) == control("a", "b", "c", "d")


@settings(deadline=None, max_examples=25)
@given(
    contents=st.lists(st.text("ab é\n\u20ac hex", min_size=1, max_size=8), min_size=4, max_size=4)
)
def test_harmless_contents_are_encoded_as_the_reference_does(
    built: tuple[PreTrainedTokenizerFast, TemplatePrompts], contents: list[str]
) -> None:
    tokenizer, prompts = built
    messages = talk(*contents)
    conversation = [{"role": m.role, "content": m.content} for m in messages]
    expected = tokenizer.apply_chat_template(
        conversation, tokenize=True, add_generation_prompt=True, return_dict=False
    )
    assert prompts.render(messages) == expected


@pytest.mark.parametrize("kind", TOKENIZERS)
@pytest.mark.parametrize("said", ["The ans", "The ", ""])
def test_a_last_answer_stays_open(kind: str, said: str) -> None:
    tokenizer, prompts = build(kind, MISTRAL)
    messages = [Message("user", "a"), Message("assistant", said)]
    text = f"<s>[INST]a[/INST]{said}"
    expected = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert prompts.render(messages) == expected


def test_markers_that_are_plain_text_are_broken_up() -> None:
    tokenizer, prompts = build("byte-level", WRITTEN)
    ids = prompts.render([Message("user", "x<|user|>y <|assistant|>")])
    text = str(tokenizer.decode(ids))
    assert re.findall(r"<\|\w+\|>", text) == ["<|user|>"]
    assert f"x<{JOINER}|user|>y <{JOINER}|assistant|>" in text


@given(ATTACK)
def test_nothing_is_left_of_a_broken_marker(text: str) -> None:
    broken = break_up(text, CONTROL)
    assert not any(marker in broken for marker in CONTROL)
    assert broken.replace(JOINER, "") == text.replace(JOINER, "")


def test_what_a_template_does_not_take_is_refused() -> None:
    refusing = "{{ raise_exception('roles must alternate') }}"
    dropping = "{% for m in messages if m.role == 'user' %}[INST]{{ m.content }}{% endfor %}"
    twice = "{% for m in messages %}{{ m.content }}{{ m.content }}{% endfor %}"
    system = "does not take a `system` message here"
    for template, says, param in [
        (refusing, "alternate", "messages"),
        (dropping, rf"messages\[0\]: .* {system}", "messages[0]"),
        (twice, system, "messages[0]"),
    ]:
        prompts = build("byte-level", template)[1]
        with pytest.raises(BadRequest, match=says) as caught:
            prompts.render(talk("SECRET", "SECRET"))
        assert caught.value.param == param
        assert "SECRET" not in str(caught.value)
    with pytest.raises(Unsupported):
        build("byte-level", "")[1].render(talk("a", "b"))
    called = Message("assistant", "", tool_calls=(ToolCall("1", "f", "{}"),))
    for bad in ([], [Message("tool", "x")], [called], [Message("user", "\ud800")]):
        with pytest.raises(BadRequest):
            check_messages(bad, (), calls=False)
