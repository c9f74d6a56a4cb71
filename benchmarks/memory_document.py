"""Make docs/memory.md: the original's tables of memory beside the planner's and measured figures.

`--measure NAME …` makes a set of that shape, loads and searches it, and keeps the peaks in
memory_document.json beside this file; without it the document is made from what is kept there.
`--check` says whether the document is current.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from measuring import data_directory, machine, note, run_json
from memory import haag_vq

from haag_vq.memory import format_bytes, needed_limit
from haag_vq.planning import LoadJob, Plan, Rates, SearchJob, ShapeSource, Site, StreamJob, plan

HOME = Path(__file__).parent
KEPT = HOME / "memory_document.json"
DOCUMENT = HOME.parent / "docs" / "memory.md"

# The machine that is planned for, whatever makes the document: 4 cores, 16 GiB.
ALONE = Site("a laptop", 1, 4, 16 << 30, "a laptop's memory")
WORKERS = Site("a laptop", 4, 1, 4 << 30, "a quarter of a laptop's memory")

N_QUERIES, K = 100, 100

# Seconds of a walltime's step.
TIME_STEP = 600


@dataclass(frozen=True, slots=True)
class Entry:
    """A set, and what the original document says of it."""

    name: str
    title: str
    n_rows: int
    dim: int
    dtype: str
    file: str
    scratch_bytes: int
    """Of one reader: 1 MiB of row files; of Parquet what files of this shape take."""
    before: tuple[str, str, str]
    """The original's words for loading, ground truth and the whole, before its optimizations."""
    after: tuple[str, str, str]

    @property
    def source(self) -> ShapeSource:
        """Its shape."""
        groups = 1000 if self.file.endswith(".parquet") else None
        return ShapeSource(self.n_rows, self.dim, self.dtype, self.file, self.scratch_bytes, groups)

    def load(self) -> Plan:
        """Plan all of it in one array."""
        return plan(LoadJob(self.source), ALONE, rates=Rates())

    def search(self) -> Plan:
        """Plan its ground truth, by blocks."""
        job = SearchJob(self.source, N_QUERIES, K, "l2", (self.n_rows,))
        return plan(job, WORKERS, rates=Rates())


# Readers as they were measured on such files: 36.3 and 1.2 MiB.
_PARQUET = ("float64", "x.parquet", 37 << 20)
_NPY = ("float16", "x.npy", 5 << 18)
_NO = "–"

ENTRIES = (
    Entry(
        "dbpedia-100k",
        "DBpedia 100K (1536-dim)",
        100_000,
        1536,
        *_PARQUET,
        ("~1.2 GB", "~80 MB", "~1.3 GB"),
        ("~614 MB", "~80 KB", "~700 MB"),
    ),
    Entry(
        "dbpedia-1536",
        "DBpedia 1M (1536-dim)",
        1_000_000,
        1536,
        *_PARQUET,
        ("~12 GB", "skipped", "~12 GB"),
        ("~6.1 GB", "skipped", "~6.1 GB"),
    ),
    Entry(
        "dbpedia-3072",
        "DBpedia 1M (3072-dim)",
        1_000_000,
        3072,
        *_PARQUET,
        ("~24 GB", "skipped", "~24 GB"),
        ("~12.3 GB", "skipped", "~12.3 GB"),
    ),
    Entry(
        "msmarco-100k",
        "Cohere MS MARCO, limit=100K (1024-dim)",
        100_000,
        1024,
        *_NPY,
        ("~820 MB", "skipped", "~820 MB"),
        ("~410 MB", "skipped", "~410 MB"),
    ),
    Entry(
        "msmarco",
        "Cohere MS MARCO, whole (113,520,750 × 1024; the original has ~53M)",
        113_520_750,
        1024,
        *_NPY,
        (_NO, _NO, _NO),
        ("“too large to load fully”", _NO, _NO),
    ),
)

