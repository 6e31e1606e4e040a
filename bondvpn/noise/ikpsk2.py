"""The Noise state machine of `Noise_IKpsk2_25519_{ChaChaPoly,AESGCM}_BLAKE2s`, pure and sans-IO.

    <- s
    ...
    -> e, es, s, ss
    <- e, ee, se, psk

Source: The Noise Protocol Framework, revision 34 (sections 5, 7.5, 9). Three facts keep it small:

- Every key of this pattern seals exactly one text in the handshake, so its nonce is always zero.
- Both protocol names are longer than a BLAKE2s digest, so the transcript always begins with the digest.
- A state is an immutable value and each step makes a new one: whatever a forger sends, the state
  that waits for the genuine message is the one it was.

What a remote side can get wrong (truncation, a forged tag, a low-order point) yields None.
"""

import hmac
from hashlib import blake2s
from typing import Final, NamedTuple, Self

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305

KEY_LEN: Final = 32  # DHLEN and HASHLEN of the suite, and the key length of both ciphers
TAG_LEN: Final = 16
MESSAGE_1_LEN: Final = KEY_LEN + (KEY_LEN + TAG_LEN) + TAG_LEN  # without payload
MESSAGE_2_LEN: Final = KEY_LEN + TAG_LEN

_ZERO_NONCE: Final = bytes(12)


class Suite(NamedTuple):
    """A protocol name and its cipher."""

    name: bytes
    aead: type[ChaCha20Poly1305] | type[AESGCM]


CHACHAPOLY: Final = Suite(b"Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s", ChaCha20Poly1305)
AESGCM_SUITE: Final = Suite(b"Noise_IKpsk2_25519_AESGCM_BLAKE2s", AESGCM)


class Secrets(NamedTuple):
    """What a finished handshake leaves: two keys of 32 bytes and the 32-byte hash of all that was said."""

    initiator_to_responder: bytes
    responder_to_initiator: bytes
    handshake_hash: bytes


class _RejectedError(Exception):
    """The remote side's message is not genuine. Never leaves this file."""


class SymmetricState(NamedTuple):
    """Noise's SymmetricState (section 5.2) as a value."""

    suite: Suite
    chaining_key: bytes
    transcript: bytes
    """Noise's h."""
    key: bytes
    """Noise's k; empty before the first MixKey."""

    def mix_hash(self, data: bytes) -> Self:
        return self._replace(transcript=blake2s(self.transcript + data).digest())

    def mix_key(self, material: bytes) -> Self:
        chaining_key, key = _hkdf(self.chaining_key, material, 2)
        return self._replace(chaining_key=chaining_key, key=key)

    def mix_ephemeral(self, public: bytes) -> Self:
        """Token e, which in a psk pattern mixes the key too (section 9.2)."""
        return self.mix_hash(public).mix_key(public)

    def mix_psk(self, preshared_key: bytes) -> Self:
        """Token psk: MixKeyAndHash."""
        chaining_key, digest, key = _hkdf(self.chaining_key, preshared_key, 3)
        return self._replace(chaining_key=chaining_key, key=key).mix_hash(digest)

    def encrypt(self, plaintext: bytes) -> tuple[Self, bytes]:
        """EncryptAndHash."""
        ciphertext = self.suite.aead(self.key).encrypt(_ZERO_NONCE, plaintext, self.transcript)
        return self.mix_hash(ciphertext), ciphertext

    def decrypt_untrusted(self, ciphertext: bytes) -> tuple[Self, bytes]:
        """DecryptAndHash."""
        try:
            plaintext = self.suite.aead(self.key).decrypt(_ZERO_NONCE, ciphertext, self.transcript)
        except InvalidTag:
            raise _RejectedError from None
        return self.mix_hash(ciphertext), plaintext

    def split(self) -> Secrets:
        forward, backward = _hkdf(self.chaining_key, b"", 2)
        return Secrets(forward, backward, self.transcript)


def start(suite: Suite, prologue: bytes, responder_static: bytes) -> SymmetricState:
    """The state before message 1: depends on nothing but the responder's key, so keep it."""
    name = blake2s(suite.name).digest()
    return SymmetricState(suite, name, name, b"").mix_hash(prologue).mix_hash(responder_static)


class Finished(NamedTuple):
    """What message 2 brought the initiator."""

    payload: bytes
    secrets: Secrets


