"""The lists of a block's neighbours: empty before it is searched, a part of the truth after."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from haag_vq.groundtruth.part import Part, Tally
from haag_vq.groundtruth.scan import Lists
from haag_vq.groundtruth.workspace import Workspace

I64 = NDArray[np.int64]

LARGEST_ID = np.iinfo(np.int64).max


def empty_lists(workspace: Workspace, nq: int, k: int, width: int, n_candidates: int) -> Lists:
    """Make lists of up to `width` for `nq` queries, in a workspace's buffers."""
    return Lists(
        k=k,
        n_candidates=np.zeros(nq, np.int32),
        rows=workspace.array("candidates", (nq, n_candidates), np.int32),
        values=workspace.array("values", (nq, n_candidates), np.float32),
        n_exact=np.zeros(nq, np.int32),
        keys=workspace.array("keys", (nq, width), np.float64),
        ids=workspace.array("ids", (nq, width), np.int64),
        hashes=workspace.array("hashes", (nq, width), np.uint64),
        ceilings=np.full(nq, np.inf),
        known=np.empty((nq, 0)),
        n_scored=np.zeros(nq, np.int64),
        n_widened=np.zeros(nq, np.int32),
        largest_error=np.zeros(nq),
        broken=np.zeros(nq, np.int64),
    )


def part_of(lists: Lists, order: I64, first_id: int, n_rows: int) -> Part:
    """Copy lists out of their buffers, with what they are known to hold.

    Parameters
    ----------
    order : (nq,) int64
        The query that each list is of.
    first_id, n_rows : int
        Rows of the base that were searched.
    """
    width = int(lists.n_exact.max(initial=0))
    back = np.argsort(order)
    n_exact = lists.n_exact[back]
    missing = np.arange(width) >= n_exact[:, None]
    keys, hashes = lists.keys[back, :width], lists.hashes[back, :width]
    ids = lists.ids[back, :width]
    ids += first_id
    keys[missing], ids[missing], hashes[missing] = np.inf, -1, 0
    # All rows up to the ceiling are listed, unless the list was cut.
    frontier = lists.ceilings[back]
    frontier_ids = np.where(np.isfinite(frontier), LARGEST_ID, -1)
    full = n_exact == lists.keys.shape[1]
    if n_rows == lists.keys.shape[1]:
        frontier[full], frontier_ids[full] = np.inf, -1
    else:
        # What was scored before the ceiling fell may lie above it.
        full &= lists.keys[back, -1] <= frontier
        frontier[full] = lists.keys[back[full], -1]
        frontier_ids[full] = lists.ids[back[full], -1] + first_id
    tally = Tally(
        int(lists.n_scored.sum()),
        int((lists.n_widened > 0).sum()),
        float(lists.largest_error.max(initial=0.0)),
    )
    return Part(keys, ids, hashes, frontier, frontier_ids, n_rows, tally)
