"""Which link a router's message is for; sockets of the loopback, no router."""

import contextlib
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from bondvpn.linux.icmp import TooBig
from bondvpn.linux.udp import UdpSocket
from bondvpn.runtime.toobig import TooBigMessages
from bondvpn.session.link import Link, Path
from bondvpn.stats import Drop, Drops

PEER = ("198.51.100.1", 1189)


class Nobody:
    """A link's observer."""


class Told:
    """Two links, and the hints that they got."""

    def __init__(self, sockets: contextlib.ExitStack) -> None:
        self.drops = Drops()
        self.hints: list[tuple[str, int]] = []
        self.changes = 0
        self.links = [self._link(number, sockets) for number in range(2)]
        self.messages = TooBigMessages(
            None,  # type: ignore[arg-type]
            lambda: self.links,
            lambda: 7.0,
            self._changed,
            self.drops,
        )

    def _link(self, number: int, sockets: contextlib.ExitStack) -> Link:
        link = Link(number, f"link{number}", Nobody(), self.drops)  # type: ignore[arg-type]
        one = UdpSocket(("127.0.0.1", 0))
        sockets.callback(one.close)
        link.set_path(Path(one, PEER))
        hints = self.hints

        class Hinted:
            def packet_too_big(self, mtu: int, now: float) -> None:
                assert now == 7.0
                hints.append((link.name, mtu))

        link.path_mtu = Hinted()  # type: ignore[assignment]
        return link

    def _changed(self) -> None:
        self.changes += 1

    def own(self, number: int) -> tuple[str, int]:
        path = self.links[number].path
        assert path is not None
        address: Any = path.socket.address  # type: ignore[attr-defined]
        return address


@pytest.fixture
def told() -> Iterator[Told]:
    with contextlib.ExitStack() as sockets:
        yield Told(sockets)


def test_the_link_that_sent_it_gets_the_hint(told: Told) -> None:
    told.messages.told([TooBig(1400, told.own(1), PEER), TooBig(1420, told.own(0), PEER)])
    assert told.hints == [("link1", 1400), ("link0", 1420)]
    assert told.changes == 1
    assert told.drops.as_dict() == {}


def test_a_message_must_quote_both_ends(told: Told) -> None:
    host, port = told.own(0)
    told.messages.told(
        [
            TooBig(1400, (host, port), ("198.51.100.2", 1189)),
            TooBig(1400, (host, port), ("198.51.100.1", 1190)),
            TooBig(1400, ("127.0.0.2", port), PEER),
            TooBig(1400, PEER, (host, port)),  # the wrong way round: not even our port
        ]
    )
    assert told.hints == []
    assert told.drops.counts[Drop.ICMP] == 3


def test_another_programs_are_none_of_ours(told: Told) -> None:
    told.messages.told([TooBig(1400, ("127.0.0.1", 9), PEER)])
    assert (told.hints, told.drops.as_dict()) == ([], {})


def test_a_server_on_all_addresses_answers_from_the_one_it_was_asked_at(told: Told) -> None:
    with contextlib.ExitStack() as sockets:
        for wildcard, host, ipv6 in (("0.0.0.0", "192.0.2.9", False), ("::", "2001:db8::9", True)):
            listening = UdpSocket((wildcard, 0), ipv6=ipv6)
            sockets.callback(listening.close)
            peer = ("2001:db8::2", 40000, 0, 0) if ipv6 else ("10.1.0.2", 40000)
            raw = socket.inet_pton(socket.AF_INET6 if ipv6 else socket.AF_INET, host)
            local = raw + bytes(4) if ipv6 else bytes(4) + raw + bytes(4)
            told.links[0].set_path(Path(listening, peer, local))
            port = listening.address[1]
            told.messages.told([TooBig(1400, (host, port), peer[:2])])
            assert told.hints.pop() == ("link0", 1400)
            told.messages.told([TooBig(1400, (wildcard, port), peer[:2])])
            assert told.hints == []


def test_a_link_without_a_path_is_passed_over(told: Told) -> None:
    told.links[0].path = None
    told.messages.told([TooBig(1400, told.own(1), PEER)])
    assert told.hints == [("link1", 1400)]


class Heard:
    """Stands in for an ICMP socket that has two malformed messages, and these."""

    malformed = 2

    def __init__(self, *messages: TooBig) -> None:
        self.messages = list(messages)

    def receive(self) -> list[TooBig]:
        return self.messages


def test_what_is_malformed_is_counted_whatever_comes_with_it(told: Told) -> None:
    for heard, hints in ((Heard(), []), (Heard(TooBig(1400, told.own(1), PEER)), [("link1", 1400)])):
        told.messages._on_message(heard)  # type: ignore[arg-type]
        assert told.hints == hints
    assert told.drops.as_dict() == {"icmp": 4}
    assert told.changes == 1  # nobody is woken for nothing
