"""The per-example measures from their definitions, one example after another."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ensemble_view.measures.classification import MEASURES


def measured(
    logits: npt.NDArray[np.float64], full: npt.NDArray[np.float64], labels: npt.NDArray[np.int64]
) -> dict[str, npt.NDArray[np.float64]]:
    """Softmax, cross-entropy, argmax and KL divergence of one net beside the full net."""
    rows: dict[str, list[float]] = {name: [] for name in MEASURES}
    for mine, whole, label in zip(logits, full, labels, strict=True):
        q = np.exp(mine - mine.max())
        p = np.exp(whole - whole.max())
        q, p = q / q.sum(), p / p.sum()
        rows["correct"].append(np.argmax(mine) == label)
        rows["loss"].append(-np.log(q[label]))
        rows["agreement"].append(np.argmax(mine) == np.argmax(whole))
        rows["divergence"].append((p * (np.log(p) - np.log(q))).sum())
    return {name: np.array(values, dtype=np.float64) for name, values in rows.items()}
