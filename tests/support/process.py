"""A real `gardefou serve` in a process of its own."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

COMMAND = [str(Path(sys.executable).with_name("gardefou"))]
_URL = re.compile(r"on (http://[^/\s]+)/v1")


@dataclass
class Server:
    """A server that runs. `url`: without `/v1`. `log`: where it writes."""

    url: str
    process: subprocess.Popen[bytes]
    log: Path

    def children(self) -> list[int]:
        """Process ids of its children."""
        tasks = Path(f"/proc/{self.process.pid}/task")
        listed = [(task / "children").read_text().split() for task in tasks.iterdir()]
        return [int(pid) for pids in listed for pid in pids]


@contextmanager
def served(folder: Path, *arguments: str, seconds: float = 90.0) -> Iterator[Server]:
    """Run `gardefou serve` on a free port, with its data in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "log"
    environment = {k: v for k, v in os.environ.items() if not k.startswith("GARDEFOU_")}
    with log.open("wb") as out:
        process = subprocess.Popen(
            [*COMMAND, "serve", "--port", "0", "--data", str(folder / "data"), *arguments],
            stdout=out,
            stderr=subprocess.STDOUT,
            cwd=folder,
            env=environment,
        )
    try:
        yield Server(_url(process, log, seconds), process, log)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise


def run(*arguments: str, folder: Path, stdin: str = "") -> subprocess.CompletedProcess[str]:
    """Run a `gardefou` command to its end."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("GARDEFOU_")}
    return subprocess.run(
        [*COMMAND, *arguments],
        capture_output=True,
        text=True,
        cwd=folder,
        env=environment,
        timeout=90,
        input=stdin,
        check=False,
    )


def alive(pid: int) -> bool:
    """Whether the process runs; a zombie does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def _url(process: subprocess.Popen[bytes], log: Path, seconds: float) -> str:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := _URL.search(log.read_text()):
            return found[1]
        if process.poll() is not None:
            break
        time.sleep(0.05)
    raise AssertionError(f"the server did not start:\n{log.read_text()}")