# The original's classes of use, the sets it names for them, and its lines for srun.
CLASSES = (
    ("Quick testing (< 1 GB)", "dbpedia-100k", "~700 MB", "srun --mem=2G --time=1:00:00"),
    ("Standard benchmarking (1–10 GB)", "dbpedia-1536", "~6 GB", "srun --mem=8G --time=2:00:00"),
    (
        "Large-scale benchmarking (> 10 GB)",
        "dbpedia-3072",
        "~12 GB",
        "srun --mem=16G --time=2:00:00",
    ),
    ("Large-scale, a sample", "msmarco-100k", "variable", _NO),
    ("Large-scale, in batches", "msmarco", "`streaming=True`", _NO),
)

INTRODUCTION = """\
# Memory: the original's tables, planned and measured

Made by `python benchmarks/memory_document.py`; a test holds it to the planner. “Before” and “after”
are the figures of the document that this project began with (*Memory Optimizations*, on loaders
that fill one array), in its own words. “Planned” is what `haag-vq plan` projects, an upper bound
by which a run is refused or not, on a laptop of 4 cores and 16 GiB: one process that loads, or
four workers that search, of which it is each one's. “Measured” is the peak RSS of a process, the
interpreter and its libraries (some 250 MB) included.

Ground truth is of {n_queries} queries, k={k}, squared l2. Here it reads the files block by block
and needs none of the set in memory: the two totals are of two jobs, and are not added up. The
original's ground truth counts its results; ours, what a worker allocates beside the block. For a
job of your own:

    haag-vq plan load 'shards/*.parquet'
    haag-vq plan ground-truth 'shards/*.parquet' --queries holdout:200 --profile pace-ice
"""

LOAD = """\
import json, sys
from haag_vq import open_dataset
from haag_vq.memory import peak_rss_bytes
dataset = open_dataset(sys.argv[1])
dataset.compute()
print(json.dumps({"load_bytes": peak_rss_bytes(), "scratch": dataset.source.scratch_bytes}))
"""


def size(n: float) -> str:
    """Write bytes in the original's decimal units."""
    for unit, one in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if n >= one:
            return f"{n / one:.3g} {unit}"
    return f"{n / 1e3:.3g} KB"


