"""Counters: what was dropped and why. Plain ints, incremented in place, read by `status`."""

from enum import IntEnum


class Drop(IntEnum):
    """Why a datagram or frame went no further. Silence on the wire, a number in `status`."""

    SHORT = 0  # too short or truncated to be any of ours
    TYPE = 1  # unknown datagram type or non-zero reserved bytes
    MAC1 = 2  # handshake not made for our public key
    HANDSHAKE = 3  # Noise authentication failed, or a stranger's key
    TIMESTAMP = 4  # replayed or reordered initiation
    LANE = 5  # no such lane: an old session, or noise
    AUTH = 6  # AEAD tag did not verify
    REPLAY = 7  # counter seen before or older than the window
    EXPIRED = 8  # key past its life
    SEALED = 9  # authentic, but the sealed part is malformed
    VIRTIO = 10  # the peer's virtio header would not be safe to hand to the kernel
    FRAME = 11  # frame lost with a chunk that never came
    LATE = 12  # chunk of a place already delivered or given up
    QUEUE = 13  # frame refused here: no line has room
    TAP = 14  # the kernel refused the frame
    SOCKET = 15  # the kernel refused the datagram
    ICMP = 16  # "too big" that is malformed, or quotes what no link of ours sent


class Drops:
    """One counter per `Drop`."""

    __slots__ = ("counts",)

    def __init__(self) -> None:
        self.counts = [0] * len(Drop)

    def count(self, reason: Drop, n: int = 1) -> None:
        self.counts[reason] += n

    def as_dict(self) -> dict[str, int]:
        """Reasons that occurred, lower-case name to count."""
        return {reason.name.lower(): self.counts[reason] for reason in Drop if self.counts[reason]}
