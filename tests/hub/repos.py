"""Small repositories in the shapes of the four public sets, and the arrays that they hold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

DBPEDIA_100K = "Qdrant/dbpedia-entities-openai3-text-embedding-3-large-1536-100K"
DBPEDIA_1536 = "Qdrant/dbpedia-entities-openai3-text-embedding-3-large-1536-1M"
DBPEDIA_3072 = "Qdrant/dbpedia-entities-openai3-text-embedding-3-large-3072-1M"
MSMARCO = "Cohere/msmarco-v2.1-embed-english-v3"

# The sets have 1536, 3072 and 1024 dimensions; nothing that is tested depends on it.
DIM = 24
# Rows a group, the shards in turn: every row its own, odd, what `datasets` writes, all at once.
GROUP_ROWS = (1, 7, 1_000, 1_000_000)

# The publisher's lists have 1,000.
PUBLISHED_K = 20

Rows = NDArray[np.float32]

_CARD = """---
configs:
- config_name: passages
  data_files:
  - split: train
    path: passages_parquet/*.parquet
- config_name: queries
  data_files:
  - split: test
    path: queries_parquet/*.parquet
---
"""


def write_dbpedia(root: Path, repo: str, n_shards: int = 3, shard_rows: int = 45) -> Rows:
    """Write a set of float64 lists, its last shard short; return its (n, DIM) vectors."""
    large = "3072" if "3072" in repo else "1536"
    n = n_shards * shard_rows - shard_rows // 3
    vectors = _vectors(n, seed=int(large))
    for i in range(n_shards):
        rows = slice(i * shard_rows, min(n, (i + 1) * shard_rows))
        part = vectors[rows]
        columns: dict[str, Any] = {
            "_id": [f"<entity:{row}>" for row in range(rows.start, rows.stop)],
            "text": ["an entity " * 5] * len(part),
            f"text-embedding-3-large-{large}-embedding": pa.array(
                part.astype(np.float64).tolist(), pa.list_(pa.float64())
            ),
        }
        if large == "3072":
            ada = pa.array((part * 2).tolist(), pa.list_(pa.float32()))
            columns["text-embedding-ada-002-1536-embedding"] = ada
        name = f"data/train-{i:05}-of-{n_shards:05}.parquet"
        _write_parquet(root / repo / name, columns, GROUP_ROWS[i % len(GROUP_ROWS)])
    return vectors


def write_msmarco(root: Path, n_shards: int = 4, shard_rows: int = 53) -> tuple[Rows, Rows]:
    """Write passages as float16 npy and float32 Parquet, and queries; return both, float32."""
    n = n_shards * shard_rows - 11
    stored = _vectors(n, seed=1).astype(np.float16)
    folder = root / MSMARCO
    folder.mkdir(parents=True)
    (folder / "README.md").write_text(_CARD)
    (folder / "passages_npy").mkdir()
    for i in range(n_shards):
        part = stored[i * shard_rows : (i + 1) * shard_rows]
        stem = f"msmarco_v2.1_doc_segmented_{i:02}"
        np.save(folder / "passages_npy" / f"{stem}.npy", part)
        emb = pa.array(part.astype(np.float32).tolist(), pa.list_(pa.float32()))
        columns = {"_id": [f"{i}_{row}" for row in range(len(part))], "emb": emb}
        path = folder / "passages_parquet" / f"{stem}.parquet"
        _write_parquet(path, columns, GROUP_ROWS[i % len(GROUP_ROWS)])
    queries = _vectors(17, seed=2)
    emb = pa.array(queries.tolist(), pa.list_(pa.float32()))
    unit = stored.astype(np.float64)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    xq = queries.astype(np.float64)
    cosines = (xq / np.linalg.norm(xq, axis=1, keepdims=True)) @ unit.T
    nearest = np.argsort(-cosines, axis=1, kind="stable")[:, :PUBLISHED_K]
    found = np.take_along_axis(cosines, nearest, 1).astype(np.float32)
    columns = {
        "_id": list(map(str, range(17))),
        "emb": emb,
        "top1k_offsets": pa.array(nearest.tolist(), pa.list_(pa.int64())),
        "top1k_cossim": pa.array(found.tolist(), pa.list_(pa.float32())),
    }
    _write_parquet(folder / "queries_parquet" / "queries.parquet", columns, 1_000)
    return stored.astype(np.float32), queries


def write_sparse_msmarco(root: Path, shard_rows: list[int], dim: int = 1024) -> None:
    """Write npy shards of the real sizes, all holes but for the headers."""
    folder = root / MSMARCO / "passages_npy"
    folder.mkdir(parents=True)
    for i, n in enumerate(shard_rows):
        with (folder / f"msmarco_v2.1_doc_segmented_{i:02}.npy").open("wb") as file:
            header = {"descr": "<f2", "fortran_order": False, "shape": (n, dim)}
            np.lib.format.write_array_header_1_0(file, header)
            file.truncate(file.tell() + n * dim * 2)


def _vectors(n: int, seed: int) -> Rows:
    return np.random.default_rng(seed).standard_normal((n, DIM)).astype(np.float32)


def _write_parquet(path: Path, columns: dict[str, Any], group_rows: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path, row_group_size=group_rows)
