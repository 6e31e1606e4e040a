"""Strangers on the server's port: silence, a counter by reason, nothing kept, and the tunnel goes on.

    10.64.1.2  a  === 50 Mbit/s, 10 ms === a  10.64.1.1
       stranger: another UDP port of gw, on line a
    gw bond0 172.21.1.2                                         srv office0 172.21.1.1
    10.64.2.2  b  === 50 Mbit/s, 10 ms === b  10.64.2.1         lo 198.51.100.1 port 1189

What the stranger repeats and damages are the client's own datagrams, sniffed on both lines: which of them
is the quicker, and so carries what is urgent, is chance.
"""

import base64
import contextlib
import itertools
import os
import random
import socket
import tomllib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import pytest
from observe import (
    INITIATION,
    TRANSPORT,
    Sniffer,
    all_active,
    drops,
    eventually,
    links,
    resident_bytes,
    status,
)

from bondvpn.lab import measure, namespace
from bondvpn.lab.shape import twins
from bondvpn.lab.topology import SERVER_ADDRESS
from bondvpn.lab.tunnel import PEER_ADDRESS, PORT
from bondvpn.noise.handshake import Identity, Initiation, Remote
from bondvpn.noise.timestamp import tai64n
from bondvpn.wire.capabilities import AES_256_GCM, CHACHA20_POLY1305, VERSION, Capabilities

pytestmark = pytest.mark.netns

SETTLE_S = 10.0
SILENCE_S = 0.3  # a dozen round trips
BURST = 100  # datagrams at once: 1500 bytes each stay far from any queue's end
GROWTH_MAX_BYTES = 2 << 20
TRANSPORT_HEADER_BYTES = 16  # design.md, 4: type, lane, counter
TRANSPORT_OVERHEAD_BYTES = 32  # and the tag
FAR_FUTURE_S = 4e9  # a timestamp newer than any of the client's


@dataclass
class Scene:
    bond: Any
    initiation: bytes
    transports: list[bytes]
    stranger: socket.socket

    def tell(self, datagrams: Iterable[bytes]) -> dict[str, int]:
        """Send them as the stranger; how many the server dropped, by reason.

        It must count every one and answer none.
        """
        before = drops(self.bond.tunnel, "server")
        age_before_s = self._handshake_age_s()
        sent = 0
        waiting = iter(datagrams)
        while burst := list(itertools.islice(waiting, BURST)):
            for datagram in burst:
                self.stranger.sendto(datagram, (SERVER_ADDRESS, PORT))
            sent += len(burst)
            self._await_counted(before, sent)
        self.stranger.settimeout(SILENCE_S)
        with pytest.raises(TimeoutError):
            pytest.fail(f"an answer: {self.stranger.recv(65536)!r}")
        assert self._handshake_age_s() >= age_before_s
        assert len(measure.ping(self.bond.lab, PEER_ADDRESS, count=3, interval_s=0.02)) == 3
        return self._new(before)

    def _await_counted(self, before: dict[str, int], sent: int) -> None:
        eventually(lambda: sum(self._new(before).values()) >= sent, 5, f"{sent} counted")

    def _new(self, before: dict[str, int]) -> dict[str, int]:
        now = drops(self.bond.tunnel, "server")
        return {why: n - before.get(why, 0) for why, n in now.items() if n > before.get(why, 0)}

    def _handshake_age_s(self) -> float:
        return float(status(self.bond.tunnel, "server")["tunnels"][0]["handshake_age_s"])


@pytest.fixture(scope="module")
def scene(shared_bond_over: Callable[..., Any]) -> Any:
    bond = shared_bond_over(twins(), start=False)
    with contextlib.ExitStack() as stack:
        sniffers = [stack.enter_context(Sniffer(bond.lab, "gw", line.name)) for line in bond.lab.lines]
        bond.tunnel.__enter__()
        eventually(lambda: all_active(bond.tunnel, bond.lab), SETTLE_S, "both lines are used")
        measure.ping(bond.lab, PEER_ADDRESS, count=20, interval_s=0.01)
        sent = [each.payload for sniffer in sniffers for each in sniffer.datagrams() if each.outgoing]
    with namespace.entered(bond.lab.namespace("gw")):
        stranger = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    stranger.bind((bond.lab.address("a"), 0))
    with stranger:
        yield Scene(
            bond,
            next(datagram for datagram in sent if datagram[0] == INITIATION),
            [datagram for datagram in sent if datagram[0] == TRANSPORT],
            stranger,
        )


def test_garbage(scene: Scene) -> None:
    dice = random.Random(2)
    garbage = [dice.randbytes(dice.randrange(1473)) for _ in range(600)]
    known_types = [bytes([kind, 0, 0, 0]) + dice.randbytes(n) for kind in range(6) for n in range(0, 300, 3)]
    counted = scene.tell(garbage + known_types)
    assert counted.keys() <= {"short", "type", "mac1", "lane"}
    assert counted["type"] > 500
    assert counted["lane"] > 50


