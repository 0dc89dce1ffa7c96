"""`gardefou keys add|list|revoke`. The context's object, from the root, says where Redis is."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Protocol, TypeVar, cast

import click

from gateway.cli.options import settings_from, settings_options
from gateway.errors import GatewayError
from gateway.keys import KeyRecord, KeyStore, Role
from gateway.limits.types import Limits
from gateway.redis_connection import open_redis

T = TypeVar("T")


class RedisSettings(Protocol):
    """What these commands need of the settings. redis: a URL, or None for the embedded one."""

    @property
    def redis(self) -> str | None: ...
    @property
    def data(self) -> Path: ...


@click.group()
@settings_options("redis", "data")
@click.pass_context
def keys(ctx: click.Context, /, config: Path | None, **given: str | None) -> None:
    """Who may use the gateway: add, list and revoke API keys."""
    ctx.obj = ctx.obj or settings_from(config, dict(given))


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
@click.pass_obj
def add(
    settings: RedisSettings,
    name: str,
    role: str,
    policy: str | None,
    rpm: int | None,
    tpm: int | None,
    streams: int | None,
    blocks: int | None,
) -> None:
    """Make a key. Its secret goes to standard output, this once."""
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
    click.echo(f"Key {record.name} ({record.id}), role {record.role}. Keep its secret:", err=True)
    click.echo(secret)


@keys.command("list")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@click.pass_obj
def list_keys(settings: RedisSettings, *, as_json: bool) -> None:
    """Show all keys, without their secrets."""
    records = _with_store(settings, lambda store: store.list())
    for record in records:
        click.echo(record.model_dump_json() if as_json else _line(record))
    if not records and not as_json:
        click.echo("No keys.", err=True)


@keys.command()
@click.argument("name_or_id")
@click.pass_obj
def revoke(settings: RedisSettings, name_or_id: str) -> None:
    """End a key: it is refused from the next request on."""
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
