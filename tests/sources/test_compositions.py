"""Any composition of selections against NumPy's own indexing."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from haag_vq.partition import plan_partitions
from haag_vq.sources import (
    ArraySource,
    ConcatSource,
    PrefixSource,
    RangeSource,
    TakeSource,
    VectorSource,
    WithoutSource,
    open_source,
)
from haag_vq.sources.protocol import F32, I64
from tests.sources.kinds import pickled
from tests.support.files import read_rows, take_rows, vectors, write_npy, write_parquet

N, DIM = 24, 5

SETTINGS = settings(max_examples=150, deadline=None)


@dataclass(frozen=True, slots=True)
class Model:
    """What a composed source must deliver."""

    rows: F32
    stored: I64
    exact: bool
    """False once a length was divided by: then equal to a few units in the last place."""

    def agrees(self, got: F32, want: F32) -> None:
        if self.exact:
            assert_array_equal(got, want)
        else:
            assert_allclose(got, want, rtol=1e-6)


@pytest.fixture(scope="module")
def bases(
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, tuple[VectorSource, F32]]:
    path: Path = tmp_path_factory.mktemp("bases")
    half = vectors(N, DIM, "float16")
    single = vectors(N, DIM, "float32")
    double = vectors(N, DIM, "float64")
    write_npy(path / "x.npy", half)
    write_parquet(path / "x.parquet", double, row_group_size=5)
    parquet = open_source(path / "x.parquet")
    shards = [RangeSource(parquet, 0, 7), ArraySource(single[:0]), ArraySource(single[7:])]
    return {
        "array": (ArraySource(single), single),
        "npy": (open_source(path / "x.npy"), half.astype(np.float32)),
        "parquet": (parquet, double.astype(np.float32)),
        "shards": (
            ConcatSource(shards),
            np.concatenate([double[:7].astype(np.float32), single[7:]]),
        ),
    }


def wrap(source: VectorSource, model: Model, data: st.DataObject) -> tuple[VectorSource, Model]:
    """Put one more selection around `source`, and do the same to the model with NumPy."""
    n, dim = model.rows.shape
    kind = data.draw(st.sampled_from(["range", "take", "without", "prefix"]))
    if kind == "range":
        start, stop = sorted(data.draw(st.tuples(st.integers(0, n), st.integers(0, n))))
        wrapped: VectorSource = RangeSource(source, start, stop)
        return wrapped, Model(model.rows[start:stop], model.stored[start:stop], model.exact)
    if kind == "take":
        picked = st.lists(st.integers(0, n - 1), max_size=2 * n) if n else st.just([])
        rows = np.array(data.draw(picked), np.int64)
        return TakeSource(source, rows), Model(model.rows[rows], model.stored[rows], model.exact)
    if kind == "without":
        removed = np.array(
            sorted(data.draw(st.sets(st.integers(0, n - 1)) if n else st.just(set())))
        )
        removed = removed.astype(np.int64)
        return WithoutSource(source, removed), Model(
            np.delete(model.rows, removed, axis=0), np.delete(model.stored, removed), model.exact
        )
    dims, renormalize = data.draw(st.tuples(st.integers(1, dim), st.booleans()))
    kept = model.rows[:, :dims].astype(np.float64)
    if renormalize:
        kept /= np.linalg.norm(kept, axis=1, keepdims=True)
    return PrefixSource(source, dims, renormalize), Model(
        kept.astype(np.float32), model.stored, model.exact and not renormalize
    )


@pytest.mark.parametrize("base", ["array", "npy", "parquet", "shards"])
@SETTINGS
@given(data=st.data(), depth=st.integers(1, 4))
def test_selections_compose_as_numpy_indexes(
    bases: dict[str, tuple[VectorSource, F32]], base: str, data: st.DataObject, depth: int
) -> None:
    source, rows = bases[base]
    model = Model(rows, np.arange(N), exact=True)
    for _ in range(depth):
        source, model = wrap(source, model, data)
    n, dim = model.rows.shape
    assert (source.n_rows, source.dim) == (n, dim)

    model.agrees(read_rows(source), model.rows)
    start, stop = sorted(data.draw(st.tuples(st.integers(0, n), st.integers(0, n)), label="range"))
    m = data.draw(st.integers(1, dim), label="first dimensions")
    model.agrees(read_rows(source, start, stop, dims=m), model.rows[start:stop, :m])

    some = data.draw(st.lists(st.integers(0, n - 1)) if n else st.just([]), label="take")
    model.agrees(take_rows(source, sorted(some), dims=m), model.rows[sorted(some), :m])
    assert_array_equal(source.stored_rows(np.array(some, np.int64)), model.stored[some])

    part, _ = pickled(source.narrow(start, stop))
    assert part.n_rows == stop - start
    model.agrees(read_rows(part), model.rows[start:stop])

    edges = source.edges
    assert edges[0] == 0
    assert edges[-1] == n
    assert np.all(np.diff(edges) >= 0)
    budget_rows = data.draw(st.integers(1, n + 1), label="rows of a partition")
    pieces = [
        read_rows(source.narrow(a, b))
        for a, b in plan_partitions(edges, 4 * dim, 4 * dim * budget_rows)
    ]
    model.agrees(np.concatenate([np.empty((0, dim), np.float32), *pieces]), model.rows)


def test_renormalized_prefix_shows_its_own_first_dimensions() -> None:
    rows = vectors(40, 8)
    unit = PrefixSource(ArraySource(rows), 6, renormalize=True)
    whole = read_rows(unit)
    # Not vectors renormalized to these dimensions: the first ones of the vectors delivered.
    assert_array_equal(read_rows(unit, dims=2), whole[:, :2])
    assert_array_equal(read_rows(PrefixSource(unit, 2)), whole[:, :2])
    assert_allclose(np.linalg.norm(whole.astype(np.float64), axis=1), 1, rtol=1e-6)


def test_order_of_a_large_take_is_restored_within_its_scratch() -> None:
    # Rows enough that the columns are put in order a few at a time.
    rows = vectors(20_000, 96)
    order = np.random.default_rng(0).permutation(20_000)
    assert_array_equal(read_rows(TakeSource(ArraySource(rows), order)), rows[order])


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda s: RangeSource(s, 2, 25), ["2:25", "0:24"]),
        (lambda s: RangeSource(s, -1, 2), ["-1:2"]),
        (lambda s: TakeSource(s, np.array([0, 24, 30])), ["row 24", "0:24", "2 of 3"]),
        (lambda s: TakeSource(s, np.array([-1])), ["row -1"]),
        (lambda s: WithoutSource(s, np.array([3, 3])), ["ascending"]),
        (lambda s: WithoutSource(s, np.array([4, 3])), ["ascending"]),
        (lambda s: WithoutSource(s, np.array([24])), ["0:24"]),
        (lambda s: WithoutSource(s, np.array([-1])), ["0:24"]),
        (lambda s: PrefixSource(s, 0), ["dims=0", "dimension 5"]),
        (lambda s: PrefixSource(s, 6), ["dims=6", "dimension 5"]),
    ],
)
def test_refuses_a_selection_outside_the_source(make: object, words: list[str]) -> None:
    from haag_vq.errors import UsageError

    source = ArraySource(vectors(N, DIM))
    with pytest.raises(UsageError) as caught:
        make(source)  # type: ignore[operator]
    assert all(word in str(caught.value) for word in words)
