"""Exact nearest neighbours: float32 proposes, D64 decides, a bound certifies, Dask spreads."""

from haag_vq.groundtruth.compare import compare
from haag_vq.groundtruth.comparison import Comparison
from haag_vq.groundtruth.finish import Findings
from haag_vq.groundtruth.formats import check_suffix
from haag_vq.groundtruth.heads import compare_heads, is_of_prefix
from haag_vq.groundtruth.recall import RecallReport, recall
from haag_vq.groundtruth.result import GroundTruth, RunReport, load_ground_truth
from haag_vq.groundtruth.rows import RowsReport, merge_checkpoint, search_rows
from haag_vq.groundtruth.scored import score_ids
from haag_vq.groundtruth.search import ground_truth

__all__ = [
    "Comparison",
    "Findings",
    "GroundTruth",
    "RecallReport",
    "RowsReport",
    "RunReport",
    "check_suffix",
    "compare",
    "compare_heads",
    "ground_truth",
    "is_of_prefix",
    "load_ground_truth",
    "merge_checkpoint",
    "recall",
    "score_ids",
    "search_rows",
]
