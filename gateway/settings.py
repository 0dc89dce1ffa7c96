"""All settings, in one frozen object: flags, then `GARDEFOU_*`, then one TOML file, then defaults.

Fields are the flags: `--max-tokens`, `GARDEFOU_MAX_TOKENS`, `max-tokens = 512` in the file.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Collection, Mapping
from dataclasses import fields
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from platformdirs import user_data_path
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from filters.registry import BUILT_IN
from gateway.errors import SettingsInvalid
from gateway.limits.types import MOST_LIMIT, Limits
from model_runner.types import Capabilities

#: How the address of a Redis begins.
REDIS_SCHEMES = ("redis://", "rediss://", "unix://")
#: Variables that are no settings: of the command line, and of clients as the docs and examples have
#: them.
OTHER_VARIABLES = ("GARDEFOU_CONFIG", "GARDEFOU_KEY", "GARDEFOU_URL")


def _listed(value: object) -> object:
    return (value,) if isinstance(value, str) else value


#: Settings that may be repeated; in the file, one text stands for a list of one.
Texts = Annotated[tuple[str, ...], BeforeValidator(_listed)]


def _field(default: Any, help_: str) -> Any:
    return Field(default=default, description=help_)


class ClassifierSettings(BaseModel):
    """A text classifier that policies may name: `[classifiers.NAME]` in the file.

    model: folder that `gardefou train classifier` wrote, which needs nothing else; or hub id or
    folder of a transformers sequence classifier, with labels: its labels -> our categories; labels
    left out are not reported. activation: how logits become scores.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str
    labels: dict[str, str] = Field(default_factory=dict)
    activation: Literal["softmax", "sigmoid"] = "softmax"
    device: str | None = None


class DetectorSettings(BaseModel):
    """A finder of spans that policies may name: `[detectors.NAME]` in the file.

    model: hub id or folder of a token classifier; or url: the address of a detector elsewhere, up
    to `/api/v1`, and detector: its id there. labels: what it says -> our categories; what is left
    out is not reported.
    params: sent along. key: sent as Bearer. ms: milliseconds for an answer. faults: in a row, after
    which it is left alone for `rest` seconds.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str | None = None
    device: str | None = None
    url: str | None = None
    detector: str = ""
    labels: dict[str, str] | None = None
    params: dict[str, Any] = Field(default_factory=dict)
    key: SecretStr | None = None
    ms: int = Field(default=1000, ge=1)
    connections: int = Field(default=100, ge=1)
    faults: int = Field(default=5, ge=1)
    rest: float = Field(default=10.0, gt=0)

    @model_validator(mode="after")
    def _one_place(self) -> DetectorSettings:
        if (self.model is None) == (self.url is None):
            raise ValueError("a detector has either a `model` or a `url`")
        if self.url is not None and not self.url.startswith(("http://", "https://")):
            raise ValueError("an address begins with http:// or https://")
        if self.url is not None and not self.detector:
            raise ValueError("`detector` is missing: the detector's id at that address")
        return self


class GuardSettings(BaseModel):
    """A generative guard that policies may name: `[guards.NAME]` in the file.

    template: the name of a shipped one, or a file of that form. model: hub id or folder of the
    guard, run here; or upstream: the address of an OpenAI-compatible engine that serves it, as
    upstream_model, with key sent as Bearer. Neither: the engine that also answers.
    """

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        alias_generator=lambda n: n.replace("_", "-"),
        populate_by_name=True,
    )

    template: str
    model: str | None = None
    device: str | None = None
    dtype: str | None = None
    upstream: str | None = None
    upstream_model: str = ""
    key: SecretStr | None = None
    ms: int = Field(default=5000, ge=1)

    @model_validator(mode="after")
    def _one_place(self) -> GuardSettings:
        if self.model is not None and self.upstream is not None:
            raise ValueError("give either `model` or `upstream`, not both")
        if self.upstream is not None and not self.upstream.startswith(("http://", "https://")):
            raise ValueError("an address begins with http:// or https://")
        if self.upstream is not None and not self.upstream_model:
            raise ValueError("`upstream-model` is missing: the guard's name there")
        return self


class BatchSettings(BaseModel):
    """How windows of all streams are scored together: `[batch]` in the file.

    size: windows of a batch at most. ms: that the oldest waits for company at most. queue: windows
    that may wait for one model; more are refused, and `on_error` decides. threads: cores that the
    built-in classifier uses at once; None: half of them, and four at most.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    size: int = Field(default=32, ge=1)
    ms: float = Field(default=2.0, ge=0)
    queue: int = Field(default=1024, ge=1)
    threads: int | None = Field(default=None, ge=1)


