"""What came by one lane since the last report on it, and when to report."""

from math import inf

from bondvpn.wire.sealed import TIME_UNIT_S, above, time_of

REPORT_S = 0.010  # or an eighth of the RTT, when that is longer
REPORT_RTTS = 8
REPORT_SPARSE_S = 0.040  # while nothing but express comes: its lines are not full, and reports would be
REPORT_DATAGRAMS = 512  # sooner on fast lines: 2 ms at 2.8 Gbit/s, or too much would be under way
GAP_REPORT_S = 0.002  # a gap is told at once, but not more often than this
# Of a new lane's first datagrams each so many are told of: they show what the line carries (startup.py).
REPORT_TRAIN, TRAIN_DATAGRAMS = 8, 512
REPORT_SHARE = 0.02  # of the line that carries the reports
SPOKEN_FOR_REPORTS = 4  # reports that speak for each counter
SPOKEN_FOR_MIN = 64
PROBE_REPORTED_S = 1.0  # after the last data
DELAY_KEEP_S = 0.5  # of what nobody asked about for so long (probes of an idle line) the last is told
OVERTAKEN = round(0.1 / TIME_UNIT_S)  # what arrives later left so much earlier at the most

_MASK = 0xFFFF


class Arrivals:
    """One receive lane. Times: seconds of our clock; send times and delays: TIME_UNIT_S modulo 2^16."""

    __slots__ = (
        "_data",
        "_data_at",
        "_delay",
        "_delay_at",
        "_delay_sent",
        "_next",
        "_tops",
        "at",
        "frame_bytes",
        "gap",
        "news",
    )

    def __init__(self) -> None:
        self.frame_bytes = 0
        """Of all that came, as Ethernet frames."""
        self.at = 0.0
        """When the last datagram came."""
        self.news = 0
        """Datagrams that came and ask for a report, since the last one."""
        self.gap = False
        """Whether one came that left a gap behind it."""
        self._data = 0  # datagrams of it, in all
        self._data_at = -inf
        self._delay: int | None = None  # smallest since the last report
        self._delay_at = -inf  # when that came
        self._delay_sent = 0  # and when it left, by the sender's clock
        self._next = 0
        self._tops: list[int]  # highest counters of the last reports
        self.retell()

    def came(self, first: int, count: int, frame_bytes: int, now: float) -> None:
        """Datagrams with counters from `first` on, authentic and new."""
        self.frame_bytes += frame_bytes
        self.at = now
        if first > self._next:
            self.gap = True
        self._next = max(self._next, first + count)

    def data(self, count: int, sent: int, now: float) -> None:
        """`count` of them are DATA and ask for a report; the sender's clock showed `sent` when they left."""
        if now - self._data_at > PROBE_REPORTED_S:
            self._delay = None  # a probe's, and somebody else's queue may have gone since
        self.news += count
        self._data += count
        self._data_at = now
        self._note_delay(sent, now)

    def probe(self, sent: int, now: float) -> None:
        """One is a probe. After data it asks for a report too: it shows whether the last of them was lost."""
        if now - self._data_at < PROBE_REPORTED_S:
            self.news += 1
        self._note_delay(sent, now)

    @property
    def train(self) -> bool:
        """Whether a new lane brought enough for a report that shows the line's rate."""
        return self.news >= REPORT_TRAIN and self._data < TRAIN_DATAGRAMS

    @property
    def worth_telling(self) -> bool:
        """Whether a report that leaves anyway has something to say of this lane."""
        return self.news > 0 or self._delay is not None

    def _note_delay(self, sent: int, now: float) -> None:
        # A queue that nobody fills any more is a second shorter for what leaves a second later and arrives
        # right behind: two delays are compared by what passed between both ends of them, not by themselves.
        later, passed = above(sent - self._delay_sent, -OVERTAKEN, 16), now - self._delay_at
        if self._delay is None or passed > DELAY_KEEP_S or later * TIME_UNIT_S > passed:
            self._delay, self._delay_at, self._delay_sent = time_of(now) - sent & _MASK, now, sent

    def retell(self) -> None:
        """What the last reports said may come late or never: the next ones say it again."""
        self._tops = [-1] * SPOKEN_FOR_REPORTS

    def take(self, highest: int) -> tuple[int | None, int]:
        """(smallest delay since the last report, counters to speak for); begins anew."""
        delay, self._delay = self._delay, None
        self.news, self.gap = 0, False
        tops = self._tops
        spoken_for = highest - tops[0]
        tops.append(highest)
        del tops[0]
        return delay, max(spoken_for, SPOKEN_FOR_MIN)
