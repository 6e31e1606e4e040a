"""bondvpn with a stamp before and after each system call on a frame or a datagram, for `bench.steps`.

    python -m bench.stamped REPORT client --config FILE

Runs the command line that follows REPORT; at its end REPORT holds JSON: [[call, began, ended], ...] with
"readv", "sendmsg", "recvmsg" or "writev" and seconds of the monotonic clock, which all processes share. Calls
that found nothing are left out.
"""

import atexit
import functools
import json
import os
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

R = TypeVar("R")


def main() -> None:
    report = Path(sys.argv.pop(1))
    stamps: list[tuple[str, float, float]] = []

    def stamped(name: str, call: Callable[..., R]) -> Callable[..., R]:
        @functools.wraps(call)
        def stamping(*arguments: Any) -> R:
            began = time.monotonic()
            result = call(*arguments)
            stamps.append((name, began, time.monotonic()))
            return result

        return stamping

    os.readv = stamped("readv", os.readv)
    os.writev = stamped("writev", os.writev)
    # On socket.socket, Python's own class over the one in C: nothing built in is changed.
    socket.socket.sendmsg = stamped("sendmsg", socket.socket.sendmsg)  # type: ignore[method-assign]
    socket.socket.recvmsg_into = stamped("recvmsg", socket.socket.recvmsg_into)  # type: ignore[method-assign]
    atexit.register(lambda: report.write_text(json.dumps(stamps)))
    from bondvpn.cli import main as bondvpn  # noqa: PLC0415  # after the calls are stamped

    bondvpn()


if __name__ == "__main__":
    main()
