"""The smallest value of a sliding window of time, by two buckets: base delays and base round trips."""

from math import inf


class WindowedMin:
    """The smallest value of the last `span_s` / 2 to `span_s`; infinite before the first."""

    __slots__ = ("_at", "_older", "_span", "_young", "value")

    def __init__(self, span_s: float) -> None:
        self._span = span_s
        self._older = self._young = self.value = inf  # read much more often than it changes
        self._at = -inf

    def add(self, value: float, now: float) -> None:
        age = now - self._at
        if age > self._span / 2:
            self._older = self._young if age <= self._span else inf
            self._young, self._at = value, now
        elif value < self._young:
            self._young = value
        else:
            return
        self.value = min(self._older, self._young)

    def lower(self, value: float, now: float) -> None:
        """What is known does not age, and only a smaller one is news."""
        self.restart(min(value, self.value), now)

    def restart(self, value: float, now: float) -> None:
        """Forget; begin with `value`."""
        self._older = inf
        self._young = self.value = value
        self._at = now
