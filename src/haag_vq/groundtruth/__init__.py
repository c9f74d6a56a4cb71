"""Exact nearest neighbours: FAISS proposes, D64 decides, a bound certifies, Dask spreads."""

from haag_vq.groundtruth.formats import check_suffix
from haag_vq.groundtruth.result import GroundTruth, RunReport, load_ground_truth
from haag_vq.groundtruth.search import ground_truth

__all__ = ["GroundTruth", "RunReport", "check_suffix", "ground_truth", "load_ground_truth"]
