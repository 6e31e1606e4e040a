"""TAI64N timestamps of initiations: only their order counts, and as bytes they order as they do in time.

    seconds since 1970 TAI + 2^62, 8 bytes   nanoseconds, 4 bytes       big-endian

Source: https://cr.yp.to/libtai/tai64.html. The offset of 10 s between TAI and the Unix epoch is what
everyone uses; leap seconds since are not counted, since only a sender's own stamps are compared.
"""

import struct
from typing import Final

from bondvpn.wire.handshake import TIMESTAMP_LEN

_EPOCH_S: Final = (1 << 62) + 10
_END_S: Final = 1 << 63  # TAI64 labels end here
_NS_PER_S: Final = 1_000_000_000
_LAYOUT = struct.Struct(">QI")


def tai64n(unix_seconds: float, last: bytes | None) -> bytes:
    """The 12-byte stamp of now, or `last` + 1 ns if the clock has not passed that (it may run backwards).

    Raises ValueError when `last` is not a timestamp.
    """
    seconds, nanoseconds = divmod(int(unix_seconds * _NS_PER_S), _NS_PER_S)
    stamp = _LAYOUT.pack(_EPOCH_S + seconds, nanoseconds)
    return stamp if last is None else max(stamp, _successor(last))


def unix_seconds(stamp: bytes) -> float:
    """When a stamp was made. Raises ValueError when it is none."""
    seconds, nanoseconds = _parse(stamp)
    return seconds - _EPOCH_S + nanoseconds / _NS_PER_S


def _parse(stamp: bytes) -> tuple[int, int]:
    if len(stamp) != TIMESTAMP_LEN:
        raise ValueError(f"timestamp: {TIMESTAMP_LEN} bytes expected, got {len(stamp)}")
    seconds, nanoseconds = _LAYOUT.unpack(stamp)
    if seconds >= _END_S - 1 or nanoseconds >= _NS_PER_S:
        raise ValueError(f"timestamp: {stamp.hex()} is no TAI64N label")
    return seconds, nanoseconds


def _successor(stamp: bytes) -> bytes:
    seconds, nanoseconds = _parse(stamp)
    carry, nanoseconds = divmod(nanoseconds + 1, _NS_PER_S)
    return _LAYOUT.pack(seconds + carry, nanoseconds)
