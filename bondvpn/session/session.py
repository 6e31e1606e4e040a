"""One association between two running processes: its links, its keypairs, its timers.

Sans-IO but for the links' own sockets: time and randomness are arguments, what happens to links and
keys is told to the observer. Streams live above (datapath); a rekey changes keypairs and nothing else.

A link joins on its own lane: the client sends PATH_CHALLENGE (with the rate it wants to receive, its
MTU, tier and name), the server answers with PATH_RESPONSE and a challenge of its own, and uses the link
only when that came back too. Until then it has sent less than three times what it received.
"""

from collections.abc import Callable
from typing import Any, Protocol

from bondvpn.bond.capacity import Phase
from bondvpn.bond.equaliser import Equaliser
from bondvpn.bond.flight import Piece
from bondvpn.bond.liveness import LinkEvent, LinkState
from bondvpn.bond.longprobes import TRAIN_PROBES
from bondvpn.session.keypair import MAX_LANES, WIPE_AFTER_S, Keypair, LaneTable, ReceiveLane, SendLane
from bondvpn.session.keyring import Keyring
from bondvpn.session.link import AMPLIFICATION_MAX, PATH_MTU_DEFAULT_BYTES, Link, Path
from bondvpn.session.reports import Learner, Reporter
from bondvpn.stats import Drop, Drops
from bondvpn.wire import sealed as wire
from bondvpn.wire.capabilities import Capabilities
from bondvpn.wire.transport import OVERHEAD, udp_overhead

# Of the slowest line: what it lost is known a round trip later, by what followed, and leaves at its pace.
# With 1 a line of 322 ms that overflowed as it began gave 31 frames up, and cubic 0.83 of the sum, not 0.98.
PATIENCE_TRIPS = 1.5
CHALLENGE_RETRY_S = 0.25  # a link joins within one retry of its line being there
CHALLENGE_RETRY_MAX_S = 1.0
MTU_PROBE_IDS = 1 << 31  # ids from here on belong to path MTU probes, those below to liveness
PROBE_TRACKED_S = 0.5  # after the last data; the peer reports probes for twice as long
NEVER = float("inf")


class SessionObserver(Protocol):
    """Who hears what becomes of a session."""

    def session_started(self, session: "Session", now: float) -> None:
        """The peer holds the keys too: data may flow."""

    def session_ended(self, session: "Session", reason: str, now: float) -> None:
        """Its keys are gone."""

    def link_changed(self, session: "Session", link: Link, now: float) -> None:
        """A link's state, or what its path carries, is not what it was."""

    def make_link(self, number: int, name: str) -> Link:
        """The peer joins with a link of its own."""

    def came(self, session: "Session", pieces: list[Piece[Any]], now: float) -> None:
        """The peer has these."""

    def lost(self, session: "Session", link: Link, pieces: list[Piece[Any]], now: float) -> None:
        """These left by `link` and will not arrive by it."""

    def reported(self, session: "Session", now: float) -> None:
        """The peer's report has been read: lines may have room again."""