class Settings(BaseModel):
    """What `gardefou serve` runs with."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        alias_generator=lambda n: n.replace("_", "-"),
        populate_by_name=True,
    )

    model: str | None = _field(
        None, "Model to run here: a hub id or a folder. Default: the built-in demo model."
    )
    upstream: str | None = _field(
        None,
        "Run no model here: the address of an OpenAI-compatible engine, as http://host:8000/v1.",
    )
    upstream_model: str | None = _field(
        None, "The model's name there. Default: the first it lists."
    )
    upstream_key: str | None = _field(None, "The key to send there.")
    upstream_dialect: Literal["openai", "vllm"] = _field(
        "openai",
        "vllm: also use vLLM's own fields: a cache salt for each tenant, ways to sample, scores.",
    )
    upstream_idle_seconds: float = _field(
        60.0,
        "Seconds that the engine elsewhere may take to begin an answer, and between two parts of"
        " it; past them the request fails.",
    )
    upstream_has: Texts = _field(
        (), "What the engine there can do beyond its dialect, as top_k; repeat the flag for more."
    )
    upstream_lacks: Texts = _field(
        (), "What it cannot do of its dialect, as score or logprobs; repeat the flag for more."
    )
    name: str | None = _field(None, "The name clients use for the model. Default: the model's own.")
    device: str | None = _field(
        None, "Where the model runs: cuda, cuda:1, cpu… Default: cuda if there is one, else cpu."
    )
    dtype: str | None = _field(None, "bfloat16, float16 or float32. Default: what fits the device.")
    policy: Texts = _field(
        ("default",),
        "Policy file, or the name of a shipped one (default, strict, patterns). The first is for"
        " all keys that name none; repeat the flag for more. Edits are taken up by themselves.",
    )
    filter: Texts = _field(
        (),
        "A filter kind of your own, as NAME=path/to/file.py:Class or NAME=module:Class; repeat the"
        " flag for more. Policies then use it by its name.",
    )
    redaction_key: str | None = _field(
        None,
        "Keys the hashes that policies put in the place of redacted text; 16 characters or more."
        " Better in the environment or the file than on the command line.",
    )
    host: str = _field("127.0.0.1", "Address to listen on. Beyond this machine, keys are required.")
    port: int = _field(8080, "Port to listen on.")
    redis: str | None = _field(
        None, "Your Redis, as redis://host:6379/0. Default: an embedded one of our own."
    )
    data: Path = _field(user_data_path("gardefou"), "Folder for what the embedded Redis keeps.")
    max_tokens: int = _field(512, "Tokens of an answer at most, where the request does not say.")
    drain_seconds: float = _field(
        20.0,
        "Seconds that running answers get to end after SIGTERM or Ctrl-C, while new requests are"
        " refused; a second signal ends at once.",
    )
    receive_seconds: float = _field(
        30.0,
        "Seconds that a request's head may take to arrive, and each piece of its body; the whole"
        " body may take ten times as long.",
    )
    queue: int = _field(64, "Requests that may wait for the model; more are refused with 503.")
    concurrency: int = _field(16, "Answers that the model writes at once.")
    kv_gib: float | None = _field(
        None,
        "GiB that the model's keys and values may take, those kept for the next turn included."
        " Default: 2, on a GPU four fifths of what is free beside the weights.",
    )
    read_tokens: int | None = _field(
        None,
        "Tokens of prompts that the model reads in one step at most. Default: 512, on a GPU 2048.",
    )
    stall: float = _field(
        2.0,
        "How many times a usual step one may take that also reads prompts, while others write:"
        " more, and prompts are read sooner, and answers flow less evenly.",
    )
    compile: Literal["no", "yes"] = _field(
        "no",
        "Compile the steps that only write when the server starts, which makes them about a quarter"
        " quicker on a GPU; the start takes a minute longer.",
    )
    judge_reserve: int = _field(
        0, "Tokens of the model's context that answers leave free for the questions of critiques."
    )
    judges: int = _field(
        256, "Texts that the model may judge at once; more are refused, and `on_error` decides."
    )
    limits_on_error: Literal["refuse", "allow"] = _field(
        "refuse", "What happens to requests while Redis is away."
    )
    requests_per_minute: int | None = _field(None, "Limit for callers without a key.")
    tokens_per_minute: int | None = _field(None, "Limit for callers without a key.")
    concurrent_streams: int | None = _field(None, "Limit for callers without a key.")
    blocks_per_hour: int | None = _field(None, "Limit for callers without a key.")
    log_level: Literal["debug", "info", "warning", "error"] = _field("info", "How much to log.")
    # Only in the file: tables do not fit a flag.
    classifiers: dict[str, ClassifierSettings] = Field(default_factory=dict)
    detectors: dict[str, DetectorSettings] = Field(default_factory=dict)
    guards: dict[str, GuardSettings] = Field(default_factory=dict)
    batch: BatchSettings = Field(default=BatchSettings())
    files: dict[str, Path] = Field(default_factory=dict)  # lists that policies name
    probes: dict[str, Path] = Field(default_factory=dict)  # heads on the model's hidden states

    @field_validator("port")
    @classmethod
    def _port(cls, value: int) -> int:
        if not 0 <= value <= 65535:
            raise ValueError("a port is a number from 0 to 65535")
        return value

    @field_validator("queue", "concurrency", "read_tokens", "judges", "max_tokens")
    @classmethod
    def _some(cls, value: int | None) -> int | None:
        if value is not None and value < 1:
            raise ValueError("1 or more")
        return value

    @field_validator(
        "requests_per_minute", "tokens_per_minute", "concurrent_streams", "blocks_per_hour"
    )
    @classmethod
    def _limit(cls, value: int | None) -> int | None:
        if value is not None and not 1 <= value <= MOST_LIMIT:
            raise ValueError(f"from 1 to {MOST_LIMIT}")
        return value

    @field_validator("model", "upstream_model", "name", "device", "dtype")
    @classmethod
    def _not_empty(cls, value: str | None) -> str | None:
        if value is not None and not value.strip():
            raise ValueError("empty; leave it out for the default")
        return value

    @field_validator("judge_reserve")
    @classmethod
    def _none_or_some(cls, value: int) -> int:
        if value < 0:
            raise ValueError("0 or more")
        return value

    @field_validator("kv_gib", "stall")
    @classmethod
    def _finite(cls, value: float | None, info: ValidationInfo) -> float | None:
        least = 1.0 if info.field_name == "stall" else 0.0
        if value is not None and not (least < value < 1e6):
            raise ValueError(f"more than {least:g}")
        return value

    @field_validator("upstream_has", "upstream_lacks")
    @classmethod
    def _capabilities(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        known = {field.name for field in fields(Capabilities)}
        if wrong := sorted(set(value) - known):
            raise ValueError(f"{wrong[0]!r} is none of {', '.join(sorted(known))}")
        return value

    @field_validator("drain_seconds")
    @classmethod
    def _a_while(cls, value: float) -> float:
        if not 0.0 <= value <= 3600.0:
            raise ValueError("from 0 to 3600 seconds")
        return value

    @field_validator("upstream_idle_seconds", "receive_seconds")
    @classmethod
    def _some_time(cls, value: float) -> float:
        if not 0.0 < value <= 3600.0:
            raise ValueError("more than 0 and at most 3600 seconds")
        return value

    @field_validator("upstream")
    @classmethod
    def _address(cls, value: str | None) -> str | None:
        if value is not None and not value.startswith(("http://", "https://")):
            raise ValueError("an address begins with http:// or https://")
        return value

    @field_validator("redis")
    @classmethod
    def _redis_address(cls, value: str | None) -> str | None:
        if value is None:
            return None
        if not value.startswith(REDIS_SCHEMES):
            raise ValueError("an address begins with redis://, rediss:// or unix://")
        try:
            _ = urlsplit(value).port
        except ValueError:
            raise ValueError("what stands for the port is none, from 0 to 65535") from None
        return value

    @field_validator("redaction_key")
    @classmethod
    def _long_enough(cls, value: str | None) -> str | None:
        if value is not None and len(value) < 16:
            raise ValueError("a key for hashes has 16 characters or more")
        return value

    @model_validator(mode="after")
    def _one_engine(self) -> Settings:
        if self.model is not None and self.upstream is not None:
            raise ValueError("give either `model` or `upstream`, not both")
        if self.probes and self.upstream is not None:
            raise ValueError("`probes` read a model that runs here; there is none with `upstream`")
        return self

    @field_validator("filter")
    @classmethod
    def _named_kinds(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        names: set[str] = set()
        for one in value:
            name, equals, target = one.partition("=")
            where, colon, attribute = target.rpartition(":")
            if not (name and equals and where and colon and attribute):
                raise ValueError(f"{one!r} is not NAME=path/to/file.py:Class or NAME=module:Class")
            if name in BUILT_IN:  # which would win, and this one never be asked
                raise ValueError(f"{name!r} is a kind that ships: choose another name")
            if name in names:
                raise ValueError(f"two kinds have the name {name!r}")
            names.add(name)
        return value

    @property
    def kinds(self) -> dict[str, str]:
        """Filter kinds of the settings' own: name -> where the class is."""
        return {one.partition("=")[0]: one.partition("=")[2] for one in self.filter}

    @property
    def limits(self) -> Limits:
        """Of callers without a key."""
        return Limits(
            requests_per_minute=self.requests_per_minute,
            tokens_per_minute=self.tokens_per_minute,
            concurrent_streams=self.concurrent_streams,
            blocks_per_hour=self.blocks_per_hour,
        )


