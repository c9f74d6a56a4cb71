"""How long a job will take: a range, and what most of it is spent on."""

from __future__ import annotations

from dataclasses import dataclass

from haag_vq.planning.need import Work
from haag_vq.planning.rates import Rates
from haag_vq.planning.sites import Site


@dataclass(frozen=True, slots=True)
class Duration:
    """Seconds that a job takes from its command to its end, the wait in a queue apart."""

    low_seconds: float
    """Files in the page cache, all overlapping."""
    high_seconds: float
    """Nothing overlapping, and nodes that share one disk."""
    seconds: float
    """The estimate between them."""
    parts: dict[str, float]
    """Seconds of each kind of work alone: starting, reading, network, converting, …"""
    origin: str
    """Of the rates."""

    @property
    def bottleneck(self) -> str:
        """The part that takes longest."""
        return max(self.parts, key=lambda name: self.parts[name])


def duration(work: Work, site: Site, rates: Rates) -> Duration:
    """Estimate the time of some work at a site.

    Reading and the network wait beside the cores, which convert and search: of the two, what
    takes longer counts, and all of it in the upper end of the range.
    """
    # The last round of tasks leaves workers idle; fewer tasks than workers use only some.
    busy = min(site.n_workers, work.n_tasks)
    rounds = -(-work.n_tasks // busy) * busy / work.n_tasks
    cores = busy * site.cores / rounds
    readers = cores
    if work.most_readers is not None:
        readers = busy * min(site.cores, work.most_readers) / rounds
    nodes = min(site.n_nodes, busy)
    search = (
        work.flop / rates.multiply_flops
        + work.n_pairs / rates.scan_pairs
        + (work.n_values / rates.row_values if work.flop else 0.0)
        + work.n_scored_values / rates.scored_values
    )
    parts = {
        "starting": rates.start_seconds,
        "reading": work.stored_bytes / (rates.read_bytes * nodes),
        "network": work.network_bytes / rates.network_bytes,
        "converting": (work.n_values / readers + work.n_values_before) / rates.converted(work.kind),
        "searching": search / cores,
        "encoding": work.n_encoded_values / rates.encoded_values / cores,
        "writing": work.written_bytes / rates.write_bytes,
    }
    on_cores = parts["converting"] + parts["searching"] + parts["encoding"]
    waiting = parts["reading"] + parts["network"]
    ends = parts["starting"] + parts["writing"]
    one_disk = parts["reading"] * nodes + parts["network"]
    return Duration(
        low_seconds=(ends + max(on_cores, parts["network"])) / rates.spread,
        high_seconds=(ends + on_cores + one_disk) * rates.spread,
        seconds=ends + max(on_cores, waiting),
        parts=parts,
        origin=rates.origin,
    )
