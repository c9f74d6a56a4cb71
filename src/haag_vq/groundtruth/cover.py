"""Which finished intervals serve for some rows, and what is missing: integers only."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence

Span = tuple[int, int]


def cover(spans: Sequence[Span], start: int, stop: int) -> tuple[list[Span], list[Span]]:
    """Choose disjoint spans inside ``start:stop`` that leave the fewest rows uncovered.

    Of such choices one with the fewest spans: what was merged, and not what it was merged of.

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
    # best[i]: most rows that the first i spans cover, and minus how many do; taken[i]: span i - 1
    # is among them.
    best, taken = [(0, 0)], [False]
    for i, (a, b) in enumerate(inside):
        n_rows, minus_n = best[bisect_right(ends, a, 0, i)]
        with_it = (n_rows + b - a, minus_n - 1)
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


def needed(spans: Sequence[Span], cuts: Iterable[int]) -> set[Span]:
    """Choose the spans that leave the fewest rows uncovered of ``0:cut``, for each of the cuts.

    All others can go: of what ends at a cut no row is lost. A span over one cut serves those
    beyond it only.
    """
    return {span for cut in cuts for span in cover(spans, 0, cut)[0]}


def superseded(spans: Iterable[Span], pieces: Sequence[Span]) -> list[Span]:
    """List the spans that lie inside another one of the same piece: they were merged into it.

    Pieces are disjoint and ascending. While they are filled, nothing else may go: what serves a
    cut best may change with each file that is added, but the run has planned with what there was.
    """
    starts = [start for start, _ in pieces]
    found, piece, furthest = [], -1, -1
    for a, b in sorted(set(spans), key=lambda s: (s[0], -s[1])):
        at = bisect_right(starts, a) - 1
        if at < 0 or b > pieces[at][1]:
            continue
        if at == piece and b <= furthest:
            found.append((a, b))
        piece, furthest = at, max(b, furthest)
    return found


def mergeable(spans: Sequence[Span], cuts: Sequence[int]) -> list[list[Span]]:
    """List the runs of spans, one after the other, of which one can be made.

    For each cut, what serves ``0:cut`` is divided where its spans meet at another cut.
    """
    found = []
    for cut in cuts:
        run: list[Span] = []
        for span in cover(spans, 0, cut)[0]:
            if run and (span[0] != run[-1][1] or span[0] in cuts):
                found.append(run)
                run = []
            run.append(span)
        found.append(run)
    unique = {tuple(run) for run in found if len(run) > 1}
    return [list(run) for run in sorted(unique)]


def served(span: Span, spans: Iterable[Span], piece: Span) -> bool:
    """Tell whether a span of a piece is among `spans`, or another one around it in the piece.

    One that reaches out of the piece does not count: beside what serves the rows before and after
    it, it is of no use.
    """
    (a, b), (start, stop) = span, piece
    return any(start <= s[0] <= a and b <= s[1] <= stop for s in spans)


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
