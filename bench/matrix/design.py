"""Space-filling designs in the unit cube, seeded: Latin hypercubes, and points chosen from them by WSP.

WSP (Wootton, Sergent, Phan-Tan-Luu; used for Multipath TCP by Paasch et al., CoNEXT 2013, and for Multipath
QUIC by De Coninck and Bonaventure, CoNEXT 2017) walks through candidates: keep the nearest one, remove all
closer to it than a distance, go on; the distance is what leaves the wanted number.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float64]

CANDIDATES_PER_POINT = 30
SEARCH_STEPS = 40


def latin_hypercube(count: int, dimensions: int, draw: np.random.Generator) -> Points:
    """`count` points, one in each of `count` equal slices of every dimension; array (count, dimensions)."""
    order = np.array([draw.permutation(count) for _ in range(dimensions)]).T
    return (order + draw.random((count, dimensions))) / count


def wsp(candidates: Points, distance: float) -> list[int]:
    """The numbers of the candidates kept, none nearer than `distance` to another, in the order of the walk
    from the one nearest to the middle of all."""
    left = np.arange(len(candidates))
    middle = candidates.mean(axis=0)
    here = int(np.argmin(np.linalg.norm(candidates - middle, axis=1)))
    kept = []
    while True:
        kept.append(here)
        away = np.linalg.norm(candidates[left] - candidates[here], axis=1)
        keep = (away >= distance) & (left != here)
        left, away = left[keep], away[keep]
        if not len(left):
            return kept
        here = int(left[np.argmin(away)])


def spread(count: int, dimensions: int, seed: int, allowed: Callable[[Points], bool]) -> Points:
    """`count` allowed points far from each other, array (count, dimensions), in random order: what is first
    of them is spread as well.

    Raises ValueError when too few points are allowed.
    """
    draw = np.random.default_rng(seed)
    candidates = latin_hypercube(count * CANDIDATES_PER_POINT, dimensions, draw)
    candidates = candidates[[allowed(point) for point in candidates]]
    if len(candidates) < count:
        raise ValueError(
            f"{len(candidates)} of {count * CANDIDATES_PER_POINT} points are allowed, {count} wanted"
        )
    near, far = 0.0, float(dimensions) ** 0.5
    best = wsp(candidates, near)
    for _ in range(SEARCH_STEPS):
        distance = (near + far) / 2
        kept = wsp(candidates, distance)
        if len(kept) >= count:
            near, best = distance, kept
        else:
            far = distance
        if len(kept) == count:
            break
    chosen: Points = candidates[draw.permutation(best[:count])]
    return chosen
