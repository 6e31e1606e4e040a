"""The keypairs of one session: the one in use, the one before it, and those that are offered."""

from collections.abc import Iterator

from bondvpn.session.keypair import Keypair, LaneTable, SendLane

ATTEMPTS_MAX = 8  # handshakes of one peer that may be under way: 2 s of the initiator's shortest pauses


class Keyring:
    """What is on it is in the process's table of lanes too."""

    def __init__(self, table: LaneTable) -> None:
        self.current: Keypair | None = None
        """What is sealed with."""
        self._previous: Keypair | None = None
        self._offered: list[Keypair] = []  # a responder's, until the peer uses one of them
        self._table = table

    def __iter__(self) -> Iterator[Keypair]:
        """Those that the peer may have used, the older one first."""
        return (keypair for keypair in (self._previous, self.current) if keypair is not None)

    def add(self, keypair: Keypair) -> None:
        """The peer has it already."""
        self._table.add(keypair)

    def offer(self, keypair: Keypair) -> None:
        """It is kept ready until the peer's first datagram under it.

        The last few attempts stand side by side: on a line of several seconds each answer meets an
        initiator that has tried again since.
        """
        self._offered.append(keypair)
        self._table.add(keypair)
        if len(self._offered) > ATTEMPTS_MAX:
            self._table.remove(self._offered.pop(0))

    def confirm(self, keypair: Keypair) -> bool:
        """The first authentic datagram under it came; True if it was offered: the others are forgotten."""
        keypair.confirmed = True
        if keypair not in self._offered:
            return False
        self._offered.remove(keypair)
        for other in self._offered:
            self._table.remove(other)
        self._offered.clear()
        return True

    def promote(self, keypair: Keypair) -> bool:
        """Make it the current one; True if it is the session's first."""
        if self._previous is not None:
            self._table.remove(self._previous)
        self._previous, self.current = self.current, keypair
        return self._previous is None

    def forget_expired(self, now: float) -> None:
        """The previous one, when its time is over."""
        if self._previous is not None and self._previous.expired(now):
            self._table.remove(self._previous)
            self._previous = None

    def clear(self) -> None:
        """Forget all keys."""
        for keypair in (*self, *self._offered):
            self._table.remove(keypair)
        self._previous = self.current = None
        self._offered.clear()

    def sending(self, index: int) -> SendLane | None:
        """The lane to the peer that was given this index, if it was used."""
        for keypair in (self.current, self._previous):
            if keypair is not None and (lane := keypair.sending(index)) is not None:
                return lane
        return None
