"""Runs a job: prepare, fit on one process or several, calibrate, write what ships."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor, distributed, multiprocessing

from filters.builtin.categories import CATEGORIES
from filters.builtin.scorer import WEIGHTS
from filters.builtin.text import Reader
from filters.builtin.training import calibrate, quantise
from filters.builtin.training.card import Card, write_card
from filters.builtin.training.encoder import Network
from filters.builtin.training.examples import Example, Examples
from filters.builtin.training.fit import Fit, Plan, predict
from filters.builtin.training.hidden import often_hidden
from filters.builtin.training.job import Job, network, ordinary, prepare
from filters.builtin.training.mining import hardest, ranking

#: Share of ordinary texts that may score above 0.5.
FALSE_ALARMS = dict.fromkeys(CATEGORIES, 0.005)
#: Ordinary texts for that, and labels of either kind for a category's slope. With fewer the
#: calibration is that of the classifier it began with, if it began with one.
FEWEST = 200
LABELS = 10
#: Shares of the time after which the network's errors are added to what it learns from, and after
#: which it is judged on what is held out; what it was when it did best is what ships.
MINED = 0.5
STOPS = (0.6, 0.7, 0.8, 0.9, 1.0)
#: Tokens of a step on a GPU, which smaller ones leave idle.
ON_A_GPU = 8000


def train(job: Job, *, workers: int = 1) -> None:
    """Everything. Goes on where an earlier call with the same `out` stopped."""
    torch.set_num_threads(1)
    torch.manual_seed(job.seed)
    prepare(job)
    _fit(job, workers)
    finish(job)


def _fit(job: Job, workers: int) -> None:
    """Fit all members: on a GPU side by side, on CPUs one after another."""
    if job.device == "cpu":
        for member in range(job.members):
            with tempfile.TemporaryDirectory() as meeting:
                others = [(member, rank, workers, meeting) for rank in range(1, workers)]
                _beside(job, (member, 0, workers, meeting), others)
    else:
        _beside(job, (0, 0, 1, ""), [(member, 0, 1, "") for member in range(1, job.members)])


def _beside(job: Job, own: tuple[int, int, int, str], others: Sequence[Any]) -> None:
    """Do one piece of work here and the others in processes."""
    made = [
        multiprocessing.get_context("spawn").Process(
            target=_work, args=(_quiet(job), *other), daemon=True
        )
        for other in others
    ]
    for process in made:
        process.start()
    _work(job, *own)
    for process in made:
        process.join()
        if process.exitcode:
            raise RuntimeError(f"a process of the fit ended with {process.exitcode}")


def _quiet(job: Job) -> dict[str, Any]:
    """What another process needs of the job: callables do not travel."""
    return {one.name: getattr(job, one.name) for one in fields(job) if one.name != "tell"}


def _work(job: Job | dict[str, Any], member: int, rank: int, size: int, meeting: str) -> None:
    if isinstance(job, dict):
        job = Job(**job, tell=lambda *_: None)
    torch.set_num_threads(1)
    if size > 1:
        where = f"file://{meeting}/meeting"
        distributed.init_process_group("gloo", init_method=where, rank=rank, world_size=size)
    torch.manual_seed(job.seed)  # the head begins alike everywhere, or weights have no mean
    plan = Plan(minutes=job.minutes, seed=job.seed + member, bfloat16=job.bfloat16)
    tokens, trunk, head = (job.rate * rate for rate in plan.rates)
    plan = replace(plan, rates=(tokens, trunk, head))
    if job.device != "cpu":
        plan = replace(plan, tokens=ON_A_GPU)
    rows = Examples.load(job.work / "examples.pt").rows[rank::size]
    fit = Fit(network(job, "french.pt"), rows, plan, rank=rank, size=size)
    if (job.work / f"fit-{member}.pt").exists():
        fit.resume(job.work / f"fit-{member}.pt")
    torch.manual_seed(job.seed + 1000 * member + rank)
    _phases(job, fit, member, rank, size)
    if size > 1:
        distributed.destroy_process_group()


def _phases(job: Job, fit: Fit, member: int, rank: int, size: int) -> None:
    """Fit, look for errors, fit on; now and then see whether it is better than it was."""
    file = job.work / f"fit-{member}.pt"

    def save() -> None:
        if rank == 0:
            torch.save(fit.state(), file.with_suffix(".new"))
            file.with_suffix(".new").replace(file)

    def until(share: float) -> bool:
        minutes = share * job.minutes
        if behind := fit.spent < minutes:
            fit.run(lambda done, _: job.tell(f"fit {member + 1}", done), save, until=minutes)
        return behind

    until(MINED)
    if job.minutes:  # else what it begins with ships, and errors would teach nobody
        fit.add(_mined(job, fit.network, member, rank, size))
    for share in STOPS:
        if until(share) and rank == 0:
            _keep_best(job, fit.network, member)
    if rank == 0 and not (job.work / f"best-{member}.pt").exists():
        _keep_best(job, fit.network, member)


def _mined(job: Job, model: Network, member: int, rank: int, size: int) -> Sequence[Example]:
    """This process's share of the harmless texts that the network is most wrong about."""
    file = job.work / f"mined-{member}-{rank}.pt"
    if not file.exists():
        spare = Examples.load(job.work / "spare.pt").rows[rank::size]
        found = hardest(model, spare, len(spare) // 10)
        Examples(found, ["mined"] * len(found), [""] * len(found)).save(file)
    return Examples.load(file).rows


def _keep_best(job: Job, model: Network, member: int) -> None:
    """Keep the weights if they rank what is held out better than those kept before."""
    file = job.work / f"best-{member}.pt"
    now = ranking(model, Examples.load(job.work / "held.pt"))
    before = -1.0  # less than any: the first is kept, however badly it ranks
    if file.exists():
        before = torch.load(file, map_location="cpu", weights_only=True)["ranking"]
    if now > before:
        torch.save({"ranking": now, "network": model.state_dict()}, file)
    history = job.work / f"rankings-{member}.txt"
    with history.open("a", encoding="utf-8") as lines:
        lines.write(f"{now:.5f}\n")


def finish(job: Job) -> None:
    """Calibrate the fitted network and write weights, vocabulary, thresholds, card and plots.

    With `job.keep` the weights are first averaged with those that the fit began with (WiSE-FT,
    Wortsman et al. 2022): what was learnt anew costs less of what was known.
    """
    job.tell("calibration", 0.0)
    held = Examples.load(job.work / "held.pt")
    model, rankings = _chosen(job, held)
    kept = Examples.load(job.work / "kept.pt")
    logits = predict(model, [row.ids for row in kept.rows])
    known, targets = _labels(kept.rows)
    harmless = logits[_ordinary(kept)]
    base = quantise.calibration(job.base / WEIGHTS) if job.trained else None
    calibration, as_before = _calibration(logits, known, targets, harmless, base)
    job.tell("calibration", 0.6)
    about = {
        "calibration": {
            "slope": calibration.slope.tolist(),
            "shift": calibration.shift.tolist(),
        },
        "seed": job.seed,
        "rankings": rankings,
    }
    scored = calibration.scores(predict(model, [row.ids for row in held.rows]))
    ranges = quantise.input_ranges(model, _usual(job, kept, held))
    quantise.save(model, ranges, job.out / WEIGHTS, about)
    text = (job.work / "vocabulary.txt").read_text(encoding="utf-8")
    (job.out / "vocabulary.txt").write_text(text, encoding="utf-8")
    hidden = often_hidden(model, calibration, Reader.from_file(job.work / "vocabulary.txt"))
    (job.out / "often_hidden.txt").write_text("\n".join(hidden) + "\n", encoding="utf-8")
    table = {} if calibration is base else calibrate.thresholds(calibration.scores(harmless))
    (job.out / "thresholds.json").write_text(json.dumps(table, indent=1), encoding="utf-8")
    before = None
    if base is not None:
        began = network(job, "french.pt")
        before = base.scores(predict(began, [row.ids for row in held.rows]))
    card = Card(table, as_before, (kept, calibration.scores(logits)), (held, scored), before)
    write_card(job.out, card)
    job.tell("calibration", 1.0)


def _chosen(job: Job, held: Examples) -> tuple[Network, dict[str, float]]:
    """The member that ranks best what is held out, or the mean of all if that ranks better.

    The mean of weights fitted from one beginning: a model soup (Wortsman et al. 2022). Return the
    ranking of each too, by its name.
    """
    kept = [
        torch.load(job.work / f"best-{member}.pt", map_location="cpu", weights_only=True)
        for member in range(job.members)
    ]
    weights = {f"member {n}": one["network"] for n, one in enumerate(kept, start=1)}
    rankings = {f"member {n}": one["ranking"] for n, one in enumerate(kept, start=1)}
    model = network(job, "french.pt")
    if job.members > 1:
        every = list(weights.values())
        mean = {name: torch.stack([one[name] for one in every]).mean(0) for name in every[0]}
        model.load_state_dict(mean)
        weights["mean"], rankings["mean"] = mean, ranking(model, held)
    chosen = weights[max(rankings, key=lambda name: rankings[name])]
    if job.keep:
        began = network(job, "french.pt").cpu().state_dict()
        chosen = {n: job.keep * began[n] + (1 - job.keep) * chosen[n].cpu() for n in chosen}
    model.load_state_dict(chosen)
    if job.keep:
        rankings[f"with {job.keep:g} of the beginning"] = ranking(model, held)
    return model, rankings


def _labels(rows: Sequence[Example]) -> tuple[Tensor, Tensor]:
    known = torch.tensor([row.weights for row in rows]) > 0
    return known, torch.tensor([row.targets for row in rows])


def _ordinary(kept: Examples) -> list[int]:
    """Places of texts of the sources that hold nothing harmful."""
    return [n for n, source in enumerate(kept.sources) if ordinary(source)]


def _usual(job: Job, kept: Examples, held: Examples, most: int = 256) -> list[Sequence[int]]:
    """Texts by which inputs' ranges are measured: learnt ones only where there are few others."""
    rows = [*kept.rows, *held.rows][:most]
    if len(rows) < most:
        rows += Examples.load(job.work / "examples.pt").rows[: most - len(rows)]
    return [row.ids for row in rows]


def _calibration(
    logits: Tensor,
    known: Tensor,
    targets: Tensor,
    ordinary: Tensor,
    base: calibrate.Calibration | None,
) -> tuple[calibrate.Calibration, Sequence[str]]:
    """Measured anew, but for the categories for which there is too little; and those.

    base: of the classifier that training began with, which they keep.
    """
    if base is not None and len(ordinary) < FEWEST:
        return base, CATEGORIES
    made = calibrate.calibrate(logits, known, targets, ordinary, FALSE_ALARMS)
    if base is None:
        return made, ()
    harmful = ((targets >= 0.5) & known).sum(0)
    fit = (harmful >= LABELS) & (known.sum(0) - harmful >= LABELS)
    slope = torch.where(fit, made.slope, base.slope)
    shift = torch.where(fit, made.shift, base.shift)
    as_before = [name for name, is_fit in zip(CATEGORIES, fit.tolist(), strict=True) if not is_fit]
    return calibrate.Calibration(slope, shift), as_before
