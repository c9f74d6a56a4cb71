"""Files of finished rows: one part each, whole, checked by a digest, named by its rows.

A file is a line of JSON (the header, which has the arrays' lengths), then arrays: entries a query
(uint32), keys, ids, hashes of the real entries one after the other, and the frontiers; last the
digest of all before it.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from haag_vq.atomic import written_whole
from haag_vq.errors import ReadError
from haag_vq.groundtruth.part import Part, Tally

Span = tuple[int, int]

_NAME = re.compile(r"rows-(\d{15})-(\d{15})\.part")
_DIGEST_BYTES = 32

# The header is filled up to whole lines of the processor's cache, so that arrays lie aligned.
_ALIGNED_BYTES = 64


def interval_path(directory: str | os.PathLike[str], span: Span) -> Path:
    """Path of the file for rows ``span[0]:span[1]``."""
    return Path(directory) / f"rows-{span[0]:015d}-{span[1]:015d}.part"


def list_intervals(directory: str | os.PathLike[str]) -> list[Span]:
    """List the rows of the files that are there, ascending."""
    names = (_NAME.fullmatch(name) for name in os.listdir(directory))
    return sorted((int(m[1]), int(m[2])) for m in names if m)


def write_interval(
    directory: str | os.PathLike[str], span: Span, part: Part, base_fingerprint: str
) -> None:
    """Write the part of rows ``span``, whole or not at all.

    Raises
    ------
    WriteError
        If it cannot be written.

    Notes
    -----
    Memory: the real entries of the part once more.
    """
    real = part.ids >= 0
    arrays = [
        real.sum(axis=1).astype("<u4"),
        part.keys[real].astype("<f8"),
        part.ids[real].astype("<i8"),
        part.hashes[real].astype("<u8"),
        part.frontier.astype("<f8"),
        part.frontier_ids.astype("<i8"),
    ]
    head = {
        "format": 1,
        "start": span[0],
        "stop": span[1],
        "n_queries": len(part.keys),
        "n_entries": int(real.sum()),
        "n_rows": part.n_rows,
        "base_fingerprint": base_fingerprint,
        "tally": asdict(part.tally),
    }
    line = json.dumps(head).encode()
    header = line + b" " * (-(len(line) + 1) % _ALIGNED_BYTES) + b"\n"
    digest = hashlib.blake2b(header, digest_size=_DIGEST_BYTES)
    for array in arrays:
        digest.update(array.data)
    with written_whole(interval_path(directory, span)) as path, open(path, "wb") as file:
        file.write(header)
        for array in arrays:
            file.write(array.data)
        file.write(digest.digest())


def read_interval(directory: str | os.PathLike[str], span: Span) -> tuple[Part, str] | None:
    """Read a part and the fingerprint of its rows; None if the file is gone or damaged.

    Nothing that a file says is believed before its digest is found right.

    Raises
    ------
    ReadError
        If the file is there and the system does not let it be read.

    Notes
    -----
    Memory: the part, and the file's bytes once.
    """
    path = interval_path(directory, span)
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ReadError(f"cannot read {path}: {error.strerror}.") from error
    body = memoryview(data)[:-_DIGEST_BYTES]
    if hashlib.blake2b(body, digest_size=_DIGEST_BYTES).digest() != data[-_DIGEST_BYTES:]:
        return None
    # The digest is right: what follows is as it was written.
    start = data.index(b"\n") + 1
    head = json.loads(data[:start])
    if head["format"] != 1 or (head["start"], head["stop"]) != span:
        return None
    return _part(head, body[start:]), str(head["base_fingerprint"])


def _part(head: dict[str, Any], body: memoryview) -> Part:
    nq, n = int(head["n_queries"]), int(head["n_entries"])
    at = 0

    def take(dtype: str, count: int) -> NDArray[Any]:
        nonlocal at
        array = np.frombuffer(body, dtype, count, at)
        at += array.nbytes
        return array

    counts = take("<u4", nq).astype(np.int64)
    real = np.arange(int(counts.max(initial=0))) < counts[:, None]
    keys, ids = np.full(real.shape, np.inf), np.full(real.shape, -1, np.int64)
    hashes = np.zeros(real.shape, np.uint64)
    keys[real], ids[real], hashes[real] = take("<f8", n), take("<i8", n), take("<u8", n)
    frontier, frontier_ids = take("<f8", nq).copy(), take("<i8", nq).copy()
    tally = Tally(**head["tally"])
    return Part(keys, ids, hashes, frontier, frontier_ids, int(head["n_rows"]), tally)
