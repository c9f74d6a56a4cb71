"""Which intervals serve, against all subsets of them and against sets of single rows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import combinations, pairwise

from hypothesis import given
from hypothesis import strategies as st

from haag_vq.groundtruth.cover import Span, cover, cut_at, mergeable, needed, served, superseded

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
    best = (0, 0)
    for n in range(len(inside) + 1):
        for some in combinations(inside, n):
            rows = rows_of(some)
            if len(set(rows)) == len(rows):
                best = max(best, (len(rows), -n))
    assert (len(rows_of(chosen)), -len(chosen)) == best


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


def missing(spans: Iterable[Span], cut: int) -> int:
    return len(rows_of(cover(list(spans), 0, cut)[1]))


@given(SPANS, CUTS)
def test_what_no_cut_needs_can_go(spans: list[Span], cuts: list[int]) -> None:
    kept = needed(spans, cuts)
    assert kept <= set(spans)
    for cut in cuts:
        assert missing(kept, cut) == missing(spans, cut)
    for span in kept:
        assert any(span in cover(spans, 0, cut)[0] for cut in cuts)


@given(SPANS, CUTS)
def test_what_can_be_merged_takes_no_row_from_any_cut(spans: list[Span], cuts: list[int]) -> None:
    runs = mergeable(spans, cuts)
    for run in runs:
        assert len(run) > 1
        assert all(s[1] == t[0] and t[0] not in cuts for s, t in pairwise(run))
    merged = {*spans, *((run[0][0], run[-1][1]) for run in runs)}
    left = needed(sorted(merged), cuts)
    for cut in cuts:
        assert missing(left, cut) == missing(spans, cut)
    assert mergeable(sorted(left), cuts) == []


@given(SPANS, CUTS)
def test_cut_spans_hold_the_same_rows_and_meet_at_cuts_only(
    spans: list[Span], cuts: list[int]
) -> None:
    pieces = cut_at(spans, cuts)
    assert rows_of(pieces) == sorted(set(rows_of(spans)))
    assert all(a < b for a, b in pieces)
    assert not any(a < cut < b for a, b in pieces for cut in cuts)
    assert all(b in cuts for (_, b), (c, _) in pairwise(pieces) if b == c)


@given(SPANS, ENDS, st.integers(1, 14))
def test_a_block_is_there_if_a_file_within_its_piece_has_it(
    spans: list[Span], start: int, length: int
) -> None:
    piece = (start, start + length)
    within = [s for s in spans if piece[0] <= s[0] and s[1] <= piece[1]]
    for a, b in combinations(range(piece[0], piece[1] + 1), 2):
        rows = set(range(a, b))
        assert served((a, b), spans, piece) == any(rows <= set(range(*s)) for s in within)


@given(SPANS, SPANS)
def test_while_pieces_are_filled_only_what_was_merged_in_them_goes(
    spans: list[Span], some: list[Span]
) -> None:
    pieces = cut_at(some, [])
    gone = superseded(spans, pieces)
    assert sorted(gone) == sorted(
        {
            s
            for s in spans
            for start, stop in pieces
            if any(t != s and start <= t[0] <= s[0] and s[1] <= t[1] <= stop for t in spans)
        }
    )
