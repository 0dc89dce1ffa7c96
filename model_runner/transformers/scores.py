"""Scores that are asked of choices: of one text together, once it is computed."""

from __future__ import annotations

from collections.abc import Collection
from functools import partial

import torch

from model_runner.errors import BadRequest, EngineFailed, RunnerError
from model_runner.transformers.batch import Segment, tree
from model_runner.transformers.choice import Choice, Score, Work
from model_runner.transformers.fence import attempt
from model_runner.transformers.outlet import Handover


class Scores:
    """Those that wait. trees: whether several of one place may be one segment."""

    def __init__(self, handover: Handover, *, trees: bool) -> None:
        self._handover = handover
        self._trees = trees
        self._waiting: list[Score] = []
        self._planned: list[Score] = []  # in the step that runs

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, score: Score) -> None:
        self._waiting.append(score)

    @property
    def asked(self) -> set[Choice]:
        """The choices that they are asked of."""
        return {score.choice for score in self._waiting}

    def plan(self, running: Collection[Choice]) -> tuple[list[Work], dict[Choice, int]]:
        """Those that can run; and up to where choices that do not write must be read for others."""
        unread: dict[Choice, int] = {}
        groups: dict[tuple[Choice, int], list[tuple[Score, list[int]]]] = {}
        left: list[Score] = []
        for score in self._waiting:
            choice = score.choice
            found, error = attempt(partial(_aside, score))
            if error is not None:
                self.fail((score,), error)
                continue
            assert found is not None  # noqa: S101
            position, ids = found
            if choice.row is not None and choice.read >= position:
                groups.setdefault((choice, position), []).append((score, ids))
            else:
                left.append(score)
                if choice not in running:
                    unread[choice] = max(position, unread.get(choice, 0))
        self._waiting = left
        self._planned = [score for those in groups.values() for score, _ in those]
        together = list(groups.items())
        if not self._trees:
            together = [(where, [one]) for where, those in together for one in those]
        return [_work(*where, those) for where, those in together], unread

    def answer(self, work: Work, logits: torch.Tensor) -> None:
        """logits: (scores of `work`, vocabulary)."""
        probabilities = torch.softmax(logits, dim=-1)
        for score, row in zip(work.scores, probabilities, strict=True):
            found = row[torch.tensor(list(score.labels.values()), device=row.device)].tolist()
            self._handover.answer(score.answer, dict(zip(score.labels, found, strict=True)))

    def fail(self, scores: Collection[Score], error: RunnerError) -> None:
        for score in scores:
            self._handover.answer(score.answer, error=error)

    def fail_all(self, error: RunnerError) -> None:
        """Those that wait, and those of the step: one that is answered already stays so."""
        self.fail([*self._waiting, *self._planned], error)
        self._waiting, self._planned = [], []


def _aside(score: Score) -> tuple[int, list[int]]:
    if score.choice.closed:
        raise BadRequest("the generation is closed")
    if score.choice.failed:
        raise EngineFailed("the engine failed on this request")
    return score.choice.sequence.aside(score.at, score.suffix)


def _work(choice: Choice, position: int, those: list[tuple[Score, list[int]]]) -> Work:
    assert choice.row is not None  # noqa: S101
    ids, offsets, sees, ends = tree([ids for _, ids in those])
    places = offsets if sees is not None else None
    segment = Segment(choice.row, ids, position, False, tuple(ends), places, sees)
    return Work(segment, choice, [score for score, _ in those])
