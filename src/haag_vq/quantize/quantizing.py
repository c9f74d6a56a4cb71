"""Quantize a set: train on a sample, encode by blocks, keep codes beside the codec."""

from __future__ import annotations

import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from haag_vq.arrays import fill_pieces
from haag_vq.data import VectorDataset
from haag_vq.errors import UsageError, whole_number
from haag_vq.export import check_room, export_vectors
from haag_vq.memory import Projection, n_cores, parse_bytes, process_allowance
from haag_vq.quantize.directory import made_whole
from haag_vq.quantize.encode import encode
from haag_vq.quantize.needs import DEFAULT_CHUNK_BYTES, DEFAULT_TRAIN_ROWS, check_quantizing
from haag_vq.quantize.spec import CodecSpec
from haag_vq.quantize.train import train
from haag_vq.sources.codec import Codec, save_codec
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
        Vectors to train on, drawn by `seed` from the whole set; all where there are no more.
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
        If vectors are malformed, or the directory cannot be written.

    Notes
    -----
    The same codec gives the same codes whatever chunks and threads. Memory: the larger of the
    sample (``4·n_train·dim`` bytes) and, for each thread, a block, its codes and the source's
    scratch.
    """
    spec = CodecSpec.parse(codec, dataset.dim)
    n_train = min(whole_number("n_train", n_train), dataset.n_rows)
    if n_train < spec.least_rows:
        raise UsageError(
            f"{n_train:,} vectors to train {codec} on: it takes {spec.least_rows:,} at least, one "
            "for each centroid. Train on more, or use SQ8."
        )
    target, chunk_bytes = _target(path), parse_bytes(chunk_size)
    threads = n_threads or n_cores()
    projection = check_quantizing(
        dataset.source, spec, n_train, chunk_bytes, threads, process_allowance()
    )
    size = dataset.n_rows * spec.code_bytes + spec.codec_bytes
    check_room(target, size, "Take a codec of shorter codes, or fewer rows.")
    with made_whole(target) as home:
        started = time.perf_counter()
        if progress:
            print(f"training {codec} on {n_train:,} vectors …", file=sys.stderr, flush=True)
        trained = _trained(dataset, spec, n_train, seed, threads)
        encoding = time.perf_counter()
        error = encode(dataset.source, trained, home / CODES_NAME, chunk_bytes, threads, progress)
        if dataset.query_source is not None:
            export_vectors(dataset.query_source, home / QUERIES_NAME)
        about = {
            "dataset": dataset.name,
            "fingerprint": dataset.fingerprint,
            "metric": dataset.metric,
            "n_train": n_train,
            "seed": seed,
            "relative_error": error,
        }
        save_codec(home / CODEC_NAME, trained, about)
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


def _target(path: str | os.PathLike[str]) -> Path:
    target = Path(path).absolute()
    if os.path.lexists(target):
        raise UsageError(f"{target} is there already: name another directory, or remove it.")
    if not target.parent.is_dir():
        raise UsageError(f"{target}: there is no directory {target.parent}; create it first.")
    return target


def _trained(
    dataset: VectorDataset, spec: CodecSpec, n_train: int, seed: int, n_threads: int
) -> Codec:
    sample = dataset if n_train == dataset.n_rows else dataset.sample(n_train, seed)
    x = np.empty((n_train, dataset.dim), np.float32)
    step = max(1, -(-n_train // (4 * n_threads)))
    pieces = [(at, min(at + step, n_train)) for at in range(0, n_train, step)]
    fill_pieces(sample.source, pieces, x, n_threads)
    return train(spec, x, n_threads)
