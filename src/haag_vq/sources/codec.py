"""Codecs: how a vector is kept in fewer bytes, and what it is taken for again.

Two kinds, named as FAISS's index factory names them. Decoding is elementwise float32 or a copy out
of a table, so that decoded vectors have the same bits on every machine; a codec is arrays and
words, kept in an .npz without pickles.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import zipfile
import zlib
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from haag_vq.errors import DataError, HaagVQError
from haag_vq.parsing import undisturbed
from haag_vq.sources.fileio import FileStamp
from haag_vq.sources.protocol import F32, AnyArray

U8 = NDArray[np.uint8]

# Centroids of a sub-quantizer: a code of one byte.
N_CENTROIDS = 256


class Codec(ABC):
    """What a codec offers to those that decode."""

    dim: int
    code_bytes: int
    """Of one vector."""

    @property
    @abstractmethod
    def name(self) -> str:
        """As FAISS's index factory would have it: ``SQ8``, ``PQ96``."""

    @property
    @abstractmethod
    def arrays(self) -> dict[str, AnyArray]:
        """What was trained."""

    @abstractmethod
    def decode(self, codes: U8, out: F32) -> None:
        """Fill `out` (n, dim) float32 with what codes (n, code_bytes) stand for."""

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays."""
        return sum(array.nbytes for array in self.arrays.values())

    @functools.cached_property
    def fingerprint(self) -> str:
        """Identity of what codes are decoded to."""
        digest = hashlib.sha256(self.name.encode())
        for array in self.arrays.values():
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()[:32]


class ScalarCodec(Codec):
    """Each dimension by itself, in even steps between the least and the largest value trained on.

    Parameters
    ----------
    lowest, step : (dim,) float32
        What code 0 stands for, and how much one more is.
    bits : {4, 8}
        Of one dimension; with 4, a byte holds two, the first in its lower half.
    """

    def __init__(self, lowest: F32, step: F32, bits: int) -> None:
        self.lowest, self.step, self.bits = lowest, step, bits
        self.dim = len(lowest)
        self.code_bytes = -(-self.dim * bits // 8)

    @property
    def name(self) -> str:
        return f"SQ{self.bits}"

    @property
    def arrays(self) -> dict[str, AnyArray]:
        return {"lowest": self.lowest, "step": self.step}

    def decode(self, codes: U8, out: F32) -> None:
        if self.bits == 8:
            np.copyto(out, codes)
        else:
            out[:, 0::2] = codes & 15
            out[:, 1::2] = codes[:, : self.dim // 2] >> 4
        np.multiply(out, self.step, out=out)
        np.add(out, self.lowest, out=out)


class ProductCodec(Codec):
    """Runs of dimensions together, each by the nearest of its 256 centroids (Jégou et al., 2011).

    Parameters
    ----------
    centroids : (m, 256, dim / m) float32
    """

    def __init__(self, centroids: F32) -> None:
        self.centroids = centroids
        m, _, self.sub_dim = centroids.shape
        self.dim, self.code_bytes = m * self.sub_dim, m

    @property
    def name(self) -> str:
        return f"PQ{self.code_bytes}"

    @property
    def arrays(self) -> dict[str, AnyArray]:
        return {"centroids": self.centroids}

    def decode(self, codes: U8, out: F32) -> None:
        parts = out.reshape(len(out), self.code_bytes, self.sub_dim)
        for j in range(self.code_bytes):
            parts[:, j] = self.centroids[j, codes[:, j]]


@dataclass(frozen=True, slots=True)
class StoredCodec:
    """A codec's file: what travels to those that decode, who read the codec once a process."""

    stamp: FileStamp
    dim: int
    code_bytes: int
    nbytes: int
    """Of the codec in memory."""
    fingerprint: str

    @property
    def codec(self) -> Codec:
        """The codec."""
        return _loaded(self.stamp)[0]

    @property
    def about(self) -> dict[str, Any]:
        """What was kept of the vectors that were encoded, and the codec's name (``codec``)."""
        return _loaded(self.stamp)[1]

    @classmethod
    def of(cls, path: str | os.PathLike[str]) -> StoredCodec:
        """Stamp and read a codec's file.

        Raises
        ------
        SourceNotFoundError, DataError
            If there is none, it is damaged, or its arrays do not belong together.
        """
        stamp = FileStamp.of(path)
        codec, _ = _loaded(stamp)
        return cls(stamp, codec.dim, codec.code_bytes, codec.nbytes, codec.fingerprint)


def save_codec(path: Any, codec: Codec, attributes: dict[str, Any]) -> None:
    """Write a codec, and what is to be known of what it encoded, as .npz."""
    arrays: dict[str, Any] = dict(codec.arrays)
    arrays["about"] = np.array(json.dumps({"codec": codec.name, **attributes}))
    with open(path, "wb") as file:  # by name, NumPy would append a suffix
        np.savez(file, **arrays)


# A set's blocks are decoded by the same codec; two or three sets are compared at most.
@functools.lru_cache(maxsize=4)
def _loaded(stamp: FileStamp) -> tuple[Codec, dict[str, Any]]:
    def read() -> tuple[Any, dict[str, AnyArray]]:
        # NumPy takes a lone array by this name too, and leaves a broken file open.
        with open(stamp.path, "rb") as handle:
            if not zipfile.is_zipfile(handle):
                raise ValueError("it is no whole zip file")
            handle.seek(0)
            with np.load(handle, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
        return json.loads(str(arrays.pop("about"))), arrays

    try:
        with stamp.opened():
            about, arrays = undisturbed(read)
        return _made(about["codec"], arrays), about
    except HaagVQError:
        raise
    except _MALFORMED as e:
        raise DataError(
            f"{stamp.path} is not a readable codec: {e}. Quantize the vectors again."
        ) from e


# What NumPy, zipfile and we raise at malformed files.
_MALFORMED = (
    OSError,
    KeyError,
    ValueError,
    TypeError,
    EOFError,
    NotImplementedError,
    RuntimeError,
    zipfile.BadZipFile,
    zlib.error,
)


def _made(name: str, arrays: dict[str, AnyArray]) -> Codec:
    if any(array.dtype != np.float32 for array in arrays.values()):
        raise ValueError("its arrays are not float32")
    if not all(np.isfinite(array).all() for array in arrays.values()):
        raise ValueError("its arrays hold NaN or infinity")
    codec: Codec
    if "centroids" in arrays:
        centroids = arrays["centroids"]
        if centroids.ndim != 3 or centroids.shape[1] != N_CENTROIDS or not centroids.size:
            raise ValueError(f"centroids of shape {centroids.shape}")
        codec = ProductCodec(centroids)
    else:
        lowest, step = arrays["lowest"], arrays["step"]
        if lowest.ndim != 1 or lowest.shape != step.shape or not lowest.size:
            raise ValueError(f"ranges of shapes {lowest.shape} and {step.shape}")
        if step.min() < 0:
            raise ValueError("steps that are negative")
        codec = ScalarCodec(lowest, step, 4 if name == "SQ4" else 8)
    if codec.name != name:
        raise ValueError(f"{name!r} is said, {codec.name} is there")
    return codec
