"""The handshake of bondvpn: WireGuard's envelope around `Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s`.

How one goes, with what the caller does in brackets:

    initiator                                   responder
    Initiation(...).datagram         ------>    receive_initiation
                                                [peer by public key, timestamp newer: else drop]
    Initiation.finish                <------    ReceivedInitiation.respond
    [send on the new keys]           ------>    [now send on the new keys too]

Order of checks: length, type and zero bytes, then mac1, and only then any Diffie-Hellman. A datagram
that was not made for our public key costs one BLAKE2s, and nothing is kept for an unauthenticated sender.

mac1 is BLAKE2s-128 keyed with BLAKE2s("mac1----" + receiver's public key) over everything before it, as
in WireGuard (whitepaper, section 5.4.4). No cookies are given out yet, so a mac2 that is not zero is
nobody's and falls under Drop.TYPE. The indexes are covered by mac1 alone, as in WireGuard: who alters one
on the path can spoil this attempt, which is no more than who drops it can, and gets no key from it.
"""

import hmac
from hashlib import blake2s
from typing import Final, NamedTuple

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from bondvpn.errors import ConfigError
from bondvpn.noise import ikpsk2
from bondvpn.noise.ikpsk2 import Secrets
from bondvpn.stats import Drop
from bondvpn.wire import handshake as wire
from bondvpn.wire.capabilities import AES_256_GCM, CHACHA20_POLY1305

__all__ = [
    "AES_256_GCM",
    "CHACHA20_POLY1305",
    "NO_PRESHARED_KEY",
    "Established",
    "Identity",
    "Initiation",
    "ReceivedInitiation",
    "Remote",
    "Secrets",
    "choose_cipher",
    "receive_initiation",
]

KEY_LEN: Final = wire.KEY_LEN
NO_PRESHARED_KEY: Final = bytes(KEY_LEN)

_PROLOGUE: Final = b"bondvpn v1"
_MAC1_LABEL: Final = b"mac1----"
_LOW_ORDER_PROBE: Final = X25519PrivateKey.from_private_bytes(bytes(KEY_LEN))  # any scalar shows it


def _mac1_key(public: bytes) -> bytes:
    return blake2s(_MAC1_LABEL + public).digest()


def _mac1(key: bytes, covered: bytes) -> bytes:
    return blake2s(covered, key=key, digest_size=wire.MAC_LEN).digest()


class Identity:
    """Our static key pair, and what depends on it alone."""

    __slots__ = ("mac1_key", "private", "public", "start")

    def __init__(self, private: bytes) -> None:
        """`private`: X25519, 32 bytes. Raises ConfigError for another length."""
        if len(private) != KEY_LEN:
            raise ConfigError([f"private key: {KEY_LEN} bytes expected, got {len(private)}"])
        self.private = X25519PrivateKey.from_private_bytes(private)
        self.public = self.private.public_key().public_bytes_raw()
        self.mac1_key = _mac1_key(self.public)
        """Key of mac1 in what we receive."""
        self.start = ikpsk2.start(ikpsk2.CHACHAPOLY, _PROLOGUE, self.public)
        """Noise state in which we open an initiation."""


class Remote:
    """A peer's static public key, the preshared key, and what depends on them alone."""

    __slots__ = ("mac1_key", "preshared_key", "public", "public_key", "start")

    def __init__(self, public: bytes, preshared_key: bytes = NO_PRESHARED_KEY) -> None:
        """Both 32 bytes. Raises ConfigError for another length, or a point that is nobody's key."""
        if len(public) != KEY_LEN:
            raise ConfigError([f"public key: {KEY_LEN} bytes expected, got {len(public)}"])
        if len(preshared_key) != KEY_LEN:
            raise ConfigError([f"preshared key: {KEY_LEN} bytes expected, got {len(preshared_key)}"])
        self.public = public
        self.public_key = X25519PublicKey.from_public_bytes(public)
        try:
            _LOW_ORDER_PROBE.exchange(self.public_key)
        except ValueError:
            raise ConfigError(["public key: a low-order point, which no private key yields"]) from None
        self.preshared_key = preshared_key
        self.mac1_key = _mac1_key(public)
        """Key of mac1 in what the peer receives."""
        self.start = ikpsk2.start(ikpsk2.CHACHAPOLY, _PROLOGUE, public)
        """Noise state in which we begin an initiation."""


class Established(NamedTuple):
    """A finished handshake, as the initiator sees it."""

    payload: bytes
    peer_index: int
    secrets: Secrets


