"""Capabilities: what both handshake payloads carry, so that no side emits what the other would refuse.

    version 1  ciphers 1  offloads 2  max frame 4  mtu 2  instance 8        18 bytes

All integers are big-endian. Bytes after the last field belong to a later version and are ignored;
fields are only ever added at the end.
"""

import struct
from typing import Final, NamedTuple

# -- named offsets ----------------------------------------------------------------------------
CAPABILITIES_LEN: Final = 18
INSTANCE_LEN: Final = 8

VERSION: Final = 1  # of the protocol

AES_256_GCM: Final = 1  # cipher bits
CHACHA20_POLY1305: Final = 2

CSUM: Final = 1  # offload bits: what the sender's kernel accepts from a tap
TSO4: Final = 2
TSO6: Final = 4
USO: Final = 8

_LAYOUT = struct.Struct(">BBHIH8s")


# -- checked view -----------------------------------------------------------------------------
def is_capabilities(payload: bytes) -> bool:
    """Whether the payload holds every field of this version."""
    return len(payload) >= CAPABILITIES_LEN


# -- parsed form ------------------------------------------------------------------------------
class Capabilities(NamedTuple):
    """What one side offers (initiator) or grants (responder)."""

    version: int
    """Protocol version, VERSION here."""
    ciphers: int
    """Cipher bits: those offered by the initiator, the one chosen by the responder."""
    offloads: int
    """Offload bits that the sender of this message can take in."""
    instance: bytes
    """8 random bytes that name the running process: others after a restart."""
    max_frame: int
    """Largest super-frame in bytes that the sender of this message accepts."""
    mtu: int
    """MTU of the sender's tap in bytes."""

    def emit(self) -> bytes:
        """18 bytes. Raises struct.error when a number does not fit its field."""
        return _LAYOUT.pack(
            self.version, self.ciphers, self.offloads, self.max_frame, self.mtu, self.instance
        )

    @classmethod
    def parse(cls, payload: bytes) -> "Capabilities | None":
        """The fields of a payload, None when it is too short."""
        if not is_capabilities(payload):
            return None
        version, ciphers, offloads, max_frame, mtu, instance = _LAYOUT.unpack_from(payload)
        return cls(version, ciphers, offloads, instance, max_frame, mtu)
