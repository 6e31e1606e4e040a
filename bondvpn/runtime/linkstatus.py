"""What the status says of one link."""

from typing import Any

from bondvpn.session.link import Link
from bondvpn.session.session import Session

SAMPLE_S = 1.0


class Rates:
    """Bit/s of one link, sampled once a second."""

    __slots__ = ("_at", "_rx", "_tx", "rx_bps", "tx_bps")

    def __init__(self) -> None:
        self._at = self.tx_bps = self.rx_bps = 0.0
        self._tx = self._rx = 0

    def sample(self, link: Link, now: float) -> None:
        if now - self._at < SAMPLE_S:
            return
        if self._at:
            self.tx_bps = (link.tx_bytes - self._tx) * 8 / (now - self._at)
            self.rx_bps = (link.rx_bytes - self._rx) * 8 / (now - self._at)
        self._at, self._tx, self._rx = now, link.tx_bytes, link.rx_bytes


def link_status(link: Link, rates: Rates, session: Session | None, now: float) -> dict[str, Any]:
    """The link's part of the status object."""
    rtt = link.liveness.rtt
    keypair = session.current if session is not None else None
    lane = keypair.receive_lane(link.number) if keypair is not None else None
    socket = link.path.socket if link.path is not None else None
    send, receive = link.send_rate_bps or None, link.receive_rate_bps or None
    up, down = (send, receive) if session is None or session.initiator else (receive, send)
    return {
        "name": link.name,
        "state": link.liveness.state.value,
        "reason": link.reason,
        "since_s": round(now - link.liveness.since, 1),
        "rtt_ms": round(rtt.srtt_s * 1e3, 1) if rtt.srtt_s else None,
        "path_mtu": link.path_mtu.current,
        "up_bps": up,
        "down_bps": down,
        "tx_bps": round(rates.tx_bps),
        "rx_bps": round(rates.rx_bps),
        "tx_bytes": link.tx_bytes,
        "rx_bytes": link.rx_bytes,
        "tx_datagrams": link.tx_datagrams,
        "rx_datagrams": link.rx_datagrams,
        "silent_s": round(now - link.last_received, 1) if link.rx_datagrams else None,
        "tier": link.tier,
        "demoted": link.demotion.demoted,
        **_learned(link, now),
        "rx_lost": max(0, lane.window.highest + 1 - lane.window.received) if lane is not None else 0,
        "gso": socket.gso if socket is not None else None,
        "gso_fallbacks": socket.gso_fallbacks if socket is not None else 0,
        "path": f"{link.path.address[0]}:{link.path.address[1]}" if link.path is not None else None,
    }


def _learned(link: Link, now: float) -> dict[str, Any]:
    """What reports have taught of a link in its sending direction."""
    capacity = link.capacity
    in_flight = link.in_flight if link.active else 0
    return {
        "phase": capacity.phase.value,
        "learned_bps": round(capacity.known_rate * 8) or None,
        "window_bytes": round(capacity.window),
        "in_flight_bytes": in_flight,
        "base_rtt_ms": round(capacity.delays.base_rtt_s * 1e3, 1),
        "queue_ms": round(capacity.queue_now_s(in_flight, now) * 1e3, 1),
        "jitter_ms": round(capacity.delays.jitter_s * 1e3, 1),
        "tx_lost": link.lost_datagrams,
        "resent": link.resent_chunks,
    }
