"""The demo and what it draws; the line of progress."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from matplotlib import image

from haag_vq import load_ground_truth, open_dataset
from haag_vq.demo import DemoReport, run_demo
from haag_vq.errors import WriteError
from haag_vq.plots import plot_bars, plot_memory
from haag_vq.progress import ProgressLine
from tests.groundtruth import oracle

PNG_MAGIC = b"\x89PNG\r\n\x1a\n"


def assert_picture(path: Path) -> None:
    """A whole PNG file with something on it."""
    data = path.read_bytes()
    assert data.startswith(PNG_MAGIC)
    assert data.endswith(b"IEND\xaeB`\x82")
    pixels = image.imread(path)
    assert pixels.shape[0] > 100
    assert pixels.shape[1] > 400
    assert len(np.unique(pixels.reshape(-1, pixels.shape[2]), axis=0)) > 20


# --- the demo ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> DemoReport:
    home = tmp_path_factory.mktemp("demo") / "made" / "by it"
    return run_demo(home, n_rows=6_000, dim=32, n_workers=2, k=10)


def test_the_demo_leaves_the_truth(report: DemoReport) -> None:
    truth = load_ground_truth(report.files[0])
    assert truth.metric == "cosine"
    dataset = open_dataset("synthetic:6000x32", queries="holdout:500")
    assert dataset.queries is not None
    keys, ids = oracle.neighbours(dataset.compute(), dataset.queries, 10, "cosine")
    np.testing.assert_array_equal(truth.ids, ids)
    np.testing.assert_allclose(truth.distances, -keys, atol=1e-6)
    np.testing.assert_array_equal(truth.query_rows, dataset.query_rows)
    np.testing.assert_array_equal(report.truth.ids, ids)


def test_the_demo_leaves_pictures(report: DemoReport) -> None:
    home = report.files[0].parent
    names = ["distances.png", "ground_truth.hdf5", "memory.png"]
    assert sorted(path.name for path in home.iterdir()) == names
    for picture in report.files[1:]:
        assert_picture(picture)


def test_the_demo_stays_within_its_projection(report: DemoReport) -> None:
    run = report.truth.run
    assert run is not None
    assert 0 < run.peak_rss_bytes <= run.projection.total_bytes
    assert report.n_workers == 2


# --- pictures ------------------------------------------------------------------------------------


def test_bars(tmp_path: Path) -> None:
    plot_bars(["before", "after"], [400.0, 100.0], "MiB", "Peak memory", tmp_path / "bars.png")
    assert_picture(tmp_path / "bars.png")


def test_memory_of_a_job_too_short_to_be_sampled(tmp_path: Path) -> None:
    plot_memory([], np.empty((0, 2), np.int64), 300 << 20, tmp_path / "memory.png")
    assert_picture(tmp_path / "memory.png")


def test_a_picture_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(WriteError, match="no-such"):
        plot_bars(["a"], [1.0], "MiB", "title", tmp_path / "no-such/bars.png")


# --- progress ------------------------------------------------------------------------------------


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_on_a_terminal_redraws_one_line() -> None:
    stream = Terminal()
    line = ProgressLine("blocks", 4, stream)
    for done in (0, 1, 1, 4):
        line(done)
    line.close()
    text = stream.getvalue()
    assert text.count("\n") == 1
    assert text.endswith("\n")
    drawn = text.rstrip("\n").split("\r\x1b[K")
    assert drawn[0] == ""
    assert [part.split(" ")[1] for part in drawn[1:]] == ["0/4", "1/4", "1/4", "4/4"]
    assert drawn[1].startswith("·" * 28)
    assert drawn[2].startswith("█" * 7 + "·" * 21)
    assert drawn[4].startswith("█" * 28 + " 4/4 blocks, 0 s, 0 s left")


def test_progress_elsewhere_is_a_line_every_tenth() -> None:
    stream = io.StringIO()
    line = ProgressLine("rows", 1_000, stream)
    for done in range(0, 1_001, 10):
        line(done)
    line.close()
    lines = stream.getvalue().splitlines()
    assert len(lines) == 11
    assert [text.split(" ")[1] for text in lines[:3]] == ["0/1,000", "100/1,000", "200/1,000"]
    assert "\r" not in stream.getvalue()
    assert "\x1b" not in stream.getvalue()


@pytest.mark.parametrize("stream", [Terminal(), io.StringIO()])
def test_progress_of_nothing(stream: io.StringIO) -> None:
    line = ProgressLine("rows", 0, stream)
    line.close()
    assert stream.getvalue() == ""


def test_progress_is_told_on_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    ProgressLine("rows", 10)(10)
    told = capsys.readouterr()
    assert told.out == ""
    assert "10/10 rows" in told.err
