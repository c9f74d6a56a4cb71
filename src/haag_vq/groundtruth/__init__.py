"""Exact nearest neighbours: float32 proposes, D64 decides, a bound certifies, Dask spreads."""

from haag_vq.groundtruth.finish import Findings
from haag_vq.groundtruth.formats import check_suffix
from haag_vq.groundtruth.result import GroundTruth, RunReport, load_ground_truth
from haag_vq.groundtruth.rows import RowsReport, merge_checkpoint, search_rows
from haag_vq.groundtruth.search import ground_truth

__all__ = [
    "Findings",
    "GroundTruth",
    "RowsReport",
    "RunReport",
    "check_suffix",
    "ground_truth",
    "load_ground_truth",
    "merge_checkpoint",
    "search_rows",
]
