"""A record whose head is told by what it differs from an earlier one in (the idea of RFC 1144).

    mark 2  length 2  changed 6  words 2 each...  what follows the head

Neighbouring frames of one TCP flow differ in few of the first HEAD_BYTES of virtio header, Ethernet, IP and
TCP: sequence number, timestamps, IPv4 id and checksum. `changed` has a bit for each of these 48 words of 16
bits, the first word's first; the words that its bits name follow. All others are as in the head that was kept
in this stream (TOLD), or zero (KEPT: the head that results is the one that is kept). `length` counts virtio
header and frame with their whole head, as in a plain record, whose length is never as small as a mark.
"""

import struct
from collections.abc import Sequence
from typing import Final, NamedTuple

# -- named offsets ----------------------------------------------------------------------------
KEPT: Final = 1
TOLD: Final = 2
HEAD_BYTES: Final = 96  # virtio header, Ethernet, IPv6, TCP with timestamps
FIXED_LEN: Final = 10
TOLD_MAX_LEN: Final = FIXED_LEN + HEAD_BYTES

_FIXED = struct.Struct(">HH6s")
_WORDS = struct.Struct(f">{HEAD_BYTES // 2}H")
_BITS: Final = tuple(1 << i for i in reversed(range(HEAD_BYTES // 2)))

Head = tuple[int, ...]
"""The words of a head."""
ZERO: Final[Head] = (0,) * len(_BITS)


# -- parsed form ------------------------------------------------------------------------------
class Told(NamedTuple):
    """A head that was told."""

    head: Head | None
    """None where the one it differs from is not known."""
    kept: bool
    length: int
    """Of the record, as if it were plain."""
    end: int
    """Where in the chunk the rest of it begins."""


# -- parse and emit ---------------------------------------------------------------------------
def parse(chunk: bytes | bytearray | memoryview, start: int, kept: Head | None) -> Told | None:
    """The told head at `start` of a chunk, by the one that was kept, if any; None if malformed."""
    if len(chunk) - start < FIXED_LEN:
        return None
    mark, length, bits = _FIXED.unpack_from(chunk, start)
    changed = int.from_bytes(bits, "big")
    start += FIXED_LEN
    end = start + 2 * changed.bit_count()
    if end > len(chunk) or length < HEAD_BYTES or mark not in {KEPT, TOLD}:
        return None
    base = kept if mark == TOLD else ZERO
    if base is None:
        return Told(None, False, length, end)
    words = iter(struct.unpack_from(f">{changed.bit_count()}H", chunk, start))
    head = tuple([next(words) if changed & bit else word for bit, word in zip(_BITS, base, strict=True)])
    return Told(head, mark == KEPT, length, end)


def head_of(frame: bytes | bytearray | memoryview) -> Head:
    """The head of a frame of HEAD_BYTES or more, virtio header first."""
    return _WORDS.unpack_from(frame)


def head_bytes(head: Head) -> bytes:
    """As the frame begins."""
    return _WORDS.pack(*head)


def emit(mark: int, head: Head, length: int, kept: Sequence[int]) -> bytes:
    """The record of `length` bytes up to where its head ends; `kept` is ZERO for KEPT."""
    changed = 0
    words = []
    for bit, word, old in zip(_BITS, head, kept, strict=True):
        if word != old:
            changed |= bit
            words.append(word)
    return _FIXED.pack(mark, length, changed.to_bytes(6, "big")) + struct.pack(f">{len(words)}H", *words)