def test_no_state_is_kept(scene: Scene) -> None:
    dice = random.Random(3)

    def strangers(n: int) -> Iterable[bytes]:
        for _ in range(n):
            yield bytes([dice.choice((INITIATION, TRANSPORT)), 0, 0, 0]) + dice.randbytes(162)

    pid = scene.bond.tunnel.ends["server"].pid
    scene.tell(strangers(500))
    before = resident_bytes(pid)
    scene.tell(strangers(8000))
    growth = resident_bytes(pid) - before
    print(f"the server grew by {growth / 1024:.0f} KiB over 8000 datagrams")
    assert growth < GROWTH_MAX_BYTES


def test_truncated_datagrams(scene: Scene) -> None:
    counted = scene.tell(scene.initiation[:n] for n in range(len(scene.initiation)))
    assert counted.keys() <= {"short", "mac1", "type"}
    longest = max(scene.transports, key=len)
    counted = scene.tell(longest[:n] for n in range(len(longest)))
    assert counted.keys() <= {"short", "auth"}
    assert counted["auth"] >= len(longest) - TRANSPORT_OVERHEAD_BYTES - 1


def test_damaged_datagrams(scene: Scene) -> None:
    def damaged(datagram: bytes) -> Iterable[bytes]:
        for place in range(len(datagram)):
            yield datagram[:place] + bytes([datagram[place] ^ 1 << place % 8]) + datagram[place + 1 :]

    counted = scene.tell(damaged(scene.initiation))
    assert counted.keys() <= {"type", "mac1", "lane", "short"}
    longest = max(scene.transports, key=len)
    counted = scene.tell(damaged(longest))
    assert counted.keys() <= {"type", "mac1", "lane", "short", "auth"}
    assert counted["auth"] >= len(longest) - TRANSPORT_HEADER_BYTES


def test_a_replayed_initiation(scene: Scene) -> None:
    assert scene.tell([scene.initiation] * 3) == {"timestamp": 3}


def test_replayed_transports_move_nothing(scene: Scene) -> None:
    before = {name: link["path"] for name, link in links(scene.bond.tunnel, "server").items()}
    assert len(scene.transports) > 10
    assert scene.tell(scene.transports) == {"replay": len(scene.transports)}
    assert {name: link["path"] for name, link in links(scene.bond.tunnel, "server").items()} == before


def _initiation(scene: Scene, *, private: bytes, server_public: bytes | None = None) -> bytes:
    document = tomllib.loads(scene.bond.configs.client.read_text())["server"][0]
    preshared = (scene.bond.configs.client.parent / document["preshared_key_file"]).read_text()
    public = server_public or base64.b64decode(document["public_key"])
    offer = Capabilities(VERSION, AES_256_GCM | CHACHA20_POLY1305, 0, os.urandom(8), 65_000, 1500)
    return Initiation(
        Identity(private),
        Remote(public, base64.b64decode(preshared)),
        index=1,
        timestamp=tai64n(FAR_FUTURE_S, None),
        payload=offer.emit(),
        ephemeral=os.urandom(32),
    ).datagram


def test_a_stranger_who_knows_our_public_key_and_the_secret(scene: Scene) -> None:
    """Only a key from the configuration gets an answer."""
    made = [_initiation(scene, private=os.urandom(32)) for _ in range(20)]
    assert scene.tell(made) == {"handshake": 20}
    elsewhere = [_initiation(scene, private=os.urandom(32), server_public=os.urandom(32)) for _ in range(20)]
    assert scene.tell(elsewhere) == {"mac1": 20}


@pytest.mark.parametrize(
    ("file", "changed", "counted_at", "reason"),
    [
        ("office.psk", "client", "client", "handshake"),  # the server cannot know: its answer fails there
        ("client.key", "client", "server", "handshake"),
        ("server.key", "server", "server", "mac1"),
    ],
)
def test_a_wrong_key_opens_nothing(
    bond_over: Callable[..., Any], file: str, changed: str, counted_at: str, reason: str
) -> None:
    bond = bond_over(twins(), start=False)
    other = {"client": "server", "server": "client"}[changed]
    bond.tunnel.start(other)
    eventually(lambda: status(bond.tunnel, other), SETTLE_S, f"{other} runs")
    (bond.configs.client.parent / file).write_text(base64.b64encode(os.urandom(32)).decode() + "\n")
    bond.tunnel.start(changed)
    eventually(lambda: status(bond.tunnel, changed), SETTLE_S, f"{changed} runs")
    eventually(lambda: drops(bond.tunnel, counted_at).get(reason, 0) >= 2, 8, f"{reason} is counted")
    for each in ("client", "server"):
        (tunnel,) = status(bond.tunnel, each)["tunnels"]
        assert (tunnel["state"], tunnel["cipher"]) == ("connecting", "")
    assert measure.ping(bond.lab, PEER_ADDRESS, count=1, timeout_s=0.5) == []
