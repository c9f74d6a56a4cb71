"""What a comparison of two ground truths found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from haag_vq.sources import Metric

Verdict = Literal["tie", "undecided", "misordered", "error"]

# From harmless to grave: a query is as bad as its worst place.
SEVERITY: tuple[Verdict, ...] = ("tie", "undecided", "misordered", "error")


@dataclass(frozen=True, slots=True)
class Difference:
    """One query for which two truths name other rows, at its worst rank."""

    query: int
    rank: int
    """From 0."""
    a_id: int
    b_id: int
    a_distance: float
    """D64 where vectors were given, else as A has it; squared for l2, a similarity otherwise."""
    b_distance: float
    verdict: Verdict
    wrong: str = ""
    """"A", "B" or "A and B": which is known to be wrong on this query; empty where none is."""

    def __str__(self) -> str:
        blame = f", {self.wrong} wrong" if self.wrong else ""
        return (
            f"query {self.query:,}, rank {self.rank + 1:,}: A has row {self.a_id:,} at "
            f"{self.a_distance:.9g}, B row {self.b_id:,} at {self.b_distance:.9g}: "
            f"{self.verdict}{blame}"
        )


@dataclass(frozen=True, slots=True)
class Comparison:
    """Counts of queries, and the first of the worst differences."""

    n_queries: int
    k: int
    """Places compared: the smaller k of the two."""
    metric: Metric
    n_exact: int = 0
    """Queries with the same ids in the same order. With the four counts below: all queries."""
    n_ties: int = 0
    """Queries whose differing rows are equally far, place by place."""
    n_undecided: int = 0
    """Queries that differ by no more than the files' distances do; none where vectors are given."""
    n_misordered: int = 0
    """Queries that a float32 search may have put wrong; none where vectors are not given."""
    n_errors: int = 0
    """Queries for which one truth, or both, missed a nearer row."""
    n_reordered: int = 0
    """Queries, of all that are not exact, with the same rows in another order."""
    n_wrong_a: int = 0
    """Queries, misordered or in error, for which A is known to be wrong."""
    n_wrong_b: int = 0
    largest_gap: float = 0.0
    """η: the largest difference of two distances given to one row of one query."""
    by_vectors: bool = False
    """The vectors decided, not the distances in the files."""
    differences: tuple[Difference, ...] = ()
    """A few: the gravest first, then by query; one for each query."""
    warnings: tuple[str, ...] = ()
    """What is odd about comparing the two at all."""

    @property
    def agree(self) -> bool:
        """Whether both are the same answer up to ties: no error, no misordering, none undecided."""
        return self.n_exact + self.n_ties == self.n_queries

    @property
    def verdict(self) -> str:
        """One line: ``agree``, ``agree up to ties: …``, ``undecided: …`` or ``differ: …``."""
        if self.n_exact == self.n_queries:
            return "agree"
        found = [
            f"{n:,} {'query' if n == 1 else 'queries'} {what}"
            for n, what in (
                (self.n_errors, "in error"),
                (self.n_misordered, "misordered within float32 error"),
                (self.n_undecided, "undecided"),
            )
            if n
        ]
        if not found:
            return f"agree up to ties: {self.n_ties:,} of {self.n_queries:,} queries"
        if self.n_errors or self.n_misordered:
            return f"differ: {', '.join(found)}, of {self.n_queries:,}"
        return (
            f"undecided: {self.n_undecided:,} of {self.n_queries:,} queries differ within the "
            "precision of the files; give the vectors"
        )

    def rows(self) -> list[tuple[str, str]]:
        """Lay out for a person: (name, value), the verdict first."""
        judge = "D64 of the vectors" if self.by_vectors else "the distances in the files"
        rows = [
            ("verdict", self.verdict),
            ("compared", f"{self.n_queries:,} queries, k={self.k:,}, {self.metric}, by {judge}"),
            ("same ids", f"{self.n_exact:,}"),
            ("ties", f"{self.n_ties:,}"),
            ("undecided", f"{self.n_undecided:,}"),
            ("misordered", f"{self.n_misordered:,}"),
            ("in error", f"{self.n_errors:,}"),
            ("only reordered", f"{self.n_reordered:,}"),
            ("known wrong", f"A {self.n_wrong_a:,}, B {self.n_wrong_b:,}"),
            ("one row's distances", f"differ by up to {self.largest_gap:.3g}"),
        ]
        rows += [("note", warning) for warning in self.warnings]
        return rows + [("for example", str(difference)) for difference in self.differences]

    def __str__(self) -> str:
        rows = self.rows()
        width = max(len(name) for name, _ in rows)
        return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)
