"""Runs a job: prepare, fit on one process or several, calibrate, write what ships."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, distributed, multiprocessing

from filters.builtin.categories import CATEGORIES
from filters.builtin.encoder import Network
from filters.builtin.training import calibrate, quantise
from filters.builtin.training.card import write_card
from filters.builtin.training.examples import Example, Examples
from filters.builtin.training.fit import Fit, Plan, predict
from filters.builtin.training.job import Job, network, prepare
from filters.builtin.training.mining import hardest, ranking

#: Share of ordinary texts that may score above 0.5. `unsafe` sums the others up, so it may more.
FALSE_ALARMS = dict.fromkeys(CATEGORIES, 0.005) | {"unsafe": 0.01}
#: Shares of the time after which the network's errors are added to what it learns from, and after
#: which it is judged on what is held out; what it was when it did best is what ships.
MINED = 0.5
STOPS = (0.6, 0.7, 0.8, 0.9, 1.0)


def train(job: Job, *, workers: int = 1) -> None:
    """Everything. Goes on where an earlier call with the same `out` stopped."""
    torch.set_num_threads(1)
    torch.manual_seed(job.seed)
    prepare(job)
    _fit(job, workers)
    finish(job)


def _fit(job: Job, workers: int) -> None:
    with tempfile.TemporaryDirectory() as meeting:
        others = [
            multiprocessing.get_context("spawn").Process(
                target=_work, args=(_quiet(job), rank, workers, meeting), daemon=True
            )
            for rank in range(1, workers)
        ]
        for other in others:
            other.start()
        _work(job, 0, workers, meeting)
        for other in others:
            other.join()


def _quiet(job: Job) -> dict[str, Any]:
    """What another process needs of the job: callables do not travel."""
    names = ("data", "out", "base", "minutes", "french", "made", "seed", "bfloat16")
    return {name: getattr(job, name) for name in names}


def _work(job: Job | dict[str, Any], rank: int, size: int, meeting: str) -> None:
    if isinstance(job, dict):
        job = Job(**job, tell=lambda *_: None)
    torch.set_num_threads(1)
    if size > 1:
        where = f"file://{meeting}/meeting"
        distributed.init_process_group("gloo", init_method=where, rank=rank, world_size=size)
    torch.manual_seed(job.seed)  # the head begins alike everywhere
    plan = Plan(minutes=job.minutes, seed=job.seed, bfloat16=job.bfloat16)
    rows = Examples.load(job.work / "examples.pt").rows[rank::size]
    fit = Fit(network(job, "french.pt"), rows, plan, rank=rank, size=size)
    if (job.work / "fit.pt").exists():
        fit.resume(job.work / "fit.pt")
    torch.manual_seed(job.seed + rank)
    _phases(job, fit, rank, size)
    if size > 1:
        distributed.destroy_process_group()


def _phases(job: Job, fit: Fit, rank: int, size: int) -> None:
    """Fit, look for errors, fit on; now and then see whether it is better than it was."""
    file = job.work / "fit.pt"

    def save() -> None:
        if rank == 0:
            torch.save(fit.state(), file.with_suffix(".new"))
            file.with_suffix(".new").replace(file)

    def until(share: float) -> bool:
        minutes = share * job.minutes
        if behind := fit.spent < minutes:
            fit.run(lambda done, _: job.tell("fit", done), save, until=minutes)
        return behind

    until(MINED)
    fit.add(_mined(job, fit.network, rank, size))
    for share in STOPS:
        if until(share) and rank == 0:
            _keep_best(job, fit.network)
    if rank == 0 and not (job.work / "best.pt").exists():
        _keep_best(job, fit.network)


def _mined(job: Job, model: Network, rank: int, size: int) -> Sequence[Example]:
    """This process's share of the harmless texts that the network is most wrong about."""
    file = job.work / f"mined-{rank}.pt"
    if not file.exists():
        spare = Examples.load(job.work / "spare.pt").rows[rank::size]
        found = hardest(model, spare, len(spare) // 10)
        Examples(found, ["mined"] * len(found), [""] * len(found)).save(file)
    return Examples.load(file).rows


def _keep_best(job: Job, model: Network) -> None:
    """Keep the weights if they rank what is held out better than those kept before."""
    file = job.work / "best.pt"
    now = ranking(model, Examples.load(job.work / "held.pt"))
    before = torch.load(file, weights_only=True)["ranking"] if file.exists() else 0.0
    if now > before:
        torch.save({"ranking": now, "network": model.state_dict()}, file)
    history = job.work / "rankings.txt"
    with history.open("a", encoding="utf-8") as lines:
        lines.write(f"{now:.5f}\n")


def finish(job: Job) -> None:
    """Calibrate the fitted network and write weights, vocabulary, thresholds, card and plots."""
    job.tell("calibration", 0.0)
    model = network(job, "french.pt")
    state = torch.load(job.work / "fit.pt", weights_only=True)
    best = torch.load(job.work / "best.pt", weights_only=True)
    model.load_state_dict(best["network"])
    kept = Examples.load(job.work / "kept.pt")
    logits = predict(model, [row.ids for row in kept.rows])
    known, targets = _labels(kept.rows)
    ordinary = logits[_ordinary(kept)]
    calibration = calibrate.calibrate(logits, known, targets, ordinary, FALSE_ALARMS)
    job.tell("calibration", 0.6)
    about = {
        "calibration": {
            "slope": calibration.slope.tolist(),
            "shift": calibration.shift.tolist(),
        },
        "seed": job.seed,
        "steps": int(state["steps"]),
        "ranking": best["ranking"],
    }
    ranges = quantise.input_ranges(model, [row.ids for row in kept.rows[:256]])
    quantise.save(model, ranges, job.out / "classifier.safetensors", about)
    text = (job.work / "vocabulary.txt").read_text(encoding="utf-8")
    (job.out / "vocabulary.txt").write_text(text, encoding="utf-8")
    table = calibrate.thresholds(calibration.scores(ordinary))
    (job.out / "thresholds.json").write_text(json.dumps(table, indent=1), encoding="utf-8")
    held = Examples.load(job.work / "held.pt")
    scores = calibration.scores(predict(model, [row.ids for row in held.rows]))
    write_card(job.out, table, (kept, calibration.scores(logits)), (held, scores))
    job.tell("calibration", 1.0)


def _labels(rows: Sequence[Example]) -> tuple[Tensor, Tensor]:
    known = torch.tensor([row.weights for row in rows]) > 0
    return known, torch.tensor([row.targets for row in rows])


def _ordinary(kept: Examples) -> list[int]:
    """Places of texts of the sources that hold nothing harmful."""
    return [n for n, source in enumerate(kept.sources) if "benign" in source]
