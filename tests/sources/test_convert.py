"""Conversion to float32 against NumPy's own, on every value where there are few enough."""

from __future__ import annotations

import ctypes
import platform
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from numpy.typing import NDArray

from haag_vq.errors import DataError
from haag_vq.groundtruth import halves
from haag_vq.sources import ArraySource, convert
from haag_vq.sources.convert import to_float32
from tests.support.files import UNWRITTEN, read_rows

ALL_HALVES = np.arange(1 << 16, dtype=np.uint16).view(np.float16).reshape(256, 256)
# A block that has an infinity or NaN is converted another way.
FINITE_HALVES = np.where(np.isfinite(ALL_HALVES), ALL_HALVES, np.float16(1))

LAYOUTS: dict[str, Callable[[NDArray[Any]], NDArray[Any]]] = {
    "rows": lambda a: a,
    "first columns": lambda a: np.concatenate([a, a], axis=1)[:, : a.shape[1]],
    "columns": np.asfortranarray,
    "strided": lambda a: np.repeat(a, 2, axis=1)[:, ::2],
    "read-only": lambda a: np.frombuffer(a.tobytes(), a.dtype).reshape(a.shape),
    "byte-swapped": lambda a: a.astype(a.dtype.newbyteorder()),
}


@pytest.fixture(autouse=True, params=["numpy", "compiled"])
def way(request: pytest.FixtureRequest) -> Iterator[str]:
    """Convert as a process does that only reads, and as one that searches."""
    if request.param == "compiled":
        halves.use()
    yield request.param
    convert.use_for_halves(None)


def converted(values: NDArray[Any]) -> NDArray[np.float32]:
    out = np.full(values.shape, UNWRITTEN, np.float32)
    to_float32(values, out)
    return out


def wanted(values: NDArray[Any]) -> NDArray[np.float32]:
    with np.errstate(over="ignore", invalid="ignore"):
        return np.ascontiguousarray(values.astype(np.float32))


@pytest.mark.parametrize("layout", list(LAYOUTS))
def test_every_float16_there_is(layout: str) -> None:
    values = LAYOUTS[layout](ALL_HALVES)
    got, want = converted(values), wanted(values)
    # By bits: zeros keep their sign, and subnormal numbers are not taken for zero.
    number = ~np.isnan(want)
    assert_array_equal(got.view(np.int32)[number], want.view(np.int32)[number])
    assert np.all(np.isnan(got[~number]))


def test_every_finite_float16_there_is() -> None:
    assert converted(FINITE_HALVES).tobytes() == wanted(FINITE_HALVES).tobytes()


@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan, -np.nan])
def test_one_float16_that_is_no_number_among_many(bad: float) -> None:
    values = ALL_HALVES[:8, :8].copy()
    values[5, 3] = bad
    assert_array_equal(converted(values), wanted(values))


@pytest.mark.parametrize("extreme", [65504.0, -65504.0, 2.0**-24, -(2.0**-24), 0.0, -0.0])
def test_the_ends_of_float16(extreme: float) -> None:
    values = np.full((3, 5), extreme, np.float16)
    assert converted(values).tobytes() == wanted(values).tobytes()


@pytest.mark.parametrize("dtype", ["int8", "uint8"])
@pytest.mark.parametrize("layout", list(LAYOUTS))
def test_every_small_integer_there_is(dtype: str, layout: str) -> None:
    values = LAYOUTS[layout](np.arange(256, dtype=np.uint8).view(dtype).reshape(16, 16))
    assert_array_equal(converted(values), wanted(values))


@pytest.mark.parametrize("layout", list(LAYOUTS))
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_floats_are_rounded_to_nearest(dtype: str, layout: str) -> None:
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 2**32, (64, 32), dtype=np.uint32).view(np.float32)
    bits[~np.isfinite(bits)] = 0
    values = bits.astype(np.float64)
    if dtype == "float64":
        # Halfway between two neighbours, just under and just over: ties go to even.
        ulp = np.spacing(bits.astype(np.float32)).astype(np.float64)
        values[::3] += ulp[::3] / 2
        values[1::3] = np.nextafter(values[1::3] + ulp[1::3] / 2, -np.inf)
        values[2::3] = np.nextafter(values[2::3] + ulp[2::3] / 2, np.inf)
    values = LAYOUTS[layout](values.astype(dtype))
    assert converted(values).tobytes() == wanted(values).tobytes()


@pytest.mark.parametrize("n", [1, 15, 1023, 1024, 1025, 2 * 1024, 3 * 1024 + 7])
def test_any_number_of_values(n: int) -> None:
    values = np.resize(FINITE_HALVES[100:140], (1, n))
    assert converted(values).tobytes() == wanted(values).tobytes()
    values[0, -1] = np.nan
    assert_array_equal(converted(values), wanted(values))


def test_a_search_converts_what_is_contiguous_and_nothing_else(way: str) -> None:
    calls = []

    def faster(stored: NDArray[np.int16], out: NDArray[np.float32]) -> bool:
        calls.append(len(stored))
        return bool(halves.from_halves(stored, out))

    convert.use_for_halves(faster if way == "compiled" else None)
    for layout in LAYOUTS.values():
        converted(layout(FINITE_HALVES))
    # "rows", and "read-only".
    assert calls == ([FINITE_HALVES.size] * 2 if way == "compiled" else [])


def test_more_rows_than_are_converted_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("haag_vq.sources.convert.PIECE_BYTES", 7 * 256 * 4)
    assert converted(FINITE_HALVES).tobytes() == wanted(FINITE_HALVES).tobytes()


@pytest.mark.parametrize("shape", [(0, 4), (3, 0), (0, 0)])
def test_nothing_to_convert(shape: tuple[int, int]) -> None:
    assert converted(np.zeros(shape, np.float16)).shape == shape


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_what_is_no_number_is_still_found(dtype: str) -> None:
    # The conversion must neither hide it from the check of the read nor warn by itself.
    values = np.ones((5, 3), dtype)
    for bad in (np.nan, np.inf, -np.inf):
        values[3, 1] = bad
        with pytest.raises(DataError, match="row 3"):
            read_rows(ArraySource(values))


# Where glibc's fenv_t keeps the register that takes subnormals for zero, and its bits for that.
FLUSH = {"x86_64": (28, 0x8040), "aarch64": (0, 1 << 24)}


def flush_subnormals() -> None:
    """Make this thread compute as a library compiled with -ffast-math leaves it."""
    at, bits = FLUSH[platform.machine()]
    libm = ctypes.CDLL("libm.so.6")
    environment = ctypes.create_string_buffer(64)
    libm.fegetenv(environment)
    word = int.from_bytes(environment.raw[at : at + 4], "little") | bits
    ctypes.memmove(ctypes.byref(environment, at), word.to_bytes(4, "little"), 4)
    libm.fesetenv(environment)


def test_a_thread_that_takes_subnormals_for_zero_converts_them_all_the_same() -> None:
    want = wanted(FINITE_HALVES)
    got = []
    flushed = []

    def work() -> None:
        flush_subnormals()
        least = np.full(1, 1, np.int32).view(np.float32)
        flushed.append(float((least * np.float32(2.0**112))[0]))
        got.append(converted(FINITE_HALVES))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert flushed == [0.0]
    assert got[0].tobytes() == want.tobytes()
