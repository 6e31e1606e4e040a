"""Is this link alive, and how far is the other end? Probes answer both.

Theory. Each end probes each link: while it carries data every PROBE_BUSY_S, else every
PROBE_IDLE_S. A reply acknowledges its probe and all before it, so a lost probe alone means
nothing. A link is silent when PROBES_LOST probes in a row stay unanswered, the last of them for
longer than a retransmission timeout, *while another link answered* (otherwise it may be us, or the
peer, that stood still: then it takes ALONE_S). A probe whose answer is late makes an idle link probe
at the busy pace, so that a link dies as fast when nobody is looking.

    state      event       next
    DOWN       path        JOINING
    JOINING    validated   ACTIVE
    ACTIVE     silent      STALLED
    ACTIVE     moved       JOINING     (the peer's address changed: prove it again)
    STALLED    answering   ACTIVE
    STALLED    aged        DEAD
    STALLED    moved       JOINING
    DEAD       answering   ACTIVE
    DEAD       moved       JOINING
    any        no path     DOWN
"""

from collections import deque
from enum import Enum

from bondvpn.bond.longprobes import LongProbes


class LinkState(Enum):
    """See the table above."""

    DOWN = "down"
    JOINING = "joining"
    ACTIVE = "active"
    STALLED = "stalled"
    DEAD = "dead"


class LinkEvent(Enum):
    """What happens to a link."""

    PATH = "path"
    VALIDATED = "validated"
    SILENT = "silent"
    MOVED = "moved"
    ANSWERING = "answering"
    AGED = "aged"
    NO_PATH = "no path"


TRANSITIONS: dict[tuple[LinkState, LinkEvent], LinkState] = {
    (LinkState.DOWN, LinkEvent.PATH): LinkState.JOINING,
    (LinkState.JOINING, LinkEvent.VALIDATED): LinkState.ACTIVE,
    (LinkState.ACTIVE, LinkEvent.SILENT): LinkState.STALLED,
    (LinkState.ACTIVE, LinkEvent.MOVED): LinkState.JOINING,
    (LinkState.STALLED, LinkEvent.MOVED): LinkState.JOINING,
    (LinkState.DEAD, LinkEvent.MOVED): LinkState.JOINING,
    (LinkState.STALLED, LinkEvent.ANSWERING): LinkState.ACTIVE,
    (LinkState.STALLED, LinkEvent.AGED): LinkState.DEAD,
    (LinkState.DEAD, LinkEvent.ANSWERING): LinkState.ACTIVE,
    **{(state, LinkEvent.NO_PATH): LinkState.DOWN for state in LinkState},
}

PROBE_BUSY_S = 0.05  # a dead line is noticed in 230 ms at 20 ms RTT: before TCP sends again into it
PROBE_IDLE_S = 1.0  # the client's: it must notice a restarted server
PROBE_IDLE_SERVER_S = 3.0  # links are the client's to keep; each probe costs 0.1 ms of a core at both ends
PROBE_EARLY_S = 0.2  # an idle probe may leave with another link's: one wake-up for all
PROBE_DEAD_S = 0.25
BUSY_FOR_S = 0.3  # after the last data; with 1 s an idle tunnel's own chatter (IPv6) cost 0.2 % of a core
PROBES_LOST = 3  # at 1 % random loss each way: by chance once in 2.6 h of full load, for 0.4 s
TIMEOUT_FLOOR_S = 0.060  # design.md, 5: 60 ms + srtt + 4 rttvar
ALONE_S = 0.5  # no other link to compare with
DEAD_AFTER_S = 3.0
ANSWERS_TO_RETURN = 2  # in a row, before a silent link carries data again
ANSWERS_PER_FLAP = 2  # more, for each time that it fell silent in the last FLAPS_KEPT_S
ANSWERS_MAX = 8  # LTE stands still for 100 ms up to 47 times a minute: with 20 it would hardly ever be used
FLAPS_KEPT_S = 30.0
RTT_INITIAL_S = 1.0  # RFC 6298, 2.1: until the first answer
# Beyond the shortest round trip: more is somebody's queue, less may be a radio's jitter or another satellite.
RTT_QUEUED_S = 0.05


class RttEstimator:
    """Smoothed round-trip time and its variation (RFC 6298, 2), and the smallest seen."""

    __slots__ = ("last_s", "min_s", "srtt_s", "var_s")

    def __init__(self) -> None:
        self.srtt_s = self.var_s = self.min_s = self.last_s = 0.0

    def add(self, rtt_s: float) -> None:
        self.last_s = rtt_s
        if self.srtt_s == 0.0:
            self.srtt_s, self.var_s, self.min_s = rtt_s, rtt_s / 2, rtt_s
            return
        self.var_s += (abs(self.srtt_s - rtt_s) - self.var_s) / 4
        self.srtt_s += (rtt_s - self.srtt_s) / 8
        self.min_s = min(self.min_s, rtt_s)

    @property
    def queued_s(self) -> float:
        """By how much the last one exceeded the shortest."""
        return self.last_s - self.min_s

    @property
    def empty_s(self) -> float:
        """Smoothed, but without a queue of others, be it there or gone: probes 3 s apart smooth what was 2 s
        for a minute, and a flow that begins then must not be held by it."""
        return min(self.srtt_s, self.min_s if self.queued_s > RTT_QUEUED_S else self.last_s)

    @property
    def timeout_s(self) -> float:
        """How long an answer may take before its absence means something."""
        return TIMEOUT_FLOOR_S + (self.srtt_s + 4 * self.var_s if self.srtt_s else RTT_INITIAL_S)


