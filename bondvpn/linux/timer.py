"""One timer, to the microsecond (timerfd_create(2), Linux 2.6.25).

The event loop's own come at whole milliseconds, and up to one later than that: a line paced by them, whose
modem holds 2 ms, had 0.86 of what it carries, and 0.97 by this one (docs/design.md, 5).
"""

import asyncio
import ctypes
import os
import time
from collections.abc import Callable

from bondvpn.errors import SystemFault

# bits/timerfd.h; they are those of open(2)
_FLAGS = os.O_NONBLOCK | os.O_CLOEXEC
_NS_PER_S = 1_000_000_000
LONGEST_S = 1e6  # of a delay: what is longer, infinite too, ends after so much


class _TimeSpec(ctypes.Structure):
    """`struct timespec`."""

    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


class _TimerSpec(ctypes.Structure):
    """`struct itimerspec`: an interval of 0 is one shot."""

    _fields_ = (("interval", _TimeSpec), ("value", _TimeSpec))


class Timer:
    """Calls back once, when what it was last set to has passed."""

    def __init__(self, loop: asyncio.AbstractEventLoop, callback: Callable[[], None]) -> None:
        """Raises SystemFault."""
        libc = ctypes.CDLL(None, use_errno=True)
        self._fd = libc.timerfd_create(time.CLOCK_MONOTONIC, _FLAGS)
        if self._fd < 0:
            raise SystemFault(f"timerfd_create: {os.strerror(ctypes.get_errno())}")
        self._settime = libc.timerfd_settime
        self._spec = _TimerSpec()
        self._at = ctypes.byref(self._spec)
        self._loop = loop
        self._callback = callback
        loop.add_reader(self._fd, self._expired)

    def set(self, delay_s: float) -> None:
        """Call back in so many seconds, above 0, and not when it was to before."""
        seconds, fraction = divmod(min(delay_s, LONGEST_S), 1.0)
        value = self._spec.value
        value.seconds = int(seconds)
        value.nanoseconds = int(fraction * _NS_PER_S)
        self._settime(self._fd, 0, self._at, None)

    def close(self) -> None:
        self._loop.remove_reader(self._fd)
        os.close(self._fd)

    def _expired(self) -> None:
        try:
            os.read(self._fd, 8)
        except BlockingIOError:  # it was set anew meanwhile
            return
        self._callback()
