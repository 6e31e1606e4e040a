"""What a forked process asks of the kernel."""

import contextlib
import ctypes
import os
import signal
from pathlib import Path

from bondvpn.errors import SystemFault

PR_SET_PDEATHSIG = 1  # linux/prctl.h


def die_with(parent: int) -> None:
    """Be killed as soon as `parent`, the process that forked us, is gone. Raises SystemFault."""
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0) != 0:
        raise SystemFault(f"prctl(PR_SET_PDEATHSIG): {os.strerror(ctypes.get_errno())}")
    if os.getppid() != parent:  # it went before the kernel knew
        os.kill(os.getpid(), signal.SIGKILL)


def set_name(name: str) -> None:
    """What `top` and `ps` call this process, 15 bytes."""
    with contextlib.suppress(OSError):  # no more than a convenience
        Path("/proc/self/comm").write_text(name)
