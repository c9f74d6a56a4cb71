"""A codec's file: what comes back, and what is refused."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from haag_vq.errors import DataError, FileChangedError, SourceNotFoundError
from haag_vq.sources import open_source
from haag_vq.sources.codec import Codec, ProductCodec, ScalarCodec, StoredCodec, save_codec
from haag_vq.sources.fileio import FileStamp
from haag_vq.sources.npy import open_npy
from haag_vq.sources.quantized import CODEC_NAME, CODES_NAME
from tests.support.codecs import product_codec, scalar_codec
from tests.support.files import read_rows, vectors

CODECS: list[Codec] = [product_codec(4, 3), scalar_codec(12, 8), scalar_codec(12, 4)]


@pytest.mark.parametrize("codec", CODECS, ids=lambda codec: codec.name)
def test_a_codec_comes_back_as_it_was(codec: Codec, tmp_path: Path) -> None:
    save_codec(tmp_path / "c.npz", codec, {"metric": "ip"})
    stored = StoredCodec.of(tmp_path / "c.npz")
    assert stored.about == {"codec": codec.name, "metric": "ip"}
    assert (stored.dim, stored.code_bytes, stored.nbytes) == (12, codec.code_bytes, codec.nbytes)
    assert stored.fingerprint == stored.codec.fingerprint == codec.fingerprint
    codes = vectors(50, codec.code_bytes, "uint8")
    ours, theirs = np.empty((2, 50, 12), np.float32)
    codec.decode(codes, ours)
    stored.codec.decode(codes, theirs)
    assert_array_equal(ours, theirs)


def test_products_are_looked_up() -> None:
    codec = CODECS[0]
    assert isinstance(codec, ProductCodec)
    codes, out = vectors(50, 4, "uint8"), np.empty((50, 12), np.float32)
    codec.decode(codes, out)
    for row, code in zip(out, codes, strict=True):
        assert_array_equal(row, np.concatenate([codec.centroids[j, code[j]] for j in range(4)]))


def test_scalars_are_a_product_and_a_sum_of_float32() -> None:
    for codec, codes in (
        (CODECS[1], vectors(50, 12, "uint8")),
        (CODECS[2], vectors(50, 6, "uint8")),
    ):
        assert isinstance(codec, ScalarCodec)
        out = np.empty((50, 12), np.float32)
        codec.decode(codes, out)
        halves = np.stack((codes & 15, codes >> 4), axis=2).reshape(50, -1)
        whole = codes if codec.bits == 8 else halves
        assert_array_equal(out, whole.astype(np.float32) * codec.step + codec.lowest)


def test_a_codec_s_identity_is_its_content() -> None:
    other = ProductCodec(CODECS[0].arrays["centroids"] + np.float32(1))
    prints = {codec.fingerprint for codec in (*CODECS, other)}
    assert len(prints) == 4


GOOD = {"about": np.array(json.dumps({"codec": "PQ2"})), "centroids": np.zeros((2, 256, 3), "f4")}
BAD: dict[str, dict[str, Any]] = {
    "no words": {"about": None},
    "words of no codec": {"about": np.array("{}")},
    "words that are no JSON": {"about": np.array("PQ2")},
    "another name": {"about": np.array(json.dumps({"codec": "PQ3"}))},
    "no arrays": {"centroids": None},
    "float64": {"centroids": np.zeros((2, 256, 3))},
    "fewer centroids": {"centroids": np.zeros((2, 16, 3), "f4")},
    "two dimensions": {"centroids": np.zeros((2, 256), "f4")},
    "no dimensions": {"centroids": np.zeros((2, 256, 0), "f4")},
    "objects": {"centroids": np.array([[None]])},
    "centroids that are no numbers": {"centroids": np.full((2, 256, 3), np.nan, "f4")},
    "steps down": {"centroids": None, "lowest": np.zeros(3, "f4"), "step": -np.ones(3, "f4")},
    "unlike ranges": {"centroids": None, "lowest": np.zeros(3, "f4"), "step": np.zeros(4, "f4")},
}


@pytest.mark.parametrize("what", list(BAD))
def test_what_is_no_codec_is_refused(what: str, tmp_path: Path) -> None:
    arrays = {name: array for name, array in (GOOD | BAD[what]).items() if array is not None}
    np.savez(tmp_path / "c.npz", **arrays)
    with pytest.raises(DataError, match=r"c\.npz is not a readable codec: .* Quantize the vectors"):
        StoredCodec.of(tmp_path / "c.npz")


@pytest.mark.parametrize("left", [0, 10, 300, -1])
def test_a_truncated_codec_is_refused(left: int, tmp_path: Path) -> None:
    path = tmp_path / "c.npz"
    save_codec(path, CODECS[0], {})
    path.write_bytes(path.read_bytes()[:left])
    with pytest.raises(DataError, match="not a readable codec"):
        StoredCodec.of(path)
    np.save(tmp_path / "lone.npy", np.zeros((2, 256, 3), np.float32))
    with pytest.raises(DataError, match="no whole zip file"):
        StoredCodec.of(tmp_path / "lone.npy")
    with pytest.raises(SourceNotFoundError):
        StoredCodec.of(tmp_path / "absent.npz")


def quantized(home: Path, codec: Codec = CODECS[0], n: int = 20) -> Path:
    np.save(home / CODES_NAME, vectors(n, codec.code_bytes, "uint8"))
    save_codec(home / CODEC_NAME, codec, {})
    return home


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_codes_of_another_codec_are_refused(dtype: str, tmp_path: Path) -> None:
    quantized(tmp_path)
    np.save(tmp_path / CODES_NAME, vectors(20, 4 if dtype == "float32" else 5, dtype))
    with pytest.raises(DataError, match=rf"20 × \d {dtype}\) holds no codes .* PQ4 of 4"):
        open_source(tmp_path)


def test_a_codec_that_was_exchanged_is_not_decoded_with(tmp_path: Path) -> None:
    source = open_source(quantized(tmp_path))
    before = read_rows(source)
    save_codec(tmp_path / CODEC_NAME, CODECS[0], {"longer": "than before"})
    assert_array_equal(read_rows(source), before)  # this process has it
    os.utime(tmp_path / CODES_NAME, ns=(1, 1))
    with pytest.raises(FileChangedError):
        read_rows(source)


def test_parts_that_were_not_kept_together_are_refused(tmp_path: Path) -> None:
    quantized(tmp_path)
    codes = open_npy(FileStamp.of(tmp_path / CODES_NAME))
    save_codec(tmp_path / CODEC_NAME, CODECS[0], {"codes": codes.fingerprint})
    assert open_source(tmp_path).n_rows == 20
    kept = (tmp_path / CODES_NAME).read_bytes()
    for rows in (vectors(5, 4, "uint8"), vectors(20, 4, "uint8", seed=1)):
        np.save(tmp_path / CODES_NAME, rows)
        with pytest.raises(DataError, match="or not those that it was kept with"):
            open_source(tmp_path)
    (tmp_path / CODES_NAME).write_bytes(kept)
    assert open_source(tmp_path).n_rows == 20
    (tmp_path / CODES_NAME).unlink()
    with pytest.raises(SourceNotFoundError, match=r"codes\.npy"):
        open_source(tmp_path)


def test_codes_without_a_codec_are_vectors_of_bytes(tmp_path: Path) -> None:
    (quantized(tmp_path) / CODEC_NAME).unlink()
    assert open_source(tmp_path).dtype == np.uint8
