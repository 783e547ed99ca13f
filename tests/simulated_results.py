"""Seeded results of made-up nets, to test what is done with results."""

from __future__ import annotations

import numpy as np

from ensemble_view.studies.lesion.result import LesionResult
from ensemble_view.study.lesions import Lesion, NotDeletable
from ensemble_view.study.outcomes import Outcomes
from ensemble_view.study.provenance import Cost, Provenance

CLASSES = 10


def simulated_result(
    blocks: int = 27,
    *,
    downsampling: tuple[int, ...] = (9, 18),
    shape: str = "deletable",
    accuracy: float = 0.83,
    damage: float = 0.02,
    examples: int = 400,
    sets: tuple[tuple[int, ...], ...] | None = None,
    interrupted: bool = False,
    seed: int = 0,
) -> LesionResult:
    """A net whose blocks each turn a share ``damage`` of the examples into random guesses.

    Downsampling blocks do ten times that damage, or cannot be deleted with another ``shape``.
    """
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(examples) % CLASSES)
    baseline_correct = rng.random(examples) < accuracy
    fixed = downsampling if shape != "deletable" else ()
    chosen = sets or tuple((i,) for i in range(blocks) if i not in fixed)
    lesions, correct = [], []
    for group in chosen:
        changes = any(i in downsampling for i in group)
        hit = rng.random(examples) < min(1.0, damage * (10 if changes else 1) * len(group))
        correct.append(np.where(hit, rng.random(examples) < 1 / CLASSES, baseline_correct))
        lesions.append(
            Lesion(
                label=",".join(map(str, group)),
                names=tuple(f"layer{1 + i * 3 // blocks}.{i}" for i in group),
                blocks=group,
                changes_shape=changes,
                shortcut_kind="zero-pad" if changes else "identity",
            )
        )
    right = np.array(correct).reshape(len(chosen), examples)
    noise = rng.exponential(size=(len(chosen), examples)).astype(np.float32)
    outcomes = Outcomes(
        correct=right,
        loss=np.where(right, 0.1, 2.5).astype(np.float32) * noise,
        agreement=right == baseline_correct,
        divergence=noise,
        baseline_correct=baseline_correct,
        baseline_loss=rng.exponential(size=examples).astype(np.float32),
        labels=labels.astype(np.int64),
    )
    return LesionResult(
        lesions=tuple(lesions),
        outcomes=outcomes,
        cost=Cost(block_evaluations=378, naive_block_evaluations=729, batches=7),
        seconds=12.5,
        provenance=Provenance(
            model={"name": "resnet56", "shape": (3, 32, 32)},
            data={"name": "cifar10", "mean": [0.485, 0.456]},
            versions={"ensemble_view": "0.1.0", "torch": "2.10"},
            seed=seed,
            command="ensemble-view lesion resnet56.th",
            date="2026-01-01T00:00:00+00:00",
            device="cpu",
            threads=1,
            batch_size=64,
        ),
        block_count=blocks,
        not_deletable=tuple(
            NotDeletable(i, f"features.{i}", "changes the shape and has no shortcut") for i in fixed
        ),
        interrupted=interrupted,
    )
