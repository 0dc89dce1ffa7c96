"""Starts a command that dies with the process that asked for it, even if that one is killed.

A script, run in a bare interpreter and never imported:

    python -I -S redis_launcher.py prctl PARENT_PID GRACE COMMAND...   becomes the command
    python -I -S redis_launcher.py pipe  FD         GRACE COMMAND...   watches over the command

`prctl` (Linux): the kernel sends SIGTERM when the parent's spawning thread ends. It is set here, in
a process of its own, because code between fork and exec of a threaded parent may deadlock.
`pipe` (elsewhere): FD is the reading end of a pipe whose writing end only the parent holds; its
end-of-file means that the parent has gone or wants the command stopped: by SIGTERM, and after GRACE
seconds by SIGKILL.
"""

from __future__ import annotations

import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def tie_by_prctl(parent: int, command: list[str]) -> None:
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0) != 0:
        sys.exit(f"prctl: {os.strerror(ctypes.get_errno())}")
    if os.getppid() != parent:  # it died before the line above
        sys.exit("the parent is gone")
    os.execv(command[0], command)  # noqa: S606


def tie_by_pipe(fd: int, grace: float, command: list[str]) -> int:
    import subprocess
    import threading

    # Open files are passed on: the lock on the data directory lives as long as the command does.
    child = subprocess.Popen(command, close_fds=False)  # noqa: S603

    def stop_at_end_of_file() -> None:
        while os.read(fd, 1):
            pass
        child.terminate()
        try:
            child.wait(grace)
        except subprocess.TimeoutExpired:
            child.kill()

    threading.Thread(target=stop_at_end_of_file, daemon=True).start()
    return child.wait()


if __name__ == "__main__":
    tether, number, grace, *command = sys.argv[1:]
    if tether == "prctl":  # the parent itself kills after its grace; the kernel does not
        tie_by_prctl(int(number), command)
    else:
        os._exit(
            tie_by_pipe(int(number), float(grace), command) & 0xFF
        )  # the reading thread may still block
