"""A lazy set of vectors with its queries: what every loader returns."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import dask.array as da
import numpy as np
from numpy.typing import NDArray

from haag_vq.arrays import DEFAULT_CHUNK_BYTES, read_array, to_dask_array
from haag_vq.data.queries import as_rows, limited
from haag_vq.data.sampling import sample_rows
from haag_vq.errors import UsageError
from haag_vq.groundtruth import ground_truth
from haag_vq.hub import Pin
from haag_vq.memory import format_bytes
from haag_vq.sources import (
    Metric,
    PrefixSource,
    RangeSource,
    TakeSource,
    VectorSource,
    check_metric,
)

F32 = NDArray[np.float32]
I64 = NDArray[np.int64]


class VectorDataset:
    """Vectors that are read when they are asked for.

    Parameters
    ----------
    source : VectorSource
        The base.
    name : str
    queries : VectorSource, optional
    metric : {"l2", "ip", "cosine"}, optional
        The publisher's, where there is one.
    chunk_bytes : int
        The most that one block of `vectors` takes.
    queries_are_rows : bool
        The queries are rows of the files that `source` reads, not of files of their own.
    query_origin : str
        Where the queries come from, in words; their files where it is not said.
    pin : Pin, optional
        Commit of the Hub that the base is, and what it was asked for by.

    Notes
    -----
    Making one, slicing it and sampling it reads nothing but headers. Row numbers and neighbour
    ids are positions in `vectors`; `stored_rows` says where they lie in the files.
    """

    def __init__(
        self,
        source: VectorSource,
        name: str,
        queries: VectorSource | None = None,
        metric: Metric | None = None,
        chunk_bytes: int = DEFAULT_CHUNK_BYTES,
        queries_are_rows: bool = False,
        query_origin: str = "",
        pin: Pin | None = None,
    ) -> None:
        if queries is not None and queries.dim != source.dim:
            raise UsageError(
                f"the queries of {name} have dimension {queries.dim:,}, its vectors have "
                f"{source.dim:,}: they must be embedded by one model."
            )
        self.source = source
        self.name = name
        self.metric = None if metric is None else check_metric(metric)
        self.query_source = queries
        self.pin = pin
        self._chunk_bytes = chunk_bytes
        self._queries_are_rows = queries_are_rows
        files = queries.files[:3] if queries is not None and not queries_are_rows else ()
        self.query_origin = query_origin or ", ".join(files)

    @property
    def n_rows(self) -> int:
        """Number of vectors."""
        return self.source.n_rows

    @property
    def dim(self) -> int:
        """Dimension of the vectors."""
        return self.source.dim

    @property
    def shape(self) -> tuple[int, int]:
        """(n_rows, dim)."""
        return (self.source.n_rows, self.source.dim)

    @property
    def nbytes(self) -> int:
        """Bytes of all vectors as float32."""
        return self.n_rows * self.dim * 4

    @property
    def fingerprint(self) -> str:
        """Identity of the base's content."""
        return self.source.fingerprint

    @property
    def commit(self) -> str:
        """organisation/name@commit of a base of the Hub; '' for other files."""
        return "" if self.pin is None else str(self.pin)

    @cached_property
    def vectors(self) -> da.Array:
        """Lazy (n_rows, dim) float32 Dask array; blocks end at shard and row-group edges.

        ``vectors[a:b]`` reads rows a to b, not the blocks around them. A block's task allocates
        its buffer once, and the source's scratch.
        """
        return to_dask_array(self.source, self._chunk_bytes)

    @cached_property
    def queries(self) -> F32 | None:
        """(n_queries, dim) float32, read at the first access; None where there are none."""
        return None if self.query_source is None else read_array(self.query_source)

    @cached_property
    def query_rows(self) -> I64 | None:
        """(n_queries,) int64: where the queries lie in the files, if they are rows of them."""
        if self.query_source is None or not self._queries_are_rows:
            return None
        return self.query_source.stored_rows(np.arange(self.query_source.n_rows))

    @cached_property
    def ground_truth(self) -> I64:
        """(n_queries, 100) int64: ids of the nearest rows (squared l2), found at first access.

        Fewer columns where the base has fewer rows. For another k or metric, distances, and a
        cluster's progress, call `haag_vq.ground_truth`.
        """
        return ground_truth(self, k=min(100, self.n_rows)).ids

    def compute(self, n_threads: int | None = None) -> F32:
        """Read all vectors into one (n_rows, dim) float32 array with this process's threads.

        Memory: the array, allocated once, and the readers' scratch: for each thread 1 MiB for row
        files, about 36 MiB and the footers for Parquet.

        Raises
        ------
        InsufficientMemoryError
            If that is more than this process may use; nothing has been read then.
        """
        return read_array(self.source, n_threads)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        if copy is False:
            raise ValueError("vectors are read from storage: an array without a copy cannot be had")
        array = self.compute()
        return array if dtype is None else array.astype(dtype, copy=False)

    def __len__(self) -> int:
        return self.n_rows

    def __getitem__(self, index: slice) -> VectorDataset:
        """Take a slice of rows as a dataset; nothing is read. Steps are fine."""
        if not isinstance(index, slice):
            raise UsageError(
                f"a dataset is sliced, as in dataset[10:20]; for {index!r} use dataset.take() or "
                "index dataset.vectors."
            )
        start, stop, step = index.indices(self.n_rows)
        if step == 1:
            return self._of(RangeSource(self.source, start, max(start, stop)))
        return self._of(TakeSource(self.source, np.arange(start, stop, step)))

    def take(self, rows: Any) -> VectorDataset:
        """Choose rows, in the asked order and with repeats; negative ones count from the end."""
        return self._of(TakeSource(self.source, as_rows(rows, self.n_rows)))

    def sample(self, n: int, seed: int = 0, run_rows: int = 1) -> VectorDataset:
        """Draw `n` rows spread over the whole set, in ascending order.

        The rows depend on (n_rows, n, seed, run_rows) alone, and a larger sample of the same
        seed contains a smaller one.

        Parameters
        ----------
        run_rows : int
            Draw runs of so many consecutive rows: reading from Parquet, where one row costs
            its whole row group, gets that much cheaper.
        """
        return self._of(TakeSource(self.source, sample_rows(self.n_rows, n, seed, run_rows)))

    def limit(self, n: int | None) -> VectorDataset:
        """Keep the first `n` rows; None keeps all."""
        return self._of(limited(self.source, n))

    def dims(self, m: int, renormalize: bool = False) -> VectorDataset:
        """Keep the first `m` dimensions of vectors and queries (Matryoshka embeddings).

        Parameters
        ----------
        renormalize : bool
            Scale the shortened vectors to unit length.
        """
        queries = self.query_source
        return VectorDataset(
            PrefixSource(self.source, m, renormalize),
            self.name,
            None if queries is None else PrefixSource(queries, m, renormalize),
            self.metric,
            self._chunk_bytes,
            self._queries_are_rows,
            self.query_origin,
            self.pin,
        )

    def stored_rows(self, ids: Any) -> I64:
        """Map row numbers or neighbour ids, of any shape, to rows of the files stacked in order."""
        rows = np.asarray(ids)
        if rows.size and rows.dtype.kind not in "iu":
            raise UsageError(f"row numbers must be integers, not {rows.dtype}.")
        rows = rows.astype(np.int64)
        outside = rows[(rows < 0) | (rows >= self.n_rows)]
        if outside.size:
            raise UsageError(f"row {int(outside[0]):,} is none of this dataset's {self.n_rows:,}.")
        return self.source.stored_rows(rows.ravel()).reshape(rows.shape)

    def _of(self, source: VectorSource) -> VectorDataset:
        return VectorDataset(
            source,
            self.name,
            self.query_source,
            self.metric,
            self._chunk_bytes,
            self._queries_are_rows,
            self.query_origin,
            self.pin,
        )

    def __repr__(self) -> str:
        queries = "" if self.query_source is None else f", {self.query_source.n_rows:,} queries"
        metric = f", {self.metric}" if self.metric else ""
        return (
            f"VectorDataset({self.name}: {self.n_rows:,} × {self.dim} as float32, "
            f"{format_bytes(self.nbytes)}{queries}{metric})"
        )