def table(head: list[str], rows: list[list[str]]) -> str:
    """Make a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def section(entry: Entry, kept: dict[str, Any]) -> str:
    """Write the table of one set."""
    load, search = entry.load(), entry.search()
    measured = kept["sets"].get(entry.name, {})
    lists = search.projection.search_bytes + search.projection.results_bytes
    fits = size(load.projection.total_bytes) + ("" if load.fits else ", refused: does not fit")

    def peak(name: str) -> str:
        return size(measured[name]) if name in measured else "not measured"

    rows = [
        ["Loading: the array", entry.before[0], entry.after[0], size(load.float32_bytes), _NO],
        ["Ground truth: what it works with", entry.before[1], entry.after[1], size(lists), _NO],
        ["Total peak, loaded into memory", entry.before[2], entry.after[2], fits,
         peak("load_bytes")],
        ["Total peak, ground truth by blocks", _NO, _NO,
         size(search.projection.total_bytes), peak("search_bytes")],
    ]  # fmt: skip
    if not load.fits:
        block = plan(StreamJob(entry.source), ALONE, rates=Rates()).projection.total_bytes
        rows.append(["Total peak, read by blocks", _NO, _NO, size(block), "not measured"])
    head = ["", "before", "after", "planned", "measured"]
    vectors = f"{entry.n_rows:,} × {entry.dim} × 4 bytes = **{size(load.float32_bytes)}**"
    text = f"## {entry.title}\n\n{vectors}\n\n{table(head, rows)}"
    return text + (f"\nOn the laptop: {load.verdict}.\n" if not load.fits else "")


def classes() -> str:
    """Write the classes of use, and lines for srun."""
    rows = []
    for title, name, told, line in CLASSES:
        entry = next(entry for entry in ENTRIES if entry.name == name)
        load = entry.load()
        if not load.fits:
            load = plan(StreamJob(entry.source), ALONE, rates=Rates())
        rows.append(
            [
                title,
                entry.name,
                told,
                f"`{line}`" if line != _NO else _NO,
                ("" if entry.load().fits else "by blocks: ") + srun(load, 1),
                srun(entry.search(), WORKERS.n_workers),
            ]
        )
    head = ["", "set", "the original's peak", "the original's line"]
    return (
        "## By use\n\nA process plans with 75% of what Slurm grants it, so more is asked for than "
        "is used. The last column is for four local workers.\n\n"
        + table([*head, "to load it", "to search it"], rows)
        + "\nTimes are the longest that the planner expects of a node not measured, and half as "
        "long again, in steps of ten minutes. They follow from the machine: `haag-vq doctor "
        "--calibrate` measures it, and `haag-vq plan … --profile NAME` makes the whole request.\n"
    )


def srun(made: Plan, n_workers: int) -> str:
    """Write the line that gets what a plan asks for, for workers on one node."""
    gib = -(-n_workers * needed_limit(made.projection) // (1 << 30))
    steps = -(-int(1.5 * made.duration.high_seconds) // TIME_STEP)
    minutes = max(1, steps) * TIME_STEP // 60
    cores = f" --cpus-per-task={n_workers}" if n_workers > 1 else ""
    return f"`srun --mem={gib}G --time={minutes // 60}:{minutes % 60:02}:00{cores}`"


def document() -> str:
    """Make the whole text from the planner and what is kept."""
    kept = json.loads(KEPT.read_text(encoding="utf-8"))
    sections = "\n".join(section(entry, kept) for entry in ENTRIES)
    origin = (
        f"Measured on {kept['machine']}, on sets generated in the shape of the real ones (which "
        "cannot be had there): Parquet lists of float64, or float16 `.npy`. “Not measured” is "
        "planned only.\n"
    )
    return "\n".join([INTRODUCTION.format(n_queries=N_QUERIES, k=K), sections, classes(), origin])


def measure(names: list[str], data: str | None) -> None:
    """Make the sets, load and search them, and keep the peaks."""
    kept = json.loads(KEPT.read_text()) if KEPT.exists() else {"sets": {}}
    kept["machine"] = machine()
    for entry in (entry for entry in ENTRIES if entry.name in names):
        with data_directory(data, "haag-vq-document-") as home:
            file = home / f"{entry.name}{Path(entry.file).suffix}"
            if not file.exists():
                note(f"writing {file}")
                made = f"synthetic:{entry.n_rows}x{entry.dim}"
                haag_vq("export", made, str(file), "--dtype", entry.dtype)
            note(f"loading and searching {entry.name}")
            found = run_json([sys.executable, "-c", LOAD, str(file)])
            words = ["--queries", f"first:{N_QUERIES}", "--k", str(K), "--workers", "4"]
            run = haag_vq("ground-truth", str(file), *words, "--out", str(home / "t.npz"))
            kept["sets"][entry.name] = {**found, "search_bytes": run["peak_rss_bytes"]}
            note(f"  one reader takes {format_bytes(found['scratch'])} beside its rows")
    KEPT.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")


def main() -> int:
    """Make or check the document."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    names = [entry.name for entry in ENTRIES]
    parser.add_argument("--measure", nargs="+", choices=names, default=[])
    parser.add_argument("--data", help="directory to keep the generated data in and reuse")
    parser.add_argument("--check", action="store_true", help="write nothing: exit 1 if it is old")
    args = parser.parse_args()
    if args.measure:
        measure(args.measure, args.data)
    made = document()
    if args.check:
        return int(not DOCUMENT.exists() or DOCUMENT.read_text(encoding="utf-8") != made)
    DOCUMENT.write_text(made, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
