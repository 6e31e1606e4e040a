"""Pure ACKs that wait: a later one of a flow takes the place of an earlier one that it says all of.

What a gap held back reaches the TCP inside in one go, and is answered with as many ACKs, all late by as much.
Nine of them are a queue to HyStart (RFC 9406: eight samples a round), which ends slow start: where each round
has a gap, at a tenth of what the lines hold. One is not. As in RFC 3449, 5.2.1, and CAKE's ack-filter.

Replaced is only what differs in nothing but its number, window and timestamps, and acknowledges less: no
duplicate (something is missing), no SACK, no ECN echo, nothing with other flags or options.
"""

from collections.abc import Hashable
from struct import Struct
from typing import NamedTuple

from bondvpn.wire.sealed import RECORD_LENGTH_LEN
from bondvpn.wire.virtio import ETHERNET_BYTES, HEADER_BYTES

_START = RECORD_LENGTH_LEN + HEADER_BYTES
# Ethertype, and the version and header length after it: no options, which would move what follows.
_KIND, _KIND_IPV4, _KIND_IPV6 = Struct(f">{_START + ETHERNET_BYTES - 2}xHB"), (0x0800, 0x45), 0x86DD
# What is the same in all ACKs of a flow, from the Ethernet header to the sequence number (but for IPv4's id
# and checksum); the acknowledgement number; header length and flags. Window, checksum, urgent pointer follow.
_IPV4, _IPV6 = Struct(f">{_START}x18s2x4s2x16sIH6x"), Struct(f">{_START}x62sIH6x")
_TIMESTAMPS = Struct(">I8x")
_TIMESTAMPS_KIND = 0x0101080A  # two NOPs, kind 8, length 10 (RFC 7323, appendix A)
_PLAIN, _STAMPED = 0x5010, 0x8010  # header length and flags: nothing but ACK
_HALF, _MASK = 1 << 31, (1 << 32) - 1


class Ack(NamedTuple):
    """One that may be replaced, and replace others of its flow."""

    flow: Hashable
    number: int


def parse(record: memoryview) -> Ack | None:
    """Of the record of a pure ACK (as `bond.classify` says); None if it is to be left alone."""
    ethertype, version = _KIND.unpack_from(record)
    if (ethertype, version) == _KIND_IPV4:
        layout = _IPV4
    elif ethertype == _KIND_IPV6:
        layout = _IPV6
    else:
        return None
    end, length = layout.size, len(record)
    if length < end:
        return None
    *flow, number, flags = layout.unpack_from(record)
    if flags == _PLAIN:
        alike = length == end
    else:
        alike = (
            flags == _STAMPED
            and length == end + _TIMESTAMPS.size
            and _TIMESTAMPS.unpack_from(record, end)[0] == _TIMESTAMPS_KIND
        )
    return Ack((*flow, flags), number) if alike else None


class WaitingAcks:
    """Where the newest ACK of each flow waits."""

    def __init__(self) -> None:
        self._newest: dict[Hashable, tuple[int, memoryview] | None] = {}

    def replace(self, ack: Ack, record: memoryview) -> bool:
        """Put it in the place of the one that waits; False if none does that it says all of."""
        earlier = self._newest.get(ack.flow)
        if earlier is None:
            return False
        number, place = earlier
        if not 0 < (ack.number - number) & _MASK < _HALF:
            return False
        place[:] = record
        self._newest[ack.flow] = ack.number, place
        return True

    def note(self, ack: Ack, place: memoryview) -> None:
        """It waits there. Behind one that it could not replace, a duplicate, none of its flow is replaced."""
        self._newest[ack.flow] = None if ack.flow in self._newest else (ack.number, place)

    def clear(self) -> None:
        """They have left, or one waits that is to be left alone: none goes ahead of it."""
        self._newest.clear()
