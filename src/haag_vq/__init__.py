"""Embedding sets larger than memory as chunked Dask arrays, and their exact neighbours."""

from haag_vq.cluster import connect
from haag_vq.data import (
    VectorDataset,
    load_cohere_msmarco_passages,
    load_cohere_msmarco_queries,
    load_dbpedia_openai_1536,
    load_dbpedia_openai_1536_100k,
    load_dbpedia_openai_3072,
    load_dummy_dataset,
    open_dataset,
)
from haag_vq.groundtruth import (
    Comparison,
    GroundTruth,
    RecallReport,
    compare,
    ground_truth,
    load_ground_truth,
    merge_checkpoint,
    recall,
    score_ids,
    search_rows,
)
from haag_vq.planning import (
    ExportJob,
    LoadJob,
    Plan,
    QuantizeJob,
    SearchJob,
    local_site,
    plan,
)
from haag_vq.quantizing import QuantizeReport, quantize

__version__ = "0.1.0"

__all__ = [
    "Comparison",
    "ExportJob",
    "GroundTruth",
    "LoadJob",
    "Plan",
    "QuantizeJob",
    "QuantizeReport",
    "RecallReport",
    "SearchJob",
    "VectorDataset",
    "__version__",
    "compare",
    "connect",
    "ground_truth",
    "load_cohere_msmarco_passages",
    "load_cohere_msmarco_queries",
    "load_dbpedia_openai_1536",
    "load_dbpedia_openai_1536_100k",
    "load_dbpedia_openai_3072",
    "load_dummy_dataset",
    "load_ground_truth",
    "local_site",
    "merge_checkpoint",
    "open_dataset",
    "plan",
    "quantize",
    "recall",
    "score_ids",
    "search_rows",
]
