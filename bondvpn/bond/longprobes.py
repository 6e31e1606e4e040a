"""What a line carries, by probes of two lengths, before anything else has been sent on it.

A probe of the path's MTU takes `bytes / rate` longer than the short one in front of it: 7 ms at 1.7 Mbit/s.
Of a line of which nothing is known a flow's first window takes 15 KB, which are 70 ms there, and cubic leaves
its slow start on all lines for 16 ms on one.

Long probes leave as a train, a short one in front: one that asks for the path's MTU, and once more
TRAIN_PROBES, where that one says that the line is thin. What one of them takes is at the most, and the least
of these bounds counts:

    the first one's round trip less the     others' queues lengthen it
    shortest short one's
    how much later its answer comes than    whatever queue both have met (packet-pair dispersion: see
    that of the one in front                bond.trains); where the way back is thin answers are slow to
                                            follow each other
    the same over several of a train        LTE grants an uplink that was idle little at first, the rest 10 to
                                            20 ms later (3GPP TS 36.321, 5.4.4 and 5.4.5): once a train

Whatever else makes long probes late makes the line look thinner: so it counts only until the line has shown
more, and what a wake-up may take is no part of it. But lines wrongly taken for 0.5 Mbit/s cost a flow 2 s of
its start where round trips take 10 ms, and more than 8 s where they take 150 (simulated).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import inf

LATE_S = 0.002  # a wake-up: from 6 Mbit/s on nothing is told
TRAIN_PROBES = 4  # 0.1 s of 0.5 Mbit/s
SENT_KEPT = 32  # ids: two each quarter of a second, and answers take seconds where others fill the line


@dataclass(slots=True)
class _Train:
    sent_at: float
    probes: int
    answered: list[tuple[int, float]] = field(default_factory=list)
    """(place in the train, the short probe's is 0; when)"""


class LongProbes:
    """Of one line in its sending direction. Sizes: bytes as Ethernet frames."""

    def __init__(self) -> None:
        self._places: dict[int, tuple[_Train, int]] = {}  # of those under way by id, oldest first
        self._trip_s = self._behind_s = inf  # what one of the longest takes at the most
        self._nbytes = 0
        self._asked_again = False

    def sent(self, short: int, long: Sequence[int], now: float) -> None:
        """Probes of these ids leave as a train."""
        train = _Train(now, len(long))
        for place, number in enumerate((short, *long)):
            self._places[number] = train, place
            if len(self._places) > SENT_KEPT:
                del self._places[next(iter(self._places))]

    def short_answered(self, number: int, now: float) -> None:
        """The answer to the short probe of that id came."""
        train, place = self._places.pop(number, (None, 0))
        if train is not None:
            train.answered.append((place, now))

    def answered(self, number: int, nbytes: int, now: float) -> None:
        """The answer to the long probe of that id, of so many bytes, came."""
        train, place = self._places.pop(number, (None, 0))
        if train is None or nbytes < self._nbytes:
            return
        if nbytes > self._nbytes:
            self._nbytes, self._trip_s, self._behind_s = nbytes, inf, inf
        if place == 1:
            self._trip_s = min(self._trip_s, now - train.sent_at)
        for before, at in train.answered:
            # Two answers that one late wake-up reads seem to come together.
            if place - before >= min(2, train.probes):
                self._behind_s = min(self._behind_s, (now - at) / (place - before))
        train.answered.append((place, now))

    def ask_again(self) -> bool:
        """Whether the line looks thin by single probes alone: TRAIN_PROBES are to leave now. True once."""
        again, self._asked_again = not self._asked_again, True
        return again

    def rate(self, short_s: float) -> float:
        """Bytes a second, at least, of a line whose short probes took `short_s` at the least (0: that is not
        known); infinite: it is not seen to be thin."""
        took_s = min(self._trip_s - short_s, self._behind_s) - LATE_S
        return self._nbytes / took_s if short_s and 0 < took_s < inf else inf
