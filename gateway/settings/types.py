"""All settings, in one frozen object.

Fields are the flags: `--max-tokens`, `GARDEFOU_MAX_TOKENS`, `max-tokens = 512` in the file.
"""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, Literal

from platformdirs import user_data_path
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from filters.registry import BUILT_IN
from gateway.limits.types import Limit, Limits
from gateway.settings.tables import (
    BatchSettings,
    ClassifierSettings,
    DetectorSettings,
    GuardSettings,
)
from gateway.settings.values import (
    Address,
    Count,
    HashKey,
    Name,
    Port,
    RedisAddress,
    Seconds,
    SomeSeconds,
    Texts,
)
from model_runner.types import Capabilities


def _field(default: Any, help_: str) -> Any:
    return Field(default=default, description=help_)


class Settings(BaseModel):
    """What `gardefou serve` runs with."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        alias_generator=lambda n: n.replace("_", "-"),
        populate_by_name=True,
    )

    model: Name | None = _field(
        None, "Model to run here: a hub id or a folder. Default: the built-in demo model."
    )
    upstream: Address | None = _field(
        None,
        "Run no model here: the address of an OpenAI-compatible engine, as http://host:8000/v1.",
    )
    upstream_model: Name | None = _field(
        None, "The model's name there. Default: the first it lists."
    )
    upstream_key: str | None = _field(None, "The key to send there.")
    upstream_dialect: Literal["openai", "vllm"] = _field(
        "openai",
        "vllm: also use vLLM's own fields: a cache salt for each tenant, ways to sample, scores.",
    )
    upstream_idle_seconds: SomeSeconds = _field(
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
    name: Name | None = _field(
        None, "The name clients use for the model. Default: the model's own."
    )
    device: Name | None = _field(
        None, "Where the model runs: cuda, cuda:1, cpu… Default: cuda if there is one, else cpu."
    )
    dtype: Name | None = _field(
        None, "bfloat16, float16 or float32. Default: what fits the device."
    )
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
    redaction_key: HashKey | None = _field(
        None,
        "Keys the hashes that policies put in the place of redacted text; 16 characters or more."
        " Better in the environment or the file than on the command line.",
    )
    host: str = _field("127.0.0.1", "Address to listen on. Beyond this machine, keys are required.")
    port: Port = _field(8080, "Port to listen on.")
    redis: RedisAddress | None = _field(
        None, "Your Redis, as redis://host:6379/0. Default: an embedded one of our own."
    )
    data: Path = _field(user_data_path("gardefou"), "Folder for what the embedded Redis keeps.")
    max_tokens: Count = _field(512, "Tokens of an answer at most, where the request does not say.")
    drain_seconds: Seconds = _field(
        20.0,
        "Seconds that running answers get to end after SIGTERM or Ctrl-C, while new requests are"
        " refused; a second signal ends at once.",
    )
    receive_seconds: SomeSeconds = _field(
        30.0,
        "Seconds that a request's head may take to arrive, and each piece of its body; the whole"
        " body may take ten times as long.",
    )
    queue: Count = _field(64, "Requests that may wait for the model; more are refused with 503.")
    concurrency: Count = _field(16, "Answers that the model writes at once.")
    kv_gib: Annotated[float, Field(gt=0, lt=1e6, allow_inf_nan=False)] | None = _field(
        None,
        "GiB that the model's keys and values may take, those kept for the next turn included."
        " Default: 2, on a GPU four fifths of what is free beside the weights.",
    )
    read_tokens: Count | None = _field(
        None,
        "Tokens of prompts that the model reads in one step at most. Default: 512, on a GPU 2048.",
    )
    stall: Annotated[float, Field(gt=1, lt=1e6, allow_inf_nan=False)] = _field(
        2.0,
        "How many times a usual step one may take that also reads prompts, while others write:"
        " more, and prompts are read sooner, and answers flow less evenly.",
    )
    compile: Literal["no", "yes"] = _field(
        "no",
        "Compile the steps that only write when the server starts, which makes them about a quarter"
        " quicker on a GPU; the start takes a minute longer.",
    )
    judge_reserve: Annotated[int, Field(ge=0)] = _field(
        0, "Tokens of the model's context that answers leave free for the questions of critiques."
    )
    judges: Count = _field(
        256, "Texts that the model may judge at once; more are refused, and `on_error` decides."
    )
    limits_on_error: Literal["refuse", "allow"] = _field(
        "refuse", "What happens to requests while Redis is away."
    )
    requests_per_minute: Limit | None = _field(None, "Limit for callers without a key.")
    tokens_per_minute: Limit | None = _field(None, "Limit for callers without a key.")
    concurrent_streams: Limit | None = _field(None, "Limit for callers without a key.")
    blocks_per_hour: Limit | None = _field(None, "Limit for callers without a key.")
    audit: Path | None = _field(
        None,
        "File to which each decision is appended, one JSON object a line, without the text.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = _field("info", "How much to log.")
    # Only in the file: tables do not fit a flag.
    classifiers: dict[str, ClassifierSettings] = Field(default_factory=dict)
    detectors: dict[str, DetectorSettings] = Field(default_factory=dict)
    guards: dict[str, GuardSettings] = Field(default_factory=dict)
    batch: BatchSettings = Field(default=BatchSettings())
    files: dict[str, Path] = Field(default_factory=dict)  # lists that policies name
    probes: dict[str, Path] = Field(default_factory=dict)  # heads on the model's hidden states

    @field_validator("upstream_has", "upstream_lacks")
    @classmethod
    def _capabilities(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        known = {field.name for field in fields(Capabilities)}
        if wrong := sorted(set(value) - known):
            raise ValueError(f"{wrong[0]!r} is none of {', '.join(sorted(known))}")
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
