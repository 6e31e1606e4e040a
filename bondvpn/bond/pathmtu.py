"""The largest IP packet that one link's path carries, found by probing (DPLPMTUD, RFC 8899). Sans-IO.

Use begins at BASE while the search asks for the interface's MTU first, since most paths pass it; failing
that, it bisects the sizes that real paths have. A size is out after MAX_PROBES tries, but the one that would
end the search gets as many again, so that plain loss does not fix a low value for ten minutes. After that the
current size is confirmed while nothing else shows that it passes, and the search above it is repeated: paths
also get better.

    searching --(nothing left between current and ceiling)--> complete
    complete  --(RAISE_INTERVAL_S)--> searching, from current
    any       --(current no longer passes, lost_confidence)--> searching, from BASE

Data says sooner than the next confirmation that it does not: nothing larger than BASE comes any more.

Hints from outside change no size: an ICMP message only says what to probe next (RFC 8899, section 4.6).
"""

from math import inf

# Specification.
BASE_BYTES = (
    1280  # RFC 8899 section 5.1.2 allows 1200; below 1280 IPv6 would not be IPv6 (RFC 8200 section 5)
)
MAX_PROBES = 3  # RFC 8899 section 5.1.2
RAISE_INTERVAL_S = 600.0  # PMTU_RAISE_TIMER, RFC 8899 section 5.1.1

# Tuning.
# RFC 8899 section 5.1.1 asks for 1 s at least, for want of an RTT. We have one, and late answers count too.
TRY_INTERVAL_S = 0.25
TRY_INTERVAL_RTTS = 2.0
CONFIRM_INTERVAL_S = 15.0
# Ethernet; PPPoE; then what tunnels, DSL and mobile networks leave of it.
CANDIDATES_BYTES = (
    *(1300, 1320, 1340, 1360, 1380, 1400, 1412, 1420, 1428, 1436),
    *(1448, 1452, 1454, 1460, 1472, 1480, 1492, 1500),
)


class PathMtu:
    """One link's path MTU. Sizes: bytes of the whole IP packet. Times: seconds of one monotonic clock."""

    def __init__(self, interface_mtu: int, now: float) -> None:
        self.current = 0
        """Largest size known to pass (at first: assumed to)."""
        self.searching = True
        """Is a larger size still being looked for?"""
        self._interface_mtu = 0
        self._hint = 0
        self._ceiling_sure = False
        self._probing: int | None = None
        self._tries = 0
        self.interface_changed(interface_mtu, now)

    def poll(self, now: float, rtt_s: float = 0.0) -> int | None:
        """Size of a probe to send now, DF set, padded to just that, or None. `rtt_s`: the link's."""
        if now < self.next_deadline():
            return None
        if self._probing is not None and self._tries >= MAX_PROBES:
            self._failed(self._probing, now)
        if self._probing is None:
            self._probing = self._pick(now)
            self._tries = 0
            if self._probing is None:
                return None
        self._tries += 1
        self._sent.add(self._probing)
        self._next_at = now + max(TRY_INTERVAL_S, TRY_INTERVAL_RTTS * rtt_s)
        return self._probing

    def acknowledge(self, size: int, now: float) -> None:
        """A packet of `size` arrived there: a probe, or data of the current size, which saves a probe."""
        if size < self.current or (size > self.current and size not in self._sent):
            return
        if size >= self._ceiling:  # an answer later than all tries, or a size out by mere loss
            self._open_ceiling()
        self.current = size
        self._shown_at = now
        self._confirm_at = now + CONFIRM_INTERVAL_S if size > self._base else inf
        if self._hint <= size:
            self._hint = 0
        if self._probing is not None and self._probing <= size:
            self._probing = None
            self._next_at = now

    def next_deadline(self) -> float:
        """When `poll` wants to be called; infinity when never."""
        if self._probing is not None or self.searching:
            return self._next_at
        return min(self._confirm_at, self._raise_at)

    def interface_changed(self, mtu: int, now: float) -> None:
        """The link leaves by an interface of this MTU from now on."""
        if mtu == self._interface_mtu:
            return
        self._interface_mtu = mtu
        self._base = min(BASE_BYTES, mtu)
        self._sizes = [size for size in CANDIDATES_BYTES if size < mtu] + [mtu]
        self._hint = 0
        self._restart(now)

    def lost_confidence(self, now: float) -> None:
        """Large packets vanish while small ones pass: search again from BASE (RFC 8899 section 4.3)."""
        if self.current > self._base:
            self._restart(now)

    def doubted(self, now: float) -> None:
        """Data is lost while probes pass, perhaps for its size: confirm at once (RFC 8899 section 4.3)."""
        if self.current > self._base:
            self._confirm_at = min(self._confirm_at, now)

    def reported(self, came_largest: int, lost_largest: int, lost: int, now: float) -> None:
        """The peer reported on data: sizes of the largest packet that came and that was lost, 0 if none, and
        how many were lost.

        A path that has shrunk takes every large packet. Then other lines are preferred, and what is still
        sent need not be enough to look like loss, or to be reported on more than once.
        """
        if came_largest > self._base:
            self._vanished = 0
        elif lost_largest > self._base:
            self._vanished += lost
            if self._vanished >= MAX_PROBES:
                self._vanished = 0
                self.doubted(now)

    def packet_too_big(self, mtu: int, now: float) -> None:
        """An ICMP message claims that only `mtu` passes. Easily forged, it only directs the next probes."""
        if not self._base < mtu < self._interface_mtu:
            return
        self._hint = mtu
        if mtu < self.current:
            self._confirm_at = min(self._confirm_at, max(now, self._shown_at + TRY_INTERVAL_S))

    def _restart(self, now: float) -> None:
        self.current = self._base
        self._sent: set[int] = set()
        """Sizes probed since: an older answer says nothing about the path as it is now."""
        self._shown_at = now
        self._confirm_at = inf
        self._raise_at = inf
        self._vanished = 0  # packets reported lost, large ones among them, since a large one came
        self._probing = None
        self._next_at = now
        self._open_ceiling()

    def _open_ceiling(self) -> None:
        self._ceiling = self._interface_mtu + 1
        """Smallest size believed not to pass."""
        self._ceiling_sure = False
        self.searching = True

    def _pick(self, now: float) -> int | None:
        if now >= self._confirm_at:
            return self.current
        if now >= self._raise_at:
            self._raise_at = inf
            self._open_ceiling()
        if not self.searching:
            return None
        between = [size for size in self._sizes if self.current < size < self._ceiling]
        if self.current < self._hint < self._ceiling:
            size, self._hint = self._hint, 0
            return size
        if between:
            return between[-1] if self._ceiling > self._interface_mtu else between[len(between) // 2]
        if self._ceiling <= self._interface_mtu and not self._ceiling_sure:
            return self._ceiling
        self.searching = False
        self._raise_at = now + RAISE_INTERVAL_S if self.current < self._interface_mtu else inf
        return None

    def _failed(self, size: int, now: float) -> None:
        self._probing = None
        if size <= self.current:
            self._restart(now)
            if size > self._base:
                self._ceiling = size  # need not be the first that is asked for again
        elif size == self._ceiling:
            self._ceiling_sure = True
        else:
            self._ceiling = size
