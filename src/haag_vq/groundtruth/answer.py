"""From merged parts to what a user gets, with all that it came from."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from haag_vq.groundtruth.finish import finish
from haag_vq.groundtruth.inputs import Inputs, Question
from haag_vq.groundtruth.part import Part
from haag_vq.groundtruth.result import GroundTruth, RunReport, software_versions
from haag_vq.sources import VectorSource

I64 = NDArray[np.int64]
IsOwn = Callable[[I64, I64], NDArray[np.bool_]]


def own_rows(inputs: Inputs) -> IsOwn | None:
    """How to tell a query's own row from its duplicates; None where that is not known."""
    source, query_rows = inputs.target, inputs.question.query_rows
    if query_rows is None or not isinstance(source, VectorSource):
        return None
    rows, base = query_rows, source

    def is_own(queries: I64, ids: I64) -> NDArray[np.bool_]:
        return np.asarray(base.stored_rows(ids) == rows[queries])

    return is_own


def answer(
    question: Question,
    part: Part,
    base_fingerprint: str,
    is_own: IsOwn | None,
    run: RunReport | None,
) -> GroundTruth:
    """Certify the merged part of all rows and make the answer of it.

    Raises
    ------
    CertificateError
        If it is not proven.
    """
    keys, ids, findings = finish(
        part,
        question.xq,
        question.k,
        question.width,
        question.metric,
        is_own,
        question.exclude_self,
    )
    return GroundTruth(
        ids,
        keys if question.metric == "l2" else 0.0 - keys,
        question.metric,
        part.n_rows,
        int(question.xq.shape[1]),
        base_fingerprint,
        question.queries_sha256,
        question.query_rows,
        question.dataset,
        question.query_source,
        question.exclude_self,
        findings,
        software_versions(),
        run,
        part.tally,
        question.commit,
    )
