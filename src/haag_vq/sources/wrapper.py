"""The common part of sources that read another source."""

from __future__ import annotations

from haag_vq.sources.protocol import I64, VectorSource


class WrapperSource(VectorSource):
    """What all sources share that read another: its files, element type, edges and scratch."""

    def __init__(self, source: VectorSource, n_rows: int) -> None:
        self._source = source
        self.n_rows = n_rows
        self.dim = source.dim
        self.dtype = source.dtype

    @property
    def edges(self) -> I64:
        return self._source.edges

    @property
    def starts_anywhere(self) -> bool:
        return self._source.starts_anywhere

    @property
    def stored_as(self) -> str:
        return self._source.stored_as

    @property
    def files(self) -> tuple[str, ...]:
        return self._source.files

    @property
    def scratch_bytes(self) -> int:
        return self._source.scratch_bytes

    @property
    def stored_bytes(self) -> int:
        share = self.n_rows / max(1, self._source.n_rows)
        return int(self._source.stored_bytes * share)
