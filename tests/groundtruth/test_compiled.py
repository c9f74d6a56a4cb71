"""Compiled D64 and fingerprints against NumPy's, bit for bit; and where compiled code is kept."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from numpy.typing import NDArray

from haag_vq.groundtruth import compiled, d64, exact, precompile
from haag_vq.groundtruth.blocks import SearchShape
from haag_vq.sources import Metric
from tests.groundtruth.cases import KINDS, METRICS, kinds, metrics, pair_of, rows_of, seeds

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
U64 = NDArray[np.uint64]

# Powers of two, what is beside them, and dimensions of real models.
DIMS = sorted({1, 2, 3, 5, 6, 7, 100, 384, 768, 1024, 1536, 3072} | {2**p for p in range(12)})
DIMS = sorted({*DIMS, *(2**p + 1 for p in range(1, 12)), *(2**p - 1 for p in range(2, 12))})


def compiled_keys(x: F32, q: F32, metric: Metric) -> F64:
    half = max(1, exact.padded_dim(len(q)) // 2)
    terms = np.full(half, np.nan)  # what a buffer holds before is nobody's
    norm = float(exact.squared_norms(q[None])[0])
    code = exact.METRIC_CODES[metric]
    return np.array([exact.exact_key(code, row, q, norm, terms, row[:0]) for row in x])


def numpy_keys(x: F32, q: F32, metric: Metric) -> F64:
    return d64.keys(x, q, metric, float(d64.squared_norms(q[None])[0]))


def compiled_hashes(x: F32) -> U64:
    multipliers = d64.hash_multipliers(x.shape[1])
    return np.array([exact.row_hash(row, multipliers) for row in x], np.uint64)


def assert_same_bits(x: F32, xq: F32, metric: Metric) -> None:
    for q in xq:
        assert compiled_keys(x, q, metric).tobytes() == numpy_keys(x, q, metric).tobytes()
    assert exact.squared_norms(x).tobytes() == d64.squared_norms(x).tobytes()
    assert_array_equal(compiled_hashes(x), d64.row_hashes(x))


@given(kinds, st.integers(1, 12), st.integers(1, 140), seeds, metrics)
@settings(deadline=None, max_examples=150)
def test_any_vectors(kind: str, n: int, d: int, seed: int, metric: Metric) -> None:
    assert_same_bits(*pair_of(kind, n, 2, d, seed, metric), metric)


@pytest.mark.parametrize("metric", METRICS)
def test_every_dimension(metric: Metric) -> None:
    for d in DIMS:
        assert_same_bits(*pair_of("mixture", 6, 2, d, d, metric), metric)


def test_every_dimension_up_to_3072() -> None:
    """Of one long row, its beginnings: all three sums, each in one go."""
    x, xq = rows_of("normal", 1, 3072, 1)[0], rows_of("normal", 1, 3072, 2)[0]
    for d in range(1, 3073):
        half = max(1, exact.padded_dim(d) // 2)
        a, b, terms = x[:d], xq[:d], np.empty(half)
        for metric in METRICS:
            norm = exact.dot(b, b, terms, a)
            key = exact.exact_key(exact.METRIC_CODES[metric], a, b, norm, terms, b)
            assert key == numpy_keys(a[None], b, metric)[0]


@pytest.mark.parametrize("d", [*range(1, 70), 4095, 4096, 4097])
def test_padded_dim_is_numpys(d: int) -> None:
    assert exact.padded_dim(d) == d64.padded_dim(d)


@pytest.mark.parametrize("metric", ["l2", "ip"])
def test_denormals_count(metric: Metric) -> None:
    x = rows_of("denormal", 20, 9, 3)
    keys = compiled_keys(x, x[0], metric)
    assert_same_bits(x, x[:3], metric)
    # To both versions at once denormals could be nothing: these are not.
    assert len(np.unique(keys)) > 5
    assert np.abs(keys[np.abs(keys) > 0]).min() < 1e-80


@pytest.mark.parametrize("metric", ["l2", "ip"])
def test_negative_zero_is_zero(metric: Metric) -> None:
    x = np.array([[-0.0, -0.0, 1], [0, 0, 1], [-0.0, 0, -0.0]], np.float32)
    assert_same_bits(x, x, metric)
    for q in x:
        keys = compiled_keys(x, q, metric)
        assert not np.signbit(keys[keys == 0]).any()


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_hashes_of_equal_rows_are_equal_and_of_others_are_not(kind: str) -> None:
    x = rows_of(kind, 60, 24, 4)
    hashes = compiled_hashes(x)
    assert_array_equal(hashes, d64.row_hashes(x))
    # -0.0 equals 0.0, which bytes do not.
    plain = x + np.float32(0)
    same_rows = (plain[:, None] == plain[None]).all(axis=2)
    assert_array_equal(hashes[:, None] == hashes[None], same_rows)


def test_a_hash_depends_on_places_and_signs() -> None:
    x = np.array([[1, 2, 0], [2, 1, 0], [0, 1, 2], [-1, 2, 0], [1, -2, 0]], np.float32)
    assert len(set(compiled_hashes(x).tolist())) == 5


# --- where compiled code is kept ---------------------------------------------------------------

KEPT = """
from haag_vq.groundtruth import exact
print(exact.padded_dim(5), sum(exact.padded_dim.stats.cache_hits.values()))
"""


def test_what_is_compiled_is_kept_for_the_next_process(tmp_path: Path) -> None:
    for expected in (["8", "0"], ["8", "1"]):
        done = subprocess.run(
            [sys.executable, "-c", KEPT],
            env={**os.environ, "NUMBA_CACHE_DIR": str(tmp_path / "kept")},
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.split() == expected


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home directory in which nothing has been said of caches."""
    for name in ("NUMBA_CACHE_DIR", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def directory_now() -> str | None:
    found: str | None = compiled.cache_directory.__wrapped__()
    return found


def test_code_is_kept_in_the_users_cache_or_where_told(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = Path(directory_now() or "")
    assert kept.parent == home / ".cache" / "haag_vq"
    # It holds code that is run.
    assert kept.stat().st_mode & 0o077 == 0
    monkeypatch.setenv("XDG_CACHE_HOME", str(home / "x"))
    assert directory_now() == str(home / "x" / "haag_vq" / kept.name)
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(home / "n"))
    assert directory_now() == str(home / "n" / kept.name)


def test_other_sources_are_kept_elsewhere(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever of them changed: one's machine code holds the others'."""
    usual = directory_now()
    read = Path.read_bytes
    sources = Path(compiled.__file__).parent.glob("*.py")
    marks = (b"\n@compiled\n", b"\n@register_jitable\n")
    names = [path.name for path in sources if any(mark in read(path) for mark in marks)]
    assert {"exact.py", "scan.py", "bounds.py"} <= set(names)
    for changed in (*names, "convert.py"):
        monkeypatch.setattr(
            Path, "read_bytes", lambda p, c=changed: read(p) + (b"#" if p.name == c else b"")
        )
        assert directory_now() not in (usual, None)


def test_another_installation_of_the_same_sources_is_kept_elsewhere(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Numba knows its files by path and time: what it made of the one is nothing to the other."""
    usual = directory_now()
    package = Path(compiled.__file__).parents[1]
    copied = home / "groundtruth"
    for part in ("groundtruth", "quantizing", "sources"):
        shutil.copytree(package / part, home / part)
    monkeypatch.setattr(compiled, "__file__", str(copied / "compiled.py"))
    elsewhere = directory_now()
    assert elsewhere not in (usual, None)
    os.utime(copied / "scan.py", (1, 1))
    assert directory_now() not in (usual, elsewhere, None)


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory in the place of /tmp."""
    directory = tmp_path / "tmp"
    directory.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(directory))
    return directory


def test_without_a_home_to_write_to_it_is_kept_among_temporary_files(
    home: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = Path(directory_now() or "").name
    (home / "file").write_text("no directory")
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(home / "file"))
    kept = temporary / f"haag_vq-{os.getuid()}-{usual}"
    assert directory_now() == str(kept)
    assert kept.stat().st_mode & 0o077 == 0
    # Somebody else's, or open to somebody else, or a link to such: not trusted.
    kept.chmod(0o777)
    assert directory_now() is None
    kept.rmdir()
    kept.symlink_to(home)
    assert directory_now() is None


def test_nothing_is_kept_where_others_could_have_put_it(
    home: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "getuid", lambda: home.stat().st_uid + 1)
    assert directory_now() is None


def test_with_nowhere_to_keep_it_it_is_compiled_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(compiled, "cache_directory", lambda: None)
    doubled = compiled.compiled(_double)
    assert doubled(21) == 42
    assert not doubled.stats.cache_path


def test_a_process_that_compiles_for_itself_is_projected(monkeypatch: pytest.MonkeyPatch) -> None:
    shape = SearchShape(nq=10, d=8, k=3, metric="l2", scratch_bytes=0, n_threads=1)
    usual = shape.projection(1000, 1).total_bytes
    monkeypatch.setattr(precompile, "cache_directory", lambda: None)
    assert shape.projection(1000, 1).total_bytes == usual + precompile.COMPILER_BYTES


def test_where_no_other_process_can_compile_that_is_projected_too(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise OSError("no more processes")

    monkeypatch.setattr(precompile, "cache_directory", lambda: str(home))
    monkeypatch.setattr(precompile, "_compiles_itself", False)
    assert precompile.compiler_bytes() == 0
    monkeypatch.setattr(subprocess, "run", refuse)
    precompile.ensure_compiled.__wrapped__()
    assert precompile.compiler_bytes() == precompile.COMPILER_BYTES


def _double(x: int) -> int:
    return 2 * x


ALL_COMPILED = """
from pathlib import Path
import numpy as np
from haag_vq.groundtruth import engine, partial
from haag_vq.groundtruth.compiled import cache_directory
from haag_vq.groundtruth.kernel import Queries, search_block
from haag_vq.groundtruth.precompile import compile_all
from haag_vq.sources.convert import to_float32
compile_all()
before = set(Path(cache_directory()).rglob("*.nbc"))
partial.LEAST_USE = 0
x = np.random.default_rng(0).standard_normal((3000, 64), dtype=np.float32)
queries = Queries.of(x[:700].copy())
for metric in ("l2", "ip", "cosine"):
    keys = search_block(x, 0, queries, 5, metric, n_threads=2).keys
    nearest = {"ceilings": keys.max(axis=1), "known": keys}
    search_block(x, 0, queries, 5, metric, n_threads=2, **nearest)
halves = x.astype(np.float16)
for _ in range(2):
    to_float32(halves, x)
    halves.flags.writeable = False
print(len(before), len(set(Path(cache_directory()).rglob("*.nbc")) - before))
"""


@pytest.mark.slow
def test_a_search_compiles_nothing_that_was_not_compiled_before(tmp_path: Path) -> None:
    """Or a worker would, in memory that nobody has planned."""
    done = subprocess.run(
        [sys.executable, "-c", ALL_COMPILED],
        env={**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    n_before, n_more = map(int, done.stdout.split())
    assert n_before > 10
    assert n_more == 0
