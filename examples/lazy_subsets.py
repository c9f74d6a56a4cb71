"""Take parts of a set that is too large to load: slices, samples, chosen rows, fewer dimensions.

    python examples/lazy_subsets.py [SOURCE]

SOURCE is a path, a quoted pattern or a name; by default a synthetic set of a hundred million
vectors, of which nothing is made but what is asked for.
"""

import sys

import numpy as np

from haag_vq import open_dataset
from haag_vq.memory import format_bytes, peak_rss_bytes

dataset = open_dataset(sys.argv[1] if len(sys.argv) > 1 else "synthetic:100000000x384")
print(dataset)
print("as a Dask array: ", dataset.vectors)

middle = dataset.n_rows // 2
rows = dataset[middle : middle + 100].compute()
print("a slice:         ", rows.shape, rows.dtype, "from row", f"{middle:,}")

sample = dataset.sample(min(5_000, dataset.n_rows // 10), seed=0)
print("a sample:        ", sample.shape, "first rows", sample.stored_rows(np.arange(3)))
train = sample.compute()

chosen = dataset.take([7, 3, 3, -1])
print("chosen rows:     ", chosen.stored_rows(np.arange(4)), chosen.compute().shape)

short = dataset.dims(min(64, dataset.dim), renormalize=True)[:1000].compute()
print("64 dimensions:   ", short.shape, "norms", np.linalg.norm(short, axis=1).round(3)[:3])

mean = dataset.vectors[:20_000].mean(axis=0).compute()
print(
    "Dask, lazily:    ",
    "mean of",
    mean.shape[0],
    "columns,",
    f"|mean| = {np.linalg.norm(mean):.3f}",
)

print(
    f"the whole set is {format_bytes(dataset.nbytes)}; this took {format_bytes(peak_rss_bytes())}"
)
