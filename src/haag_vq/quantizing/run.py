"""Quantize a set: train on a sample, encode by blocks, keep codes beside the codec."""

from __future__ import annotations

import math
import os
import sys
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from haag_vq.arrays import read_array
from haag_vq.data import VectorDataset
from haag_vq.errors import DataError, UsageError, whole_number
from haag_vq.export import check_room, export_vectors
from haag_vq.memory import Projection, n_cores, parse_bytes, process_allowance
from haag_vq.quantizing.directory import made_whole
from haag_vq.quantizing.encode import encode
from haag_vq.quantizing.needs import DEFAULT_CHUNK_BYTES, DEFAULT_TRAIN_ROWS, Quantizing
from haag_vq.quantizing.spec import CodecSpec
from haag_vq.quantizing.train import train
from haag_vq.sources.codec import Codec, save_codec
from haag_vq.sources.fileio import FileStamp
from haag_vq.sources.npy import open_npy
from haag_vq.sources.quantized import CODEC_NAME, CODES_NAME, QUERIES_NAME


@dataclass(frozen=True, slots=True)
class QuantizeReport:
    """What was trained, encoded and lost."""

    path: str
    codec: str
    n_rows: int
    dim: int
    code_bytes: int
    """Of one vector."""
    n_train: int
    relative_error: float
    """Σ|x − x̂|² ÷ Σ|x|² over all vectors x and what their codes stand for."""
    n_queries: int
    """Kept beside the codes."""
    train_seconds: float
    encode_seconds: float
    projection: Projection


def quantize(
    dataset: VectorDataset,
    codec: str,
    path: str | os.PathLike[str],
    *,
    n_train: int = DEFAULT_TRAIN_ROWS,
    seed: int = 0,
    chunk_size: int | str = DEFAULT_CHUNK_BYTES,
    n_threads: int | None = None,
    progress: bool = False,
) -> QuantizeReport:
    """Quantize a set that need not fit in memory.

    Parameters
    ----------
    dataset : VectorDataset
        Its queries, where it has any, and its metric are kept beside the codes.
    codec : str
        ``SQ8`` or ``SQ4`` (each dimension in even steps), or ``PQm`` (m sub-quantizers of a byte).
    path : path-like
        A directory that is made: ``codes.npy`` (n_rows, code_bytes) uint8 in the set's order,
        ``codec.npz``, ``queries.npy``. It is there whole or not at all.
    n_train : int
        Vectors to train on, drawn by `seed` from the whole set; all where there are no more, and
        for a product codec at most 65,536, which is all that k-means uses.
    chunk_size : int or str
        The most bytes of one block of float32; a thread encodes one at a time.
    n_threads : int, optional
        By default as many as this process has cores.

    Returns
    -------
    QuantizeReport
        ``open_dataset(path)`` reads the vectors that the codes stand for: `ground_truth` of these
        is the search of compressed vectors by uncompressed queries, which `recall` scores.

    Raises
    ------
    UsageError
        If the codec does not suit the dimension, something is at `path`, its parent is not, or
        there are too few vectors to train on.
    InsufficientMemoryError
        If it would not fit; nothing has been read then.
    DataError, WriteError
        If vectors are malformed or too large for the codec, or the directory cannot be written.

    Notes
    -----
    The same codec gives the same codes whatever chunks and threads. Memory: the larger of the
    sample (``4·n_train·dim`` bytes) and, for each thread, a block, its codes, the source's scratch
    and 5 MiB.
    """
    chunk_bytes = parse_bytes(chunk_size)
    threads = n_cores() if n_threads is None else whole_number("n_threads", n_threads)
    if threads < 1:
        raise UsageError(f"n_threads={threads}: at least one is needed.")
    spec = CodecSpec.parse(codec, dataset.dim)
    n_train = spec.train_rows(whole_number("n_train", n_train), dataset.n_rows)
    asked = Quantizing(dataset.source, dataset.query_source, spec, n_train, chunk_bytes, threads)
    target = _checked(asked, path, codec)
    projection = asked.check(process_allowance())
    check_room(target, asked.output_bytes, "Take a codec of shorter codes, or fewer rows.")
    if dataset.query_origin.startswith(("first:", "sample:")):
        warnings.warn(
            f"the queries are rows of the set ({dataset.query_origin}): each finds what its own "
            "row was made of, which --exclude-self cannot tell from others. Hold them out.",
            stacklevel=2,
        )
    with made_whole(target) as home:
        # What is bad in the queries is told before the set is read.
        if dataset.query_source is not None:
            export_vectors(dataset.query_source, home / QUERIES_NAME, chunk_bytes=chunk_bytes)
        started = time.perf_counter()
        if progress:
            print(f"training {codec} on {n_train:,} vectors …", file=sys.stderr, flush=True)
        trained = _trained(dataset, asked, seed)
        encoding = time.perf_counter()
        error = encode(dataset.source, trained, home / CODES_NAME, chunk_bytes, threads, progress)
        _check_error(error, codec)
        save_codec(home / CODEC_NAME, trained, _about(dataset, home, n_train, seed, error))
    return QuantizeReport(
        str(target),
        trained.name,
        dataset.n_rows,
        dataset.dim,
        spec.code_bytes,
        n_train,
        error,
        0 if dataset.query_source is None else dataset.query_source.n_rows,
        encoding - started,
        time.perf_counter() - encoding,
        projection,
    )


def _checked(asked: Quantizing, path: str | os.PathLike[str], codec: str) -> Path:
    """Check where it is to go, and the sample; returns the directory to make."""
    target = Path(os.path.abspath(os.path.expanduser(path)))
    if os.path.lexists(target):
        raise UsageError(f"{target} is there already: name another directory, or remove it.")
    if not target.parent.is_dir():
        raise UsageError(f"{target}: there is no directory {target.parent}; create it first.")
    spec, n_train = asked.spec, asked.n_train
    if n_train < spec.least_rows:
        raise UsageError(
            f"{n_train:,} vectors to train {codec} on: it takes {spec.least_rows:,} at least, one "
            "for each centroid. Train on more, or use SQ8."
        )
    if n_train < min(spec.few_rows, asked.source.n_rows):
        warnings.warn(
            f"{codec} is trained on {n_train:,} vectors: at least {spec.few_rows:,} are usual.",
            stacklevel=3,
        )
    return target


def _trained(dataset: VectorDataset, asked: Quantizing, seed: int) -> Codec:
    sample = dataset if asked.n_train == dataset.n_rows else dataset.sample(asked.n_train, seed)
    return train(asked.spec, read_array(sample.source, asked.n_threads), asked.n_threads)


def _check_error(error: float, codec: str) -> None:
    if not math.isfinite(error):
        raise DataError(
            f"what {codec} codes stand for is beyond float32: values of the set are too large, or "
            "far outside of those trained on. Scale the vectors."
        )


def _about(
    dataset: VectorDataset, home: Path, n_train: int, seed: int, error: float
) -> dict[str, Any]:
    """Say what was encoded, to be kept with the codec."""
    return {
        "dataset": dataset.name,
        "fingerprint": dataset.fingerprint,
        "metric": dataset.metric,
        "codes": open_npy(FileStamp.of(home / CODES_NAME)).fingerprint,
        "n_train": n_train,
        "seed": seed,
        "relative_error": error,
    }
