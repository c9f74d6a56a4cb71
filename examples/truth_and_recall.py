"""The exact neighbours for two sizes of a set from one pass, and what they say of an index.

    python examples/truth_and_recall.py

The queries are rows of the set, and each is left out of its own answer. An inverted file of FAISS
is scored against the truth; FAISS's own exhaustive search, in float32, is compared with it.
"""

from typing import Any

import numpy as np

from haag_vq import GroundTruth, compare, ground_truth, open_dataset, recall

K = 10
DIM, N_PARTS = 64, 100


def search(index: Any, queries: Any, own_rows: Any) -> tuple[Any, Any]:
    """Ask for one more, and put each query's own row behind the others: distances and ids."""
    distances, ids = index.search(queries, K + 1)
    order = np.argsort(ids == own_rows[:, None], axis=1, kind="stable")[:, :K]
    return np.take_along_axis(distances, order, 1), np.take_along_axis(ids, order, 1)


def main() -> None:
    """Find the truth, score an index, compare with an exhaustive one."""
    # After haag_vq, which has it compute with the BLAS kernel that fits this CPU.
    import faiss

    dataset = open_dataset(f"synthetic:20000x{DIM}", queries="sample:200")
    print(dataset)

    # Each row is read once, and answers for the first 5,000 rows as well as for all of them.
    first, whole = ground_truth(dataset, k=K, prefixes=[5_000, None], exclude_self=True)
    for truth in (first, whole):
        print(f"{truth}: {truth.findings}")

    vectors, queries, own_rows = dataset.compute(), dataset.queries, dataset.query_rows
    index: Any = faiss.index_factory(DIM, f"IVF{N_PARTS},Flat")
    index.train(vectors)
    index.add(vectors)
    for index.nprobe in (1, 2, 4):
        distances, ids = search(index, queries, own_rows)
        found = recall(ids, whole, result_distances=distances)
        print(f"{index.nprobe} of {N_PARTS} parts: {found}")

    exhaustive = faiss.IndexFlatL2(DIM)
    exhaustive.add(vectors)
    distances, ids = search(exhaustive, queries, own_rows)
    theirs = GroundTruth(
        ids, distances.astype(np.float64), "l2", *dataset.shape, excluded_self=True
    )
    print(compare(whole, theirs, base=dataset))


if __name__ == "__main__":
    main()
