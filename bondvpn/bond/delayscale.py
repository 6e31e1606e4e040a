"""One-way delays, known modulo 2^16 units of TIME_UNIT_S between clocks that were never compared.

All lanes of a direction share that scale. Modems queue more than half of those 1.05 s, so a delay is the one
that lies next above its line's base, or a little below it; taken for less, it would be the base for seconds.
The first one of a line lies near another line's base.
"""

from bondvpn.wire.sealed import TIME_UNIT_S, above, nearest

BELOW = round(0.25 / TIME_UNIT_S)  # a line's base: by how much a route gets shorter at once, at the most


class DelayScale:
    """Of one direction of a session."""

    __slots__ = ("_near",)

    def __init__(self) -> None:
        self._near: int | None = None  # the base of some line

    def place(self, told: int, base: float | None) -> int:
        """`told` on the scale, in units; `base`: the smallest of its line, None: it is the first one."""
        if base is not None:
            self._near = round(base)
            return above(told, self._near - BELOW, 16)
        if self._near is None:
            self._near = told & 0xFFFF
        self._near += nearest(told - self._near, 16)
        return self._near
