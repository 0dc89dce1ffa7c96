"""Steps through static buffers say what flat steps say, whoever else is in the bucket."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.fx.experimental.proxy_tensor import make_fx
from transformers import MistralConfig, MistralForCausalLM, MixtralConfig, MixtralForCausalLM

from model_runner.errors import Unavailable
from model_runner.transformers.attention import NAME
from model_runner.transformers.batch import Segment
from model_runner.transformers.decode import Capture, Decoder, Run, decoder, eagerly, sizes
from model_runner.transformers.model import Model
from model_runner.transformers.paged_attention import PAGE
from model_runner.transformers.pages import PagedRow, PagedStore
from model_runner.transformers.probe import Probe, Probes
from model_runner.transformers.runner import TransformersRunner

CPU = torch.device("cpu")
POSITIONS = 1280
HIDDEN = 32


def make(*, mixtral: bool = False, window: int | None = None) -> Any:
    torch.manual_seed(5)
    options: dict[str, Any] = {
        "vocab_size": 64,
        "hidden_size": HIDDEN,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": POSITIONS,
        "sliding_window": window,
        "initializer_range": 0.3,
    }
    module: Any = (
        MixtralForCausalLM(MixtralConfig(**options, num_local_experts=4))
        if mixtral
        else MistralForCausalLM(MistralConfig(**options))
    )
    module.set_attn_implementation(NAME)
    return module.eval()


def model(module: Any, *, probes: Probes | None = None, capture: Capture | None = None) -> Model:
    """With a store of its own. capture: through static buffers, else flat."""
    store = PagedStore(64 * PAGE, 1, CPU)
    steps = capture and Decoder(module, store, capture, rows=12, positions=POSITIONS, probes=probes)
    return Model(module, CPU, 64, POSITIONS, frozenset(), store, probes, steps or None)


def rows_of(one: Model, lengths: Sequence[int]) -> list[PagedRow]:
    """Rows that have read so many tokens."""
    made, segments = [], []
    for number, length in enumerate(lengths):
        row = one.store.row()
        assert isinstance(row, PagedRow)
        one.store.reserve(row, length + 8)
        ids = torch.arange(length).add(number).remainder(64).tolist()
        segments.append(Segment(row, ids, 0))
        made.append(row)
    if reading := [segment for segment in segments if segment.count]:
        one.forward(reading)
    return made


def write(one: Model, rows: Sequence[PagedRow], seed: int) -> torch.Tensor:
    return one.forward(
        [
            Segment(row, [(seed + 7 * number) % 64], row.length, outputs=(0,))
            for number, row in enumerate(rows)
        ]
    )


def same(flat: Model, static: Model, lengths: Sequence[int], steps: int = 2) -> None:
    """Also when some have gone, so that what they left in the buffers is padding."""
    one, other = rows_of(flat, lengths), rows_of(static, lengths)
    for step in range(steps):
        torch.testing.assert_close(
            write(static, other, step), write(flat, one, step), rtol=1e-4, atol=1e-4
        )
        assert [row.length for row in other] == [row.length for row in one]
        if len(one) > 1:
            flat.store.free(one.pop())
            static.store.free(other.pop())
    for own, rows in ((flat, one), (static, other)):
        for row in rows:
            own.store.free(row)


def traced(run: Run) -> Run:
    """What a CUDA graph does, without one: record operations, on the tensors that are there now."""
    run()
    recorded = make_fx(run)()
    return lambda: recorded()


@pytest.fixture(scope="module")
def module() -> Any:
    return make()


def test_sizes() -> None:
    assert [*islice(sizes(), 13)] == [1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256]


@pytest.mark.parametrize(("window", "capture"), [(None, traced), (16, eagerly), (16, traced)])
def test_static_is_flat(window: int | None, capture: Capture) -> None:
    module = make(window=window)
    flat, static = model(module), model(module, capture=capture)
    assert static.decoder is not None
    assert (static.decoder.rows, static.decoder.spans) == ([1, 2, 4, 8, 16], [256, 512, 1024, 1280])
    for lengths in ([0], [PAGE, 0, PAGE - 1, 7, 1], [1100, 2]):
        same(flat, static, lengths)


@settings(max_examples=10, deadline=None)
@given(lengths=st.lists(st.integers(0, PAGE + 3), min_size=1, max_size=9))
def test_any_batch(module: Any, lengths: list[int]) -> None:
    same(model(module), model(module, capture=eagerly), lengths, steps=1)


def test_experts_of_the_host_are_no_graph(caplog: pytest.LogCaptureFixture) -> None:
    """Traced on a CPU, whose way of running experts looks at what the router says."""
    module = make(mixtral=True)
    flat, eager = model(module), model(module, capture=eagerly)
    same(flat, eager, [3, 40, 7])

    def fails(run: Run) -> Run:
        run()
        raise RuntimeError("operation not permitted when stream is capturing\nmore of it")

    failing = model(module, capture=fails)
    with caplog.at_level(logging.WARNING):
        same(flat, failing, [3, 40, 7])
        same(flat, failing, [5])
    (record,) = caplog.records
    assert "MixtralForCausalLM for 4 streams" in record.message
    assert "more of it" not in record.message


def test_what_is_no_writing_is_flat(module: Any) -> None:
    one = model(module, capture=eagerly)
    assert one.decoder is not None
    (row,) = rows_of(one, [4])
    writes = Segment(row, [1], 4, outputs=(0,))
    with torch.inference_mode():
        assert one.decoder.run([writes]) is not None
        assert one.decoder.run([replace(writes, ids=[1, 2], outputs=(1,))]) is None
        assert one.decoder.run([replace(writes, keep=False)]) is None
        assert one.decoder.run([replace(writes, outputs=())]) is None
        assert one.decoder.run([writes] * 17) is None


def test_a_score_gives_its_pages_back_when_only_writing_follows(module: Any) -> None:
    one = model(module, capture=eagerly)
    (row,) = rows_of(one, [4])
    used = one.store.used
    one.forward([Segment(row, [1, 2], 4, keep=False, outputs=(1,))])
    assert one.store.used > used
    write(one, [row], 0)
    assert one.store.used == used


def test_a_copied_row_goes_on_as_its_own(module: Any) -> None:
    one = model(module, capture=eagerly)
    (row,) = rows_of(one, [PAGE + 5])
    twin = one.store.copy(row, PAGE + 3, PAGE + 8)
    assert isinstance(twin, PagedRow)
    row.length = PAGE + 3
    made = write(one, [twin], 3)
    write(one, [row], 50)
    twin.length -= 1
    torch.testing.assert_close(write(one, [twin], 3), made)
    row.length -= 1
    torch.testing.assert_close(write(one, [row], 3), made)


def test_probes_read_what_is_replayed() -> None:
    module = make()
    weight = torch.linspace(-1, 1, HIDDEN)
    probes = Probes(module, "", {"one": Probe(0, weight, 0.1, "")})
    flat, static = model(module, probes=probes), model(module, probes=probes, capture=traced)
    one, other = rows_of(flat, [5, 30, 2]), rows_of(static, [5, 30, 2])
    seen = set()
    for seed in range(3):
        write(flat, one, seed)
        expected = probes.rows
        write(static, other, seed)
        torch.testing.assert_close(torch.tensor(probes.rows), torch.tensor(expected))
        seen.add(tuple(map(tuple, expected)))
    assert len(seen) == 3


def test_compiled_steps(module: Any) -> None:
    """Without code generation, which takes a minute: whether the step can be traced at all."""
    compiled = torch.compile(module, backend="eager")
    store = PagedStore(64 * PAGE, 1, CPU)
    steps = Decoder(compiled, store, eagerly, rows=12, positions=POSITIONS)
    static = Model(module, CPU, 64, POSITIONS, frozenset(), store, decoder=steps)
    same(model(module), static, [3, 0, 255], steps=1)


def test_a_compiler_that_fails_is_not_needed(module: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Which a machine without a C compiler has, say."""

    def fails(**_: Any) -> Any:
        raise FileNotFoundError("no gcc here\nmore of it")

    store = PagedStore(64 * PAGE, 1, CPU)
    steps = Decoder(module, store, traced, rows=12, positions=POSITIONS, compiled=fails)
    static = Model(module, CPU, 64, POSITIONS, frozenset(), store, decoder=steps)
    steps.prepare()
    same(model(module), static, [3, 0, 255], steps=1)
    (record,) = caplog.records
    assert record.message == (
        "no compiled step of function for 16 streams, nor any further one: no gcc here"
    )


def test_prepared_steps_are_not_made_again(module: Any) -> None:
    made: list[Run] = []

    def counted(run: Run) -> Run:
        made.append(run)
        return run

    one = model(module, capture=counted)
    assert one.decoder is not None
    one.decoder.prepare()
    count = len(made)
    rows = rows_of(one, [1, 300, 40])
    write(one, rows, 0)
    write(one, rows[:1], 0)
    assert len(made) == count == 2 * len(one.decoder.rows)
    for row in rows_of(one, [600]):
        write(one, [row], 0)
    assert len(made) == count + 1


def test_who_gets_a_decoder(module: Any) -> None:
    store = PagedStore(64 * PAGE, 1, CPU)
    assert decoder(module, store, rows=4, positions=64) is None
    assert decoder(module, store, rows=4, positions=64, graphs=False) is None
    assert decoder(module, store, rows=4, positions=64, graphs=True) is not None


@pytest.mark.parametrize("asked", [{"graphs": True}, {"compile": True}], ids=str)
async def test_graphs_want_pages(tame: Path, asked: dict[str, Any]) -> None:
    runner = TransformersRunner(str(tame), device="cpu", **asked)
    with pytest.raises(Unavailable, match="in pages"):
        await runner.start()
    await runner.close()
