"""Reads YAML 1.2 into plain values, and remembers where each stands.

In YAML 1.2 `yes`, `no` and `on` are words; only `true` and `false` are booleans.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import regex
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import CollectionEndEvent, CollectionStartEvent
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from policies.errors import COLON, PolicyInvalid, Problem

Path = tuple[str | int, ...]

_MOST_NODES = 200_000
_DEEPEST = 32
_INT = regex.compile(r"[-+]?[0-9]+")
_FLOAT = regex.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
#: What the parser says, and what an editor of policies is told instead.
_SAID = {
    r"found character '\t'": "a tab; YAML is indented with spaces",
    "another document": "a second document begins here; one policy a file",
    "unknown escape character": "a backslash in double quotes; write patterns in single ones",
    "mapping values are not allowed": COLON,
    "but got ':'": COLON,
    "expected <block end>": "indented unlike the lines around it",
}


class Document:
    """A YAML file as plain values.

    data: what it says. Raises PolicyInvalid if the text is not YAML, or says a key twice.
    """

    def __init__(self, text: str, source: str) -> None:
        self.source = source
        self._marks: dict[Path, tuple[int, int]] = {(): (1, 1)}
        self._problems: list[Problem] = []
        try:
            node = YAML(typ="safe", pure=True).compose(text)
        except MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
            raise PolicyInvalid([Problem(source, line, column, _syntax(error, line))]) from error
        except YAMLError as error:  # characters that YAML does not allow
            place = place_of(text[: getattr(error, "position", 0)])
            raise PolicyInvalid([Problem(source, *place, str(error).splitlines()[0])]) from error
        except RecursionError as error:
            raise PolicyInvalid([Problem(source, *_too_deep(text), "too deep")]) from error
        self.data = None if node is None else self._value(node, ())
        if self._problems:
            raise PolicyInvalid(self._problems)

    def problem(self, path: Sequence[str | int], message: str) -> Problem:
        """A problem at `path`, or at its nearest ancestor that is in the file."""
        where = tuple(path)
        while where not in self._marks:
            where = where[:-1]
        return Problem(self.source, *self._marks[where], message)

    def _value(self, node: Node, path: Path) -> object:
        self._marks.setdefault(path, _mark(node))
        if len(self._marks) > _MOST_NODES or len(path) > _DEEPEST:
            # Aliases of aliases, or of themselves, make a small file endless.
            raise PolicyInvalid([Problem(self.source, *_mark(node), "too large or too deep")])
        if isinstance(node, MappingNode):
            return self._mapping(node, path)
        if isinstance(node, SequenceNode):
            return [self._value(item, (*path, n)) for n, item in enumerate(node.value)]
        return self._plain(node) if isinstance(node, ScalarNode) else None

    def _plain(self, node: ScalarNode) -> object:
        try:
            return _scalar(node)
        except ValueError:  # Python reads no numbers of more than some thousand digits
            self._problems.append(Problem(self.source, *_mark(node), "too long a number"))
            return None

    def _mapping(self, node: MappingNode, path: Path) -> dict[str, object]:
        values: dict[str, object] = {}
        for key_node, value_node in node.value:
            key = str(key_node.value)
            where = (*path, key)
            if key in values:
                self._problems.append(
                    Problem(self.source, *_mark(key_node), f"{key!r} stands twice")
                )
            self._marks[where] = _mark(key_node)
            values[key] = self._value(value_node, where)
        return values


def place_of(before: str) -> tuple[int, int]:
    """Line and column of what stands behind `before`."""
    return before.count("\n") + 1, len(before) - before.rfind("\n")


def _mark(node: Node) -> tuple[int, int]:
    return node.start_mark.line + 1, node.start_mark.column + 1


def _too_deep(text: str) -> tuple[int, int]:
    """Where YAML that is too deep for `compose` gets too deep: reading events calls itself not."""
    depth = 0
    for event in YAML(typ="safe", pure=True).parse(text):
        depth += isinstance(event, CollectionStartEvent) - isinstance(event, CollectionEndEvent)
        if depth > _DEEPEST + 1:  # the document itself is a mapping
            return event.start_mark.line + 1, event.start_mark.column + 1
    return 1, 1


def _scalar(node: ScalarNode) -> object:
    """Resolve a scalar by the core schema of YAML 1.2 (chapter 10.3)."""
    text = str(node.value)
    if node.style is not None:  # quoted or block: text
        return text
    if text in {"", "~", "null", "Null", "NULL"}:
        return None
    if text in {"true", "True", "TRUE", "false", "False", "FALSE"}:
        return text.lower() == "true"
    if _INT.fullmatch(text):
        return int(text)
    if _FLOAT.fullmatch(text):
        return float(text)
    if text in {".inf", ".nan"}:
        return math.inf if text == ".inf" else math.nan
    return text


def _syntax(error: MarkedYAMLError, line: int) -> str:
    """What is wrong, and where the part began that it ends, if on another line than `line`."""
    problem = error.problem or error.context or "not YAML"
    message = next((told for said, told in _SAID.items() if said in problem), problem)
    began = error.context_mark
    if error.problem and error.context and began and began.line + 1 != line:
        message += f" ({error.context}, which began on line {began.line + 1})"
    return message
