"""Which finished intervals serve for some rows, and what is missing: integers only."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence

Span = tuple[int, int]


def cover(spans: Sequence[Span], start: int, stop: int) -> tuple[list[Span], list[Span]]:
    """Choose disjoint spans inside ``start:stop`` that leave the fewest rows uncovered.

    Parameters
    ----------
    spans : sequence of (first row, last row + 1)
        In any order; they may overlap.

    Returns
    -------
    chosen, gaps : list of (first row, last row + 1)
        Ascending; together they are ``start:stop``, each row once.

    Notes
    -----
    Weighted interval scheduling (Kleinberg and Tardos, Algorithm Design, §6.1), O(n log n).
    """
    inside = sorted({s for s in spans if start <= s[0] < s[1] <= stop}, key=lambda s: (s[1], s[0]))
    ends = [s[1] for s in inside]
    # best[i]: most rows covered by the first i spans; taken[i]: span i - 1 is among them.
    best, taken = [0], [False]
    for i, (a, b) in enumerate(inside):
        with_it = best[bisect_right(ends, a, 0, i)] + b - a
        taken.append(with_it > best[-1])
        best.append(max(with_it, best[-1]))
    chosen, i = [], len(inside)
    while i:
        if taken[i]:
            chosen.append(inside[i - 1])
            i = bisect_right(ends, inside[i - 1][0], 0, i - 1)
        else:
            i -= 1
    chosen.reverse()
    return chosen, _gaps(chosen, start, stop)


def _gaps(chosen: Sequence[Span], start: int, stop: int) -> list[Span]:
    gaps = []
    for a, b in (*chosen, (stop, stop)):
        if a > start:
            gaps.append((start, a))
        start = b
    return gaps


def covered(spans: Sequence[Span], cuts: Sequence[int]) -> list[Span]:
    """List the spans that lie wholly inside another one which has no cut inside itself.

    A span that reaches over a cut cannot serve a prefix that ends there; what it holds can.
    """
    inside, furthest = [], -1
    for a, b in sorted(set(spans), key=lambda s: (s[0], -s[1])):
        if b <= furthest:
            inside.append((a, b))
        elif not _is_cut((a, b), cuts):
            furthest = b
    return inside


def served(span: Span, spans: Iterable[Span], cuts: Sequence[int]) -> bool:
    """Tell whether a span is among `spans`, or another around it that has no cut inside."""
    return any(
        s == span or (s[0] <= span[0] and span[1] <= s[1] and not _is_cut(s, cuts)) for s in spans
    )


def _is_cut(span: Span, cuts: Sequence[int]) -> bool:
    return any(span[0] < cut < span[1] for cut in cuts)


def cut_at(spans: Sequence[Span], cuts: Sequence[int]) -> list[Span]:
    """Join overlapping spans, and cut them at some rows: disjoint and ascending."""
    joined: list[list[int]] = []
    for a, b in sorted(spans):
        if joined and a <= joined[-1][1]:
            joined[-1][1] = max(joined[-1][1], b)
        else:
            joined.append([a, b])
    found = []
    for a, b in joined:
        inside = [a, *sorted({c for c in cuts if a < c < b}), b]
        found += list(zip(inside[:-1], inside[1:], strict=True))
    return found
