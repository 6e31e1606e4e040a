"""Seeded mutations of genuine handshakes: nothing raises, nothing forged passes, the genuine still does."""

import hashlib
import random
from collections import Counter

import pytest

from bondvpn.noise.handshake import (
    Established,
    Identity,
    Initiation,
    ReceivedInitiation,
    Remote,
    receive_initiation,
)
from bondvpn.noise.timestamp import tai64n
from bondvpn.stats import Drop

ROUNDS = 400
PSK = bytes(range(32))
CLIENT = Identity(bytes(range(1, 33)))
SERVER = Identity(bytes(range(33, 65)))


def mutated(rng: random.Random, datagram: bytes, receiver: Identity) -> bytes:
    """One to three cuts, flips or insertions behind the indexes; half of them under a mac1 that holds."""
    changed = bytearray(datagram)
    for _ in range(rng.randint(1, 3)):
        place = rng.randrange(12, max(13, len(changed) - 32))
        match rng.randrange(4):
            case 0:
                changed[place : place + 1] = bytes((changed[place] ^ rng.randint(1, 255),))
            case 1:
                del changed[place : place + rng.randint(1, 40)]
            case 2:
                changed[place:place] = rng.randbytes(rng.randint(1, 40))
            case _:
                changed[place : place + 32] = bytes(32)  # a low-order point, where a key stands
    if rng.random() < 0.5 and len(changed) > 44:
        key = hashlib.blake2s(b"mac1----" + receiver.public).digest()
        mac1 = hashlib.blake2s(changed[:-32], key=key, digest_size=16).digest()
        changed[-32:] = mac1 + bytes(16)
    return bytes(changed)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_mutations_are_dropped(seed: int) -> None:
    print(f"seed {seed}")
    rng = random.Random(seed)
    initiation = Initiation(
        CLIENT,
        Remote(SERVER.public, PSK),
        index=rng.getrandbits(32),
        timestamp=tai64n(1_700_000_000.0, None),
        payload=rng.randbytes(rng.randint(0, 256)),
        ephemeral=rng.randbytes(32),
    )
    received = receive_initiation(SERVER, initiation.datagram)
    assert isinstance(received, ReceivedInitiation)
    response, secrets = received.respond(
        PSK, index=rng.getrandbits(32), payload=rng.randbytes(18), ephemeral=rng.randbytes(32)
    )
    reasons: Counter[Drop] = Counter()
    for _ in range(ROUNDS):
        forged = mutated(rng, initiation.datagram, SERVER)
        if forged != initiation.datagram:
            dropped = receive_initiation(SERVER, forged)
            assert isinstance(dropped, Drop), forged.hex()
            reasons[dropped] += 1
        forged = mutated(rng, response, CLIENT)
        if forged != response:
            refused = initiation.finish(forged)
            assert isinstance(refused, Drop), forged.hex()
            reasons[refused] += 1
    assert {Drop.SHORT, Drop.MAC1, Drop.HANDSHAKE} <= set(reasons)
    established = initiation.finish(response)
    assert isinstance(established, Established)
    assert established.secrets == secrets
