"""`gardefou keys add|list|revoke`. Where Redis is may be said before the command or behind it."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol, TypeVar, cast

import click

from gateway.cli.options import settings_from, settings_options
from gateway.errors import GatewayError
from gateway.keys import KeyRecord, KeyStore, Role
from gateway.limits.types import Limits
from gateway.redis_connection import open_redis
from gateway.settings.read import variable
from gateway.settings.types import Settings

T = TypeVar("T")


class RedisSettings(Protocol):
    """What these commands need of the settings. redis: a URL, or None for the embedded one."""

    @property
    def redis(self) -> str | None: ...
    @property
    def data(self) -> Path: ...


@click.group()
@settings_options("redis", "data")
def keys(**given: Any) -> None:
    """Who may use the gateway: add, list and revoke API keys."""


#: The group's options once more; the environment is the group's alone, so that it beats no flag.
_behind = settings_options("redis", "data", environment=False)


def _settings(ctx: click.Context, given: dict[str, Any]) -> RedisSettings:
    """What is said behind the command goes before what is said in front of it."""
    if ctx.obj is not None:  # a caller that runs these commands says where Redis is
        return cast("RedisSettings", ctx.obj)
    said = dict(ctx.parent.params if ctx.parent else {})
    said |= {name: value for name, value in given.items() if value is not None}
    return settings_from(said.pop("config", None), said)


@keys.command()
@click.argument("name")
@click.option(
    "--role",
    type=click.Choice(["app", "editor", "operator"]),
    default="app",
    show_default=True,
    help="What its holder sees: an app, categories alone; the others, scores and rules too.",
)
@click.option("--policy", help="The policy for its requests.  [default: the server's]")
@click.option("--rpm", type=click.IntRange(1), help="Requests per minute.")
@click.option("--tpm", type=click.IntRange(1), help="Tokens per minute, prompt and answer.")
@click.option("--streams", type=click.IntRange(1), help="Requests at once.")
@click.option("--blocks", type=click.IntRange(1), help="Blocked requests per hour.")
@_behind
@click.pass_context
def add(
    ctx: click.Context,
    /,
    name: str,
    role: str,
    policy: str | None,
    rpm: int | None,
    tpm: int | None,
    streams: int | None,
    blocks: int | None,
    **given: Any,
) -> None:
    """Make a key. Its secret goes to standard output, this once."""
    settings = _settings(ctx, given)
    limits = Limits(
        requests_per_minute=rpm,
        tokens_per_minute=tpm,
        concurrent_streams=streams,
        blocks_per_hour=blocks,
    )
    record, secret = _with_store(
        settings,
        lambda store: store.add(name, role=cast("Role", role), policy=policy, limits=limits),
    )
    if policy is not None and policy not in _policies(settings):
        click.echo(
            f"Warning: no policy that ships or that the settings here name is {policy!r}; "
            "unless the server serves one, this key's requests are refused (503).",
            err=True,
        )
    click.echo(f"Key {record.name} ({record.id}), role {record.role}. Keep its secret:", err=True)
    click.echo(secret)


@keys.command("list")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@_behind
@click.pass_context
def list_keys(ctx: click.Context, /, *, as_json: bool, **given: Any) -> None:
    """Show all keys, without their secrets."""
    settings = _settings(ctx, given)
    records = _with_store(settings, lambda store: store.list())
    for record in records:
        click.echo(record.model_dump_json() if as_json else _line(record))
    if not records and not as_json:
        click.echo("No keys.", err=True)


@keys.command()
@click.argument("name_or_id")
@_behind
@click.pass_context
def revoke(ctx: click.Context, /, name_or_id: str, **given: Any) -> None:
    """End a key: it is refused from the next request on."""
    settings = _settings(ctx, given)
    key_id = _with_store(settings, lambda store: store.revoke(name_or_id))
    click.echo(f"Revoked {name_or_id} ({key_id}).", err=True)


def _with_store(settings: RedisSettings, work: Callable[[KeyStore], Awaitable[T]]) -> T:
    try:
        with open_redis(settings.redis, settings.data) as endpoint:

            async def run() -> T:
                async with endpoint.client() as client:
                    return await work(KeyStore(client))

            return asyncio.run(run())
    except GatewayError as error:
        raise click.ClickException(str(error)) from error


def _policies(settings: RedisSettings) -> set[str]:
    """Names of the policies that ship, and of those of the settings as far as they can be read."""
    # Slow to import, and needed only here.
    from policies.document import Document
    from policies.errors import PolicyInvalid
    from policies.loader import library

    said = os.environ.get(variable("policy"), "").split()
    named = said or list(settings.policy if isinstance(settings, Settings) else ())
    names = set(library())
    for source in named:
        with suppress(OSError, UnicodeDecodeError, PolicyInvalid):
            data = Document(Path(source).read_text(encoding="utf-8"), source).data
            if isinstance(data, dict):
                names.add(str(data.get("policy")))
    return names


def _line(record: KeyRecord) -> str:
    limits = record.limits.model_dump(exclude_none=True)
    return "  ".join(
        [
            record.id,
            f"{record.name:<24}",
            f"{record.role:<8}",
            f"{record.policy or '(default policy)':<16}",
            f"{record.created:%Y-%m-%d %H:%M}",
            json.dumps(limits) if limits else "no limits",
        ]
    )
