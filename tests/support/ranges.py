"""Disjoint ranges of integers: what a receiver holds ahead, what a sender was told of it."""

from bisect import bisect_left, bisect_right


class Ranges:
    """Disjoint half-open ranges of integers."""

    __slots__ = ("lefts", "rights")

    def __init__(self) -> None:
        self.lefts: list[int] = []
        self.rights: list[int] = []

    def add(self, left: int, right: int) -> list[tuple[int, int]]:
        """Cover [left, right); what was not covered before."""
        lefts, rights = self.lefts, self.rights
        first = bisect_left(rights, left)
        past = bisect_right(lefts, right)
        if left >= right:
            return []
        fresh, at = [], left
        for i in range(first, past):
            if lefts[i] > at:
                fresh.append((at, lefts[i]))
            at = max(at, rights[i])
        if at < right:
            fresh.append((at, right))
        if first < past:
            left, right = min(left, lefts[first]), max(right, rights[past - 1])
        lefts[first:past] = [left]
        rights[first:past] = [right]
        return fresh

    def drop_below(self, bound: int) -> None:
        count = bisect_right(self.rights, bound)
        del self.lefts[:count], self.rights[:count]
        if self.lefts and self.lefts[0] < bound:
            self.lefts[0] = bound

    def around(self, point: int) -> tuple[int, int] | None:
        i = bisect_right(self.lefts, point) - 1
        return (self.lefts[i], self.rights[i]) if i >= 0 and point < self.rights[i] else None
