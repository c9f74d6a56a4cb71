"""What a user loads: datasets, by name, by path, or made up."""

from haag_vq.data.catalog import CATALOG, CatalogEntry
from haag_vq.data.cohere_msmarco_loader import (
    load_cohere_msmarco_passages,
    load_cohere_msmarco_queries,
)
from haag_vq.data.dataset import VectorDataset
from haag_vq.data.dbpedia_loader import (
    load_dbpedia_openai_1536,
    load_dbpedia_openai_1536_100k,
    load_dbpedia_openai_3072,
)
from haag_vq.data.loading import open_dataset
from haag_vq.data.published import load_published_truth
from haag_vq.data.synthetic import load_dummy_dataset

__all__ = [
    "CATALOG",
    "CatalogEntry",
    "VectorDataset",
    "load_cohere_msmarco_passages",
    "load_cohere_msmarco_queries",
    "load_dbpedia_openai_1536",
    "load_dbpedia_openai_1536_100k",
    "load_dbpedia_openai_3072",
    "load_dummy_dataset",
    "load_published_truth",
    "open_dataset",
]