class Session:
    """See above. `links` by lane number."""

    def __init__(
        self,
        *,
        initiator: bool,
        peer: Capabilities,
        links: dict[int, Link],
        table: LaneTable,
        random: Callable[[int], bytes],
        observer: SessionObserver,
        drops: Drops,
        now: float,
    ) -> None:
        self.initiator = initiator
        self.peer = peer
        self.links = links
        self.ended = False
        self.reporter = Reporter()
        self.equaliser = Equaliser()
        self.patience_s = 0.0
        """How much longer than on lines without delay a gap may be waited for."""
        self._learner = Learner()
        self._keys = Keyring(table)
        self._random = random
        self._observer = observer
        self._drops = drops
        self._last_active = now
        self._mtu_probes = 0

    # -- keys -----------------------------------------------------------------------------------
    @property
    def current(self) -> Keypair | None:
        """What is sealed with; None before the first and after the end."""
        return self._keys.current

    def install(self, keypair: Keypair, now: float) -> None:
        """An initiator's new keypair: the peer has it already, so it is used at once."""
        self._keys.add(keypair)
        first = self._promote(keypair, now)
        if first:
            self._observer.session_started(self, now)
        for link in self.links.values():
            if first:
                link.liveness.happened(LinkEvent.NO_PATH, now)
                self.path_up(link, now)
            elif link.active:
                self._probe(link, now)  # whatever comes first under the new key confirms it

    def offer(self, keypair: Keypair) -> None:
        """A responder's new keypair: kept ready until the peer's first datagram under it."""
        self._keys.offer(keypair)

    def confirm(self, keypair: Keypair, now: float) -> None:
        """The first authentic datagram under an offered keypair came."""
        if self._keys.confirm(keypair) and self._promote(keypair, now):
            self._last_active = now
            self._observer.session_started(self, now)

    def _promote(self, keypair: Keypair, now: float) -> bool:
        """Make it the current one; True if it is the session's first."""
        first = self._keys.promote(keypair)
        for link in self.links.values():
            self._use_lane(link, keypair.send_lane(link.number), now)
        return first

    def _use_lane(self, link: Link, lane: SendLane, now: float) -> None:
        if forgotten := link.rekey(lane):
            self._observer.lost(self, link, forgotten, now)

    def end(self, reason: str, now: float) -> None:
        """Forget the keys."""
        if self.ended:
            return
        self.ended = True
        started = self.current is not None
        self._keys.clear()
        for link in self.links.values():
            link.liveness.happened(LinkEvent.NO_PATH, now)
            link.drain()
        if started:
            self._observer.session_ended(self, reason, now)

    def close(self, now: float) -> None:
        """Say goodbye on every link, then forget the keys."""
        for link in self.links.values():
            if self.current is not None and link.path is not None:
                self._send(link, wire.emit_close(), now)
        self.end("closed here", now)

    # -- links ----------------------------------------------------------------------------------
    @property
    def active(self) -> list[Link]:
        """The links that may carry data."""
        return [link for link in self.links.values() if link.active]

    @property
    def carrying(self) -> list[Link]:
        """The links that are to carry data: the active ones but the demoted, unless there are no others."""
        active = self.active
        return [link for link in active if not link.demotion.demoted] or active

    def path_up(self, link: Link, now: float) -> None:
        """The link has a path: join by it."""
        if self.current is None or link.path is None:
            return
        self._use_lane(link, self.current.send_lane(link.number), now)
        if link.liveness.happened(LinkEvent.PATH, now):
            link.path_mtu.interface_changed(link.interface_mtu or PATH_MTU_DEFAULT_BYTES, now)
        if link.liveness.state is LinkState.JOINING:
            self._challenge(link, now)

    def path_down(self, link: Link, reason: str, now: float) -> None:
        """The link's path is gone: no route, no device, no address."""
        link.reason = reason
        link.path = None
        for other in self._others(link):
            other.progressed = now  # the reports on it may have been coming by this link, and be lost
        self._happened(link, LinkEvent.NO_PATH, now)

    def moved(self, link: Link, path: Path, size: int, now: float) -> None:
        """An authentic datagram of `size` bytes, the newest of its lane, came from another address."""
        if self.initiator:
            return  # the server is where the configuration says
        link.set_path(path)
        link.allowance = AMPLIFICATION_MAX * size
        link.challenge = b""
        if link.liveness.state is LinkState.DOWN:
            self.path_up(link, now)
            return
        link.reason = "the peer's address changed"
        self._happened(link, LinkEvent.MOVED, now)
        self._challenge(link, now)

    def _happened(self, link: Link, event: LinkEvent, now: float) -> None:
        if link.liveness.happened(event, now):
            if not link.active and (pieces := link.drain()):
                self._observer.lost(self, link, pieces, now)
            if link.active:
                link.reason = ""
                link.capacity.resume(now)
            self._observer.link_changed(self, link, now)

    def _challenge(self, link: Link, now: float) -> None:
        if not link.challenge:
            link.challenge = self._random(wire.TOKEN_LEN)
        link.challenge_due = now + min(
            max(CHALLENGE_RETRY_S, now - link.liveness.since), CHALLENGE_RETRY_MAX_S
        )
        challenge = wire.PathChallenge(
            link.challenge,
            link.receive_rate_bps,
            link.send_rate_bps,
            link.interface_mtu,
            link.tier,
            link.name if self.initiator else "",
        )
        self._send(link, wire.emit_challenge(challenge), now)

    def _send(self, link: Link, sealed: bytes, now: float) -> None:
        link.send_control(link.send_lane.seal(sealed), now)

    def _probe(self, link: Link, now: float) -> int:
        """The id of the probe that leaves."""
        number = link.liveness.probe(now) % MTU_PROBE_IDS
        # Its report shows whether data before it was lost. None comes on a link that is silent already: what
        # that has under way when it returns would be taken for a new silence.
        if link.active and now - link.last_data < PROBE_TRACKED_S:
            link.send_lane.flight.sent(link.send_lane.counter, 1, 0, None, now)
        self._send(link, wire.emit_probe(wire.Probe(number, 0, wire.time_of(now), int(link.carries))), now)
        return number

    # -- control messages -----------------------------------------------------------------------
    def on_control(self, lane: ReceiveLane, sealed: bytes, path: Path, now: float) -> None:
        """An authentic, new datagram that is not DATA came on `lane` by `path`."""
        kind = sealed[0]
        if kind == wire.PATH_CHALLENGE:
            self._on_challenge(lane.number, wire.parse_challenge(sealed), path, now)
            return
        link = self.links.get(lane.number)
        if link is None:
            self._drops.count(Drop.SEALED)
        elif kind == wire.FEEDBACK:
            self._on_feedback(sealed, link.number, now)
        elif kind == wire.PROBE:
            probe = wire.parse_probe(sealed)
            if probe is not None and link.path is not None:
                arrived = lane.arrivals.at
                lane.arrivals.probe(probe.time, arrived)
                self.equaliser.probed(
                    link.number, probe.time, link.liveness.rtt, arrived, carries=bool(probe.carries)
                )
                if lane.arrivals.news:
                    self.reporter.noted(lane, link.srtt_s, now, bulk=False)
                self._send(link, wire.emit_probe_reply(probe), now)
        elif kind == wire.PROBE_REPLY:
            self._on_probe_reply(link, wire.parse_probe(sealed), now)
        elif kind == wire.PATH_RESPONSE:
            proves = path == link.path or self.initiator  # an old address's answer proves nothing of the new
            if link.challenge and proves and wire.parse_response(sealed) == link.challenge:
                link.challenge, link.challenge_due = b"", NEVER
                link.allowance = None
                self._happened(link, LinkEvent.VALIDATED, now)
                self._probe(link, now)
        elif kind == wire.CLOSE:
            self.end("closed by the peer", now)
        else:
            self._drops.count(Drop.SEALED)

    def _on_challenge(
        self, number: int, challenge: wire.PathChallenge | None, path: Path, now: float
    ) -> None:
        if challenge is None or number >= MAX_LANES or self.current is None:
            self._drops.count(Drop.SEALED)
            return
        link = self.links.get(number)
        if link is None:
            if self.initiator:  # links are ours to open
                self._drops.count(Drop.SEALED)
                return
            link = self.links[number] = self._observer.make_link(number, challenge.name)
        if not self.initiator:
            self._learn(link, challenge, path, now)
        self._send(link, wire.emit_response(challenge.token), now)

    def _learn(self, link: Link, challenge: wire.PathChallenge, path: Path, now: float) -> None:
        """What the client says of its link: its name, the rates it can receive and send, its MTU."""
        link.name = challenge.name or link.name
        link.tier = challenge.tier
        link.receive_rate_bps = challenge.send_rate
        if challenge.rate != link.send_rate_bps:
            link.set_send_rate(challenge.rate)
            if link.active:
                self._observer.link_changed(self, link, now)
        mtu = min(challenge.mtu or link.interface_mtu, PATH_MTU_DEFAULT_BYTES)
        if mtu != link.interface_mtu:
            link.interface_mtu = mtu
            if link.path is not None:
                link.path_mtu.interface_changed(mtu, now)
                self._observer.link_changed(self, link, now)
        if link.path is None:
            link.set_path(path)
            link.allowance = AMPLIFICATION_MAX * (len(challenge.name) + OVERHEAD)  # at least so much came
            self.path_up(link, now)
        elif link.liveness.state is LinkState.JOINING:
            self._challenge(link, now)

    def _on_probe_reply(self, link: Link, probe: wire.Probe | None, now: float) -> None:
        if probe is None:
            self._drops.count(Drop.SEALED)
        elif probe.id >= MTU_PROBE_IDS:
            before = link.path_mtu.current
            link.path_mtu.acknowledge(probe.size, now)
            self._note_path_mtu(link, before, now)
            link.long_probed(probe.id, probe.size, now)
        elif link.liveness.answered(probe.id, now):
            if link.capacity.phase is Phase.STARTUP:
                link.capacity.on_rtt(link.liveness.rtt.empty_s, now)
                link.short_probed(probe.id, now)
            link.capacity.idle_queue(link.liveness.rtt.queued_s, now)
            self._judge(link, now)

    # -- reports --------------------------------------------------------------------------------
    def poll_reports(self, now: float) -> None:
        """Tell the peer what came, if that is due."""
        if now < self.reporter.due or self.current is None:
            return
        link = self.reporter.link(self.active)
        if link is None:
            self.reporter.due = NEVER
            return
        report = self.reporter.emit(list(self._keys), link, now)
        if report is not None:
            self._send(link, report, now)

    def _on_feedback(self, sealed: bytes, by: int, now: float) -> None:
        learned = self._learner.receive(sealed, self._keys.sending, self.links, by, now)
        if learned is None:
            self._drops.count(Drop.SEALED)
            return
        self._observer.came(self, learned.came, now)
        for link, piece in learned.lost:
            self._observer.lost(self, link, [piece], now)
        self._observer.reported(self, now)

    # -- timers ---------------------------------------------------------------------------------
    def poll(self, now: float) -> None:
        """Do what is due."""
        if self.current is None:
            return
        if self.current.expired(now):
            self.end("keys expired", now)
            return
        for link in list(self.links.values()):
            self._poll_link(link, now)
        self.patience_s = PATIENCE_TRIPS * max((link.srtt_s for link in self.active), default=0.0)
        if any(link.active for link in self.links.values()):
            self._last_active = now
        elif not self.initiator and now - self._last_active > WIPE_AFTER_S:
            self.end("the peer is gone", now)
        self._keys.forget_expired(now)

    def _poll_link(self, link: Link, now: float) -> None:
        if link.path is None:
            return
        if now >= link.challenge_due and link.liveness.state is LinkState.JOINING:
            self._challenge(link, now)
        if link.liveness.ready(now, busy=link.busy(now)):
            self._probe(link, now)
        self._judge(link, now)
        if link.active:
            others = [other.capacity for other in self._others(link) if other.active]
            if link.demotion.judge(link.capacity, others, now):
                link.reason = link.demotion.reason
                if link.demotion.demoted:
                    link.path_mtu.doubted(now)
                self._observer.link_changed(self, link, now)
            before = link.path_mtu.current
            size = link.path_mtu.poll(now, link.srtt_s)
            if size is not None:
                self._probe_mtu(link, size, now)
            elif link.asks_again(now):
                self._probe_mtu(link, link.path_mtu.current, now, TRAIN_PROBES)
            self._note_path_mtu(link, before, now)

    def _note_path_mtu(self, link: Link, before: int, now: float) -> None:
        """If it is another one now, what the line lost was perhaps too large. Some of that is reported only
        after the fall, so a rise is a pardon too."""
        if link.path_mtu.current == before:
            return
        if link.demotion.demoted:
            link.demotion.pardon(link.capacity, now)
            link.reason = ""
        self._observer.link_changed(self, link, now)

    def _probe_mtu(self, link: Link, size: int, now: float, probes: int = 1) -> None:
        """So many probes of `size` bytes as an IP packet leave as a train (bond.longprobes)."""
        if link.path is None:
            return
        numbers = [MTU_PROBE_IDS | (self._mtu_probes + i) % MTU_PROBE_IDS for i in range(probes)]
        self._mtu_probes += probes
        if link.capacity.phase is Phase.STARTUP:
            link.liveness.long_probes.sent(self._probe(link, now), numbers, now)
        length = size - udp_overhead(ipv6=link.path.socket.ipv6) - OVERHEAD
        for number in numbers:
            probe = wire.Probe(number, size, wire.time_of(now), int(link.carries))
            self._send(link, wire.emit_probe(probe, length=length), now)

    def _judge(self, link: Link, now: float) -> None:
        others = self._others(link)
        event = link.liveness.judge(
            now,
            max((other.liveness.last_answer for other in others), default=-1e9),
            needed=not any(other.active for other in others),
        )
        if event is LinkEvent.SILENT:
            link.reason = f"no answer for {(now - link.liveness.last_answer) * 1e3:.0f} ms"
        elif event is None and link.active:
            silence = link.silence_s(now, others)
            if silence:
                event = LinkEvent.SILENT
                link.reason = f"nothing came for {silence * 1e3:.0f} ms"
        if event is LinkEvent.SILENT:
            link.path_mtu.doubted(now)
        if event is not None:
            self._happened(link, event, now)

    def _others(self, link: Link) -> list[Link]:
        return [other for other in self.links.values() if other is not link]

    def deadline(self, now: float) -> float:
        """When `poll` is due next."""
        if self.current is None:
            return NEVER
        deadline = now + 1.0  # keys, ages
        for link in self.links.values():
            if link.path is None:
                continue
            deadline = min(deadline, link.liveness.due(busy=link.busy(now)))
            if link.liveness.state is LinkState.JOINING:
                deadline = min(deadline, link.challenge_due)
            if link.active:
                silence_due = link.silence_due(self._others(link))
                deadline = min(deadline, link.path_mtu.next_deadline(), silence_due)
        return deadline

    @property
    def silent(self) -> bool:
        """Whether no link carries anything: the peer is gone, or all lines are."""
        return not any(link.active for link in self.links.values())
