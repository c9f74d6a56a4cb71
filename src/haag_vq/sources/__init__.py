"""Where vectors are stored: one module a format, NumPy and Arrow only, no Dask."""

from haag_vq.sources.array import ArraySource
from haag_vq.sources.concat import ConcatSource
from haag_vq.sources.open import open_source
from haag_vq.sources.prefix import PrefixSource
from haag_vq.sources.protocol import Metric, VectorSource, check_metric
from haag_vq.sources.select import RangeSource, TakeSource, WithoutSource
from haag_vq.sources.synthetic import SyntheticSource

__all__ = [
    "ArraySource",
    "ConcatSource",
    "Metric",
    "PrefixSource",
    "RangeSource",
    "SyntheticSource",
    "TakeSource",
    "VectorSource",
    "WithoutSource",
    "check_metric",
    "open_source",
]
