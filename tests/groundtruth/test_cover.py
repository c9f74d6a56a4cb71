"""Which intervals serve, against all subsets of them and against sets of single rows."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations, pairwise

from hypothesis import given
from hypothesis import strategies as st

from haag_vq.groundtruth.cover import Span, cover, covered, cut_at, served

ENDS = st.integers(0, 14)
SPANS = st.lists(st.tuples(ENDS, st.integers(1, 14)).map(lambda s: (s[0], s[0] + s[1])), max_size=7)
CUTS = st.lists(st.integers(0, 28), max_size=4)


def rows_of(spans: Sequence[Span]) -> list[int]:
    return [row for a, b in spans for row in range(a, b)]


@given(SPANS, ENDS, st.integers(0, 20))
def test_cover_leaves_as_few_rows_as_the_best_subset(
    spans: list[Span], start: int, length: int
) -> None:
    stop = start + length
    chosen, gaps = cover(spans, start, stop)
    assert sorted(rows_of(chosen) + rows_of(gaps)) == list(range(start, stop))
    assert chosen == sorted(chosen)
    assert gaps == sorted(gaps)
    assert set(chosen) <= set(spans)
    assert all(a < b for a, b in gaps)
    inside = [s for s in spans if start <= s[0] and s[1] <= stop]
    best = 0
    for n in range(len(inside) + 1):
        for some in combinations(inside, n):
            rows = rows_of(some)
            if len(set(rows)) == len(rows):
                best = max(best, len(rows))
    assert len(rows_of(chosen)) == best


def test_a_grown_base_lacks_its_new_rows_only() -> None:
    old = [(0, 40), (40, 70), (70, 100)]
    assert cover(old, 0, 250) == (old, [(100, 250)])
    assert cover(old, 0, 100) == (old, [])
    # Of a smaller base, the interval over its end does not serve.
    assert cover(old, 0, 60) == ([(0, 40)], [(40, 60)])


def test_many_intervals_are_covered_in_one_pass() -> None:
    n = 20_000
    spans = [(i, i + 2) for i in range(n)]
    chosen, gaps = cover(spans, 0, n)
    assert (len(chosen), gaps) == (n // 2, [])


@given(SPANS, CUTS)
def test_covered_spans_are_those_inside_one_that_no_cut_divides(
    spans: list[Span], cuts: list[int]
) -> None:
    def holds(t: Span, s: Span) -> bool:
        divided = any(t[0] < cut < t[1] for cut in cuts)
        return t != s and t[0] <= s[0] and s[1] <= t[1] and not divided

    assert covered(spans, cuts) == sorted(
        {s for s in spans if any(holds(t, s) for t in spans)}, key=lambda s: (s[0], -s[1])
    )


@given(SPANS, CUTS)
def test_cut_spans_hold_the_same_rows_and_meet_at_cuts_only(
    spans: list[Span], cuts: list[int]
) -> None:
    pieces = cut_at(spans, cuts)
    assert rows_of(pieces) == sorted(set(rows_of(spans)))
    assert all(a < b for a, b in pieces)
    assert not any(a < cut < b for a, b in pieces for cut in cuts)
    assert all(b in cuts for (_, b), (c, _) in pairwise(pieces) if b == c)


@given(SPANS, SPANS, CUTS)
def test_what_tidying_removes_is_served_by_what_it_keeps(
    spans: list[Span], others: list[Span], cuts: list[int]
) -> None:
    kept = set(spans) - set(covered(spans, cuts))
    assert all(served(span, kept, cuts) for span in spans)
    for span in others:
        rows = set(range(*span))
        assert served(span, spans, cuts) == any(
            s == span or (rows <= set(range(*s)) and not set(range(s[0] + 1, s[1])) & set(cuts))
            for s in spans
        )
