"""Many shards as one source, stacked in the order given."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

import numpy as np

from haag_vq.errors import DataError
from haag_vq.sources.protocol import (
    F32,
    I64,
    VectorSource,
    check_read,
    check_span,
    check_take,
)


class ConcatSource(VectorSource):
    """Rows of several sources, one after the other. Empty ones are fine.

    Raises
    ------
    DataError
        If two of them have different dimensions, or there is none.
    """

    def __init__(self, parts: Sequence[VectorSource]) -> None:
        if not parts:
            raise DataError("no shard holds any vectors")
        self._parts = tuple(parts)
        self._starts = np.concatenate(([0], np.cumsum([p.n_rows for p in parts], dtype=np.int64)))
        first = next((p for p in parts if p.n_rows), parts[0])
        for part in parts:
            if part.n_rows and part.dim != first.dim:
                raise DataError(
                    f"shards differ in dimension: {_where(first)} has {first.dim:,}, "
                    f"{_where(part)} has {part.dim:,}. Open one set at a time."
                )
        self.n_rows = int(self._starts[-1])
        self.dim = first.dim
        self.dtype = np.result_type(*{p.dtype for p in parts if p.n_rows} or {first.dtype})

    @property
    def edges(self) -> I64:
        parts = [
            part.edges[:-1] + start
            for part, start in zip(self._parts, self._starts[:-1], strict=True)
            if part.n_rows
        ]
        return np.concatenate([*parts, self._starts[-1:]])

    @property
    def fingerprint(self) -> str:
        digest = hashlib.sha256()
        for part in self._parts:
            digest.update(part.fingerprint.encode())
        return digest.hexdigest()[:32]

    @property
    def starts_anywhere(self) -> bool:
        return all(part.starts_anywhere for part in self._parts)

    @property
    def files(self) -> tuple[str, ...]:
        return tuple(path for part in self._parts for path in part.files)

    @property
    def stored_bytes(self) -> int:
        return sum(part.stored_bytes for part in self._parts)

    @property
    def scratch_bytes(self) -> int:
        return max(part.scratch_bytes for part in self._parts)

    def read_into(self, start: int, out: F32) -> None:
        check_read(self, start, out)
        for part, a, b in self._overlaps(start, start + len(out)):
            offset = int(self._starts[part])
            self._parts[part].read_into(a - offset, out[a - start : b - start])

    def take_into(self, rows: I64, out: F32) -> None:
        check_take(self, rows, out)
        cuts = np.searchsorted(rows, self._starts)
        for i in np.flatnonzero(np.diff(cuts)):
            a, b = int(cuts[i]), int(cuts[i + 1])
            self._parts[i].take_into(rows[a:b] - self._starts[i], out[a:b])

    def narrow(self, start: int, stop: int) -> VectorSource:
        check_span(self, start, stop)
        parts = [
            self._parts[i].narrow(a - int(self._starts[i]), b - int(self._starts[i]))
            for i, a, b in self._overlaps(start, stop)
        ]
        if not parts:
            first = next((p for p in self._parts if p.n_rows), self._parts[0])
            return first.narrow(0, 0)
        return parts[0] if len(parts) == 1 else ConcatSource(parts)

    def _overlaps(self, start: int, stop: int) -> Iterator[tuple[int, int, int]]:
        """Yield (part, first row, last row + 1), in rows of the whole, for ``start:stop``."""
        i = max(0, int(np.searchsorted(self._starts, start, side="right")) - 1)
        while start < stop:
            end = min(stop, int(self._starts[i + 1]))
            if end > start:
                yield i, start, end
                start = end
            i += 1


def _where(source: VectorSource) -> str:
    return source.files[0] if source.files else repr(source)