class Liveness:
    """State and probes of one link."""

    def __init__(self) -> None:
        self.idle_s = PROBE_IDLE_S
        self.busy_s = PROBE_BUSY_S
        self.state = LinkState.DOWN
        self.since = 0.0  # when the state was entered
        self.rtt = RttEstimator()
        self.long_probes = LongProbes()
        self.last_answer = -1e9
        self._unanswered: dict[int, float] = {}  # id -> when sent, oldest first
        self._next_id = 0
        self._last_sent = -1e9
        self._answers = 0
        self._stalls: deque[float] = deque(maxlen=ANSWERS_MAX // ANSWERS_PER_FLAP)

    def happened(self, event: LinkEvent, now: float) -> bool:
        """Follow the table; True if the state changed."""
        state = TRANSITIONS.get((self.state, event), self.state)
        if state is self.state:
            return False
        if state is LinkState.STALLED:
            self._stalls.append(now)
        self.state = state
        self.since = now
        self._answers = 0
        if state is LinkState.DOWN or event is LinkEvent.MOVED:
            self._unanswered.clear()
            self.rtt = RttEstimator()
            self.long_probes = LongProbes()
        return True

    # -- probes ---------------------------------------------------------------------------------
    def due(self, *, busy: bool) -> float:
        """When the next probe should leave. Nothing is probed before its path is validated."""
        if self.state in {LinkState.DOWN, LinkState.JOINING}:
            return float("inf")
        if self.state is LinkState.DEAD and not self._answers:
            return self._last_sent + PROBE_DEAD_S
        if busy or self.state in {LinkState.STALLED, LinkState.DEAD}:
            return self._last_sent + self.busy_s
        due = self._last_sent + self.idle_s
        if self._unanswered:
            late = next(iter(self._unanswered.values())) + self.rtt.timeout_s
            due = min(due, max(late, self._last_sent + PROBE_BUSY_S))
        return due

    def ready(self, now: float, *, busy: bool) -> bool:
        """Whether to send a probe now that somebody looks: it is due, or idle and nearly due."""
        due = self.due(busy=busy)
        return now >= due or (due == self._last_sent + self.idle_s and now >= due - PROBE_EARLY_S)

    def probe(self, now: float) -> int:
        """The id of a probe that is sent now."""
        number = self._next_id
        self._next_id = number + 1 & 0xFFFFFFFF
        self._last_sent = now
        self._unanswered[number] = now
        if len(self._unanswered) > 256:  # a dead link's first ones tell nothing any more
            del self._unanswered[next(iter(self._unanswered))]
        return number

    def answered(self, number: int, now: float) -> bool:
        """A reply came; True if it is news. It acknowledges the older probes with it."""
        sent = self._unanswered.get(number)
        if sent is None:
            return False
        for older in list(self._unanswered):
            del self._unanswered[older]
            if older == number:
                break
        self.rtt.add(now - sent)
        self.last_answer = now
        self._answers += 1
        return True

    def waits_s(self, now: float) -> float:
        """How long the oldest probe without an answer has been under way; 0: there is none."""
        return now - next(iter(self._unanswered.values()), now)

    def _answers_wanted(self, now: float) -> int:
        """A line that flaps has to show more of itself."""
        flaps = sum(now - at < FLAPS_KEPT_S for at in self._stalls) - 1
        return min(ANSWERS_TO_RETURN + ANSWERS_PER_FLAP * max(flaps, 0), ANSWERS_MAX)

    # -- what they mean -------------------------------------------------------------------------
    def judge(self, now: float, others_answered: float, *, needed: bool) -> LinkEvent | None:
        """The event that the answers, or their absence, amount to now.

        `others_answered`: when another link of the session last had an answer. `needed`: no other link is
        active, so that this one carries data again at its first answer, however it flapped before.
        """
        if self.state in {LinkState.STALLED, LinkState.DEAD}:
            if self._answers >= (1 if needed else self._answers_wanted(now)):
                return LinkEvent.ANSWERING
            if self.waits_s(now) > self.rtt.timeout_s:
                self._answers = 0  # not in a row
            if self.state is LinkState.STALLED and now - self.since >= DEAD_AFTER_S:
                return LinkEvent.AGED
        elif self.state is LinkState.ACTIVE and len(self._unanswered) >= PROBES_LOST:
            silence = now - list(self._unanswered.values())[PROBES_LOST - 1]
            timeout = self.rtt.timeout_s
            if others_answered < now - timeout:
                timeout = max(timeout, ALONE_S)
            if silence >= timeout:
                return LinkEvent.SILENT
        return None