class Initiation:
    """One attempt of ours to open or renew a session; a retry is a new one."""

    __slots__ = ("_identity", "_noise", "datagram", "index")

    def __init__(
        self,
        identity: Identity,
        remote: Remote,
        *,
        index: int,
        timestamp: bytes,
        payload: bytes,
        ephemeral: bytes,
    ) -> None:
        """`index`: our keypair index; `timestamp`: TAI64N; `ephemeral`: 32 fresh random bytes.

        Raises ValueError when a length is wrong or the payload exceeds PAYLOAD_MAX.
        """
        if len(timestamp) != wire.TIMESTAMP_LEN:
            raise ValueError(f"timestamp: {wire.TIMESTAMP_LEN} bytes expected, got {len(timestamp)}")
        if len(payload) > wire.PAYLOAD_MAX:
            raise ValueError(f"payload: at most {wire.PAYLOAD_MAX} bytes, got {len(payload)}")
        noise = ikpsk2.Initiator(
            remote.start,
            identity.private,
            remote.public_key,
            remote.preshared_key,
            ephemeral=ephemeral,
            payload=timestamp + payload,
        )
        message = wire.InitiationMessage(index, noise.message)
        covered = wire.covered_by_mac1(message.emit())
        self.datagram: bytes = message._replace(mac1=_mac1(remote.mac1_key, covered)).emit()
        self.index = index
        self._identity = identity
        self._noise: ikpsk2.Initiator | None = noise

    def finish(self, datagram: bytes) -> Drop | Established:
        """Open the response. After a forged one a genuine one still succeeds; after that none does."""
        reason = wire.check_response(datagram)
        if reason is not None:
            return reason
        if len(datagram) > len(self.datagram):  # no honest responder amplifies
            return Drop.SHORT
        reason = _check_macs(self._identity, datagram)
        if reason is not None:
            return reason
        response = wire.ResponseMessage.parse(datagram)
        if response.receiver != self.index:
            return Drop.LANE
        if self._noise is None:
            return Drop.REPLAY
        finished = self._noise.read(response.noise)
        if finished is None:
            return Drop.HANDSHAKE
        self._noise = None  # and with it the ephemeral key
        return Established(finished.payload, response.sender, finished.secrets)


class ReceivedInitiation:
    """An authentic initiation: someone who holds `peer_public`'s private key knows our public key.

    It may be a replay: compare `timestamp` with the newest seen from this peer.
    """

    __slots__ = ("_opened", "_size", "payload", "peer_index", "peer_public", "timestamp")

    def __init__(self, opened: ikpsk2.Opened, peer_index: int, size: int) -> None:
        """`size`: bytes of the initiation, which the response must not exceed."""
        self._opened = opened
        self._size = size
        self.peer_index = peer_index
        self.peer_public = opened.remote_static
        self.timestamp = opened.payload[: wire.TIMESTAMP_LEN]
        self.payload = opened.payload[wire.TIMESTAMP_LEN :]

    def respond(
        self, preshared_key: bytes, *, index: int, payload: bytes, ephemeral: bytes
    ) -> tuple[bytes, Secrets]:
        """The response and the session's secrets; `index` is our keypair index, `ephemeral` 32 fresh bytes.

        Raises ValueError when a length is wrong, or the response would outgrow the initiation.
        """
        size = wire.RESPONSE_LEN + len(payload)
        if size > min(self._size, wire.RESPONSE_MAX):
            raise ValueError(f"payload: a response of {size} bytes to an initiation of {self._size}")
        noise, secrets = self._opened.respond(preshared_key, ephemeral=ephemeral, payload=payload)
        message = wire.ResponseMessage(index, self.peer_index, noise)
        mac1 = _mac1(_mac1_key(self.peer_public), wire.covered_by_mac1(message.emit()))
        return message._replace(mac1=mac1).emit(), secrets


def receive_initiation(identity: Identity, datagram: bytes) -> Drop | ReceivedInitiation:
    """Check and open a datagram from anyone."""
    reason = wire.check_initiation(datagram)
    if reason is None:
        reason = _check_macs(identity, datagram)
    if reason is not None:
        return reason
    message = wire.InitiationMessage.parse(datagram)
    opened = ikpsk2.open_message_1(identity.start, identity.private, message.noise)
    if opened is None:
        return Drop.HANDSHAKE
    return ReceivedInitiation(opened, message.sender, len(datagram))


def _check_macs(identity: Identity, datagram: bytes) -> Drop | None:
    expected = _mac1(identity.mac1_key, wire.covered_by_mac1(datagram))
    if not hmac.compare_digest(expected, wire.mac1(datagram)):
        return Drop.MAC1
    return None if wire.mac2(datagram) == wire.NO_MAC else Drop.TYPE


def choose_cipher(offered: int, local_has_aes: bool) -> int | None:
    """The responder's choice among the offered cipher bits; None when it accepts none of them.

    AES-256-GCM only where this CPU has AES instructions: without, it is slow and leaks by timing.
    An initiator offers it by the same rule.
    """
    if offered & AES_256_GCM and local_has_aes:
        return AES_256_GCM
    if offered & CHACHA20_POLY1305:
        return CHACHA20_POLY1305
    return None