def read_settings(
    given: Mapping[str, Any], file: Path | None, variables: Collection[str] = ()
) -> Settings:
    """Settings from flags and environment (`given`) over the file. Raises SettingsInvalid.

    variables: names in `given` that the environment said, for messages.
    """
    said: dict[str, Any] = {}
    if file is not None:
        try:
            said = tomllib.loads(file.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise SettingsInvalid(f"{file}: {error}") from error
    said = {key.replace("_", "-"): value for key, value in said.items()}
    flags = {key.replace("_", "-"): value for key, value in given.items()}
    places = {name: f"{file}: {name}" for name in said}
    places |= {name: f"--{name}" for name in flags}
    places |= {name.replace("_", "-"): variable(name) for name in variables}
    try:
        return Settings.model_validate(said | flags)
    except ValidationError as error:
        raise SettingsInvalid("\n".join(_explained(e, places) for e in error.errors())) from error


def variable(name: str) -> str:
    """The environment's name for a setting."""
    return f"GARDEFOU_{name.replace('-', '_').upper()}"


def unknown_variables(environment: Collection[str]) -> list[str]:
    """What to say of each `GARDEFOU_*` that is no setting, a line each."""
    known = [variable(name) for name, field in Settings.model_fields.items() if field.description]
    known += OTHER_VARIABLES
    return [
        f"{name} is no setting of the environment, and is ignored{_near(name, known)}"
        for name in sorted(environment)
        if name.startswith("GARDEFOU_") and name not in known and not _of_kubernetes(name)
    ]


def _of_kubernetes(name: str) -> bool:
    """Whether Kubernetes sets it by itself, beside a service named `gardefou`."""
    return re.match(r"GARDEFOU_(SERVICE_HOST|SERVICE_PORT|PORT_\d+_)", name) is not None


def _near(name: str, known: Collection[str]) -> str:
    # Without what all variables have in common, and would make them near.
    ends = {one.removeprefix("GARDEFOU_"): one for one in known}
    near = get_close_matches(name.removeprefix("GARDEFOU_"), ends, n=1)
    return f"; did you mean {ends[near[0]]}?" if near else ""


#: What pydantic would say in its own words.
_WANTED = {
    "int_parsing": "expected a whole number",
    "int_type": "expected a whole number",
    "int_from_float": "expected a whole number",
    "float_parsing": "expected a number",
    "float_type": "expected a number",
    "string_type": "expected a text",
    "path_type": "expected a path",
    "tuple_type": "expected a text, or a list of them",
    "dict_type": "expected a table",
    "model_type": "expected a table",
    "literal_error": "expected {expected}",
    "greater_than_equal": "{ge} or more",
    "greater_than": "more than {gt}",
    "missing": "missing",
}


def _explained(error: Any, places: Mapping[str, str]) -> str:
    """One thing that is wrong, and where. places: where each setting that was given stands."""
    message = str(error["msg"]).removeprefix("Value error, ")
    if not error["loc"]:
        return message
    setting, *path = (str(part) for part in error["loc"])
    where = ".".join([places.get(setting, f"--{setting}"), *path])
    if error["type"] == "extra_forbidden":
        known = [name.replace("_", "-") for name in Settings.model_fields]
        return f"{where}: unknown setting" + ("" if path else _near(setting, known))
    if error["type"] in _WANTED:
        message = _WANTED[error["type"]].format(**error.get("ctx", {}))
    if error["type"] == "missing" or _untold(".".join([setting, *path]), error["input"]):
        return f"{where}: {message}"
    return f"{where}: {message} (given: {error['input']!r})"


def _untold(name: str, given: object) -> bool:
    """Whether a value is not repeated: it may hold a secret, or the message has what matters."""
    if isinstance(given, dict | list | tuple):
        return True
    # An address may hold a password, before its @ or in its query.
    return name.endswith(("-key", ".key")) or (isinstance(given, str) and bool({*"@?"} & {*given}))