class Initiator:
    """The initiator's side; `message` is message 1 (96 bytes and the payload)."""

    __slots__ = ("_ephemeral", "_preshared_key", "_state", "_static", "message")

    def __init__(
        self,
        state: SymmetricState,
        static: X25519PrivateKey,
        responder: X25519PublicKey,
        preshared_key: bytes,
        *,
        ephemeral: bytes,
        payload: bytes,
    ) -> None:
        """`state` from `start`; `ephemeral` is a fresh private key of 32 random bytes.

        Raises ValueError when the responder's public key is a low-order point or a length is wrong.
        """
        _check_preshared_key(preshared_key)
        self._static = static
        self._preshared_key = preshared_key
        self._ephemeral = X25519PrivateKey.from_private_bytes(ephemeral)
        ephemeral_public = self._ephemeral.public_key().public_bytes_raw()
        state = state.mix_ephemeral(ephemeral_public)
        state = state.mix_key(self._ephemeral.exchange(responder))  # es
        state, sealed_static = state.encrypt(static.public_key().public_bytes_raw())
        state = state.mix_key(static.exchange(responder))  # ss
        self._state, sealed_payload = state.encrypt(payload)
        self.message = ephemeral_public + sealed_static + sealed_payload

    def read(self, message: bytes) -> Finished | None:
        """Open message 2; None when it is not genuine, and another may then be read."""
        try:
            return self._read_untrusted(message)
        except _RejectedError:
            return None

    def _read_untrusted(self, message: bytes) -> Finished:
        if len(message) < MESSAGE_2_LEN:
            raise _RejectedError
        remote = message[:KEY_LEN]
        state = self._state.mix_ephemeral(remote)
        state = state.mix_key(_exchange_untrusted(self._ephemeral, remote))  # ee
        state = state.mix_key(_exchange_untrusted(self._static, remote))  # se
        state = state.mix_psk(self._preshared_key)
        state, payload = state.decrypt_untrusted(message[KEY_LEN:])
        return Finished(payload, state.split())


class Opened(NamedTuple):
    """What message 1 brought the responder: who asks, with what payload, and the state to answer from."""

    remote_static: bytes
    payload: bytes
    remote_ephemeral: X25519PublicKey
    state: SymmetricState

    def respond(self, preshared_key: bytes, *, ephemeral: bytes, payload: bytes) -> tuple[bytes, Secrets]:
        """Message 2 (48 bytes and the payload) and the secrets; a fresh ephemeral for each call.

        Raises ValueError when a length is wrong. Nothing remote can: the initiator's two keys have
        been through a DH already.
        """
        _check_preshared_key(preshared_key)
        ours = X25519PrivateKey.from_private_bytes(ephemeral)
        public = ours.public_key().public_bytes_raw()
        state = self.state.mix_ephemeral(public)
        state = state.mix_key(ours.exchange(self.remote_ephemeral))  # ee
        state = state.mix_key(ours.exchange(X25519PublicKey.from_public_bytes(self.remote_static)))  # se
        state = state.mix_psk(preshared_key)
        state, sealed_payload = state.encrypt(payload)
        return public + sealed_payload, state.split()


def open_message_1(state: SymmetricState, static: X25519PrivateKey, message: bytes) -> Opened | None:
    """The responder's first step, `state` from `start` with its own key; None when it is not genuine."""
    try:
        return _open_message_1_untrusted(state, static, message)
    except _RejectedError:
        return None


def _open_message_1_untrusted(state: SymmetricState, static: X25519PrivateKey, message: bytes) -> Opened:
    if len(message) < MESSAGE_1_LEN:
        raise _RejectedError
    remote_ephemeral = message[:KEY_LEN]
    payload_offset = KEY_LEN + KEY_LEN + TAG_LEN
    state = state.mix_ephemeral(remote_ephemeral)
    state = state.mix_key(_exchange_untrusted(static, remote_ephemeral))  # es
    state, remote_static = state.decrypt_untrusted(message[KEY_LEN:payload_offset])
    state = state.mix_key(_exchange_untrusted(static, remote_static))  # ss
    state, payload = state.decrypt_untrusted(message[payload_offset:])
    return Opened(remote_static, payload, X25519PublicKey.from_public_bytes(remote_ephemeral), state)


def _exchange_untrusted(private: X25519PrivateKey, public: bytes) -> bytes:
    try:
        return private.exchange(X25519PublicKey.from_public_bytes(public))
    except ValueError:  # the all-zero secret of a low-order point, RFC 7748 section 6.1
        raise _RejectedError from None


def _check_preshared_key(preshared_key: bytes) -> None:
    if len(preshared_key) != KEY_LEN:
        raise ValueError(f"preshared key: {KEY_LEN} bytes expected, got {len(preshared_key)}")


def _hkdf(chaining_key: bytes, material: bytes, outputs: int) -> list[bytes]:
    """Noise's HKDF (section 4.3): RFC 5869 with an empty info."""
    secret = hmac.digest(chaining_key, material, "blake2s")
    derived = [b""]
    for number in range(1, outputs + 1):
        derived.append(hmac.digest(secret, derived[-1] + bytes((number,)), "blake2s"))
    return derived[1:]
