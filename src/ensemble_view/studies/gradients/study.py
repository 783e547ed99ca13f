"""Weigh paths by the gradient they carry (Veit et al. 2016, section 5, figure 6)."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

import torch
from torch import nn

from ensemble_view.core.chain import Chain
from ensemble_view.data.data import examples_in
from ensemble_view.errors import MeasurementError
from ensemble_view.nets.checkpoints import Checkpoint
from ensemble_view.paths.batchnorm import with_batch_statistics
from ensemble_view.paths.gradients import path_gradients, squares
from ensemble_view.paths.lengths import path_lengths
from ensemble_view.paths.losses import Loss
from ensemble_view.paths.trace import refuse_random_blocks
from ensemble_view.studies.gradients.measurement import (
    FEWEST_GROUPS,
    Measured,
    Measurement,
    enough_groups,
)
from ensemble_view.studies.gradients.result import GradientCost, GradientsByLength, GradientSettings
from ensemble_view.study.pace import duration
from ensemble_view.study.path_subject import gradient_subject, loss_name, pieces, placed
from ensemble_view.study.subject import Subject
from ensemble_view.study.untrained import untrained_net

__all__ = ["GradientStudy", "Method", "gradients_by_length", "prepare_gradients"]

Method: TypeAlias = Literal["summed", "energy", "sampled", "all"]
Norm: TypeAlias = Literal["example", "batch"]
BatchNorm: TypeAlias = Literal["evaluation", "training"]
Progress: TypeAlias = Callable[[int], None]
"""Called with the number of branch VJPs times examples done since the last call."""

_METHODS: tuple[Method, ...] = ("summed", "energy", "sampled")

_MOST_GROUPS = 10_000


@dataclass(frozen=True, eq=False)
class GradientStudy:
    """A study of gradients by path length whose cost is known and which has not run yet.

    Args:
        subject: Chains and data.
        measurement: What is measured and how, with the chain for the first portion of the data.
        seconds_per_vjp: Of one branch VJP of one example, measured on this machine.
        command: What made the result.
        untrained: The same of the untrained net.
    """

    subject: Subject
    measurement: Measurement
    seconds_per_vjp: float
    command: str | None
    untrained: GradientStudy | None = None

    @property
    def cost(self) -> GradientCost:
        """Branch vector–Jacobian products per example, known before the run."""
        n, settings = self.measurement.blocks, self.measurement.settings
        each = {
            "summed": n * (n + 1) // 2,
            "energy": (settings.groups or 0) * settings.vectors * n * (n + 1) // 2,
            "sampled": sum(
                length * min(settings.samples, count)
                for length, count in enumerate(path_lengths(n).counts)
            ),
        }
        by_method = {name: each[name] for name in settings.methods}
        return GradientCost(sum(by_method.values()), by_method, len(self.subject.data))

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader needs before the numbers."""
        return self.subject.notes

    @property
    def work(self) -> int:
        """Branch VJPs times examples: the total of what ``progress`` is told."""
        own = self.cost.branch_vjps * len(self.subject.data)
        return own + (self.untrained.work if self.untrained else 0)

    @property
    def expected_seconds(self) -> float:
        """How long the run will take, from a short measurement on this machine."""
        examples = sum(len(p.data) / p.size for _, p in self.subject.portions)
        own = self.cost.branch_vjps * examples * self.seconds_per_vjp
        return own + (self.untrained.expected_seconds if self.untrained else 0)

    def __str__(self) -> str:
        cost = self.cost
        blocks, groups = self.measurement.blocks, self.measurement.settings.groups
        parts = ", ".join(f"{name} {count:,}" for name, count in cost.by_method.items())
        drawn = "" if groups is None else f", {groups} groups"
        return (
            f"Paths through {blocks} blocks on {cost.examples:,} {self.subject.data.unit}: "
            f"{cost.branch_vjps:,} branch VJPs per example ({parts}{drawn}), as many as "
            f"{cost.branch_vjps / blocks:,.0f} backward passes, batches of "
            f"{self.measurement.batch_size}, about "
            f"{duration(self.expected_seconds)}"
            f"{' with the untrained net' if self.untrained else ''}"
        )

    def run(self, progress: Progress | None = None) -> GradientsByLength:
        """Measure.

        Args:
            progress: Told of the branch VJPs done, times examples.

        Returns:
            The result; of the examples done so far, if the user interrupted.

        Raises:
            KeyboardInterrupt: If the user interrupts before the first batch is complete.
        """
        result = self._run(progress)
        if self.untrained is None or result.interrupted:
            return result
        try:
            return replace(result, untrained=self.untrained.run(progress))
        except KeyboardInterrupt:
            return replace(result, interrupted=True)

    def _run(self, progress: Progress | None) -> GradientsByLength:
        started = time.perf_counter()
        measured, interrupted = Measured(self.measurement.blocks), False
        told = progress or (lambda amount: None)
        try:
            for number, (measurement, batch) in enumerate(self._batches()):
                measured.add(measurement.of_batch(*batch, number, told))
        except KeyboardInterrupt:
            if not measured.examples:
                raise
            interrupted = True
        cost = self.cost
        return GradientsByLength(
            rows=measured.rows(),
            settings=self.measurement.settings,
            cost=GradientCost(cost.branch_vjps, cost.by_method, measured.examples),
            negative_mass=measured.negative_mass,
            undefined=measured.undefined,
            projected_mean=measured.projected_mean,
            pooled_mean=measured.pooled_mean,
            seconds=time.perf_counter() - started,
            provenance=self.subject.provenance(
                seed=self.measurement.seed,
                command=self.command,
                batch_size=self.measurement.batch_size,
                threads=torch.get_num_threads(),
            ),
            interrupted=interrupted,
        )

    def _batches(self) -> Iterator[tuple[Measurement, tuple[Any, Any]]]:
        """Every batch with how it is measured: each shape of the data has a chain of its own."""
        for chain, portion in self.subject.portions:
            size = max(1, int(self.measurement.batch_size * portion.size))
            measurement = replace(self.measurement, chain=chain, batch_size=size)
            for batch in portion.data.batches(size):
                yield measurement, batch


def gradients_by_length(
    model: nn.Module | Chain | Checkpoint,
    data: Any,
    *,
    method: Method | Sequence[Method] = "summed",
    loss: Loss | None = None,
    at: int | Literal["input"] = 0,
    samples: int = 1000,
    norm: Norm | None = None,
    batchnorm: BatchNorm = "evaluation",
    vectors: int = 16,
    groups: int | None = None,
    tokenizer: Any = None,
    length: int | None = None,
    output: str | int | None = None,
    limit: int | None = None,
    seed: int = 0,
    batch_size: int = 64,
    chunk: int | None = None,
    untrained: bool | nn.Module = False,
    command: str | None = None,
    progress: Progress | None = None,
) -> GradientsByLength:
    """Weigh the paths of each length by the gradient that they carry.

    Forward activations are those of the full net in evaluation mode; a path is a product of
    Jacobians (Veit, Wilber and Belongie 2016, section 5). ``summed``: the norm of the gradient
    summed over all paths of a length, and with it the share ⟨c_k, g⟩ / ‖g‖² of the whole gradient
    g (``projected``, the mean over examples, and ``pooled``, the ratio of the sums over examples);
    all exact. ``energy``: Σ‖g_S‖² over these paths, estimated by random
    orthogonal mixing, with a standard error. ``sampled``: the paper's protocol, norms along random
    paths; the paper does not say whether a norm is that of a batch or of an example, so the norm is
    each example's own unless ``norm`` says otherwise.

    Args:
        model: A module, a chain of granularity ``branch``, or a loaded checkpoint. It is left as it
            was.
        data: As for :func:`ensemble_view.lesion`; with a loss of one's own, inputs may be several
            and targets anything. Of text a sequence is an example.
        method: ``summed``, ``energy``, ``sampled``, several of them, or ``all``.
        loss: From the model's output, the labels and the inputs of a batch to one loss per example;
            by default cross-entropy in nats, of text the mean over a sequence's next tokens.
        at: The block at whose input the gradient is taken, or ``input`` for the model's own. Paths
            begin there.
        samples: For ``sampled``: random paths per length, drawn anew for each batch; all of them,
            each once, where there are no more.
        norm: For ``sampled``: of each ``example`` (the default), or of the gradient of the
            ``batch``'s mean loss.
        batchnorm: ``evaluation``, or ``training``: BatchNorm takes the statistics of each batch, in
            the activations and in the gradients through them. The examples of a batch then act on
            each other, so that batches are measured, each by the gradient of its mean loss. The
            paper does not say which it used.
        vectors: For ``energy``: columns that are mixed.
        groups: For ``energy``: independent draws per example, of which at least 16 are made; by
            default as many as a pilot of its own says are needed for 5 %.
        tokenizer: Of text, as for :func:`ensemble_view.lesion`.
        length: Of text, as for :func:`ensemble_view.lesion`.
        output: As for :func:`ensemble_view.lesion`.
        limit: At most so many examples, class-balanced where they have classes.
        seed: Of every random choice.
        batch_size: Examples at a time. It bounds the memory: what is held beside one forward pass
            is a cotangent for each length and example (for ``energy`` of fewer examples at a time,
            since it needs ``vectors`` times as many).
        chunk: Lengths that go through a block at a time; by default 1 on a CPU, else 16, which then
            go in one call.
        untrained: Also measure the net before training, as ``.untrained`` of the result: built anew
            where a checkpoint names its architecture, else a copy whose weights are drawn anew by
            ``reset_parameters`` and ``_init_weights`` of its modules; by the seed, BatchNorm's
            running statistics those of the first batch. Or that net itself, which is taken as it
            is.
        command: Recorded in the result; by default the program's command line.
        progress: Called with the branch VJPs done, times examples.

    Returns:
        The result: ``.frame``, ``.effective``, ``.plot()``, ``.save(folder)``.

    Raises:
        EnsembleViewError: If model, data or options do not fit each other; the sentence says how.

    Example:
        >>> import ensemble_view
        >>> net = ensemble_view.load_checkpoint("digits-resnet110")
        >>> result = ensemble_view.gradients_by_length(net, "digits", limit=4)
        >>> len(result.frame), result.cost.branch_vjps
        (55, 1485)
        >>> bool(abs(result.frame["projected"].sum() - 1) < 1e-6)
        True
    """
    study = prepare_gradients(
        model,
        data,
        method=method,
        loss=loss,
        at=at,
        samples=samples,
        norm=norm,
        batchnorm=batchnorm,
        vectors=vectors,
        groups=groups,
        tokenizer=tokenizer,
        length=length,
        output=output,
        limit=limit,
        seed=seed,
        batch_size=batch_size,
        chunk=chunk,
        untrained=untrained,
        command=command,
    )
    return study.run(progress)


def prepare_gradients(
    model: nn.Module | Chain | Checkpoint,
    data: Any,
    *,
    method: Method | Sequence[Method] = "summed",
    loss: Loss | None = None,
    at: int | Literal["input"] = 0,
    samples: int = 1000,
    norm: Norm | None = None,
    batchnorm: BatchNorm = "evaluation",
    vectors: int = 16,
    groups: int | None = None,
    tokenizer: Any = None,
    length: int | None = None,
    output: str | int | None = None,
    limit: int | None = None,
    seed: int = 0,
    batch_size: int = 64,
    chunk: int | None = None,
    untrained: bool | nn.Module = False,
    command: str | None = None,
) -> GradientStudy:
    """Do all of :func:`gradients_by_length` but the measurement, so that its cost is known before.

    Args:
        model: As for :func:`gradients_by_length`.
        data: As for :func:`gradients_by_length`.
        method: As for :func:`gradients_by_length`.
        loss: As for :func:`gradients_by_length`.
        at: As for :func:`gradients_by_length`.
        samples: As for :func:`gradients_by_length`.
        norm: As for :func:`gradients_by_length`.
        batchnorm: As for :func:`gradients_by_length`.
        vectors: As for :func:`gradients_by_length`.
        groups: As for :func:`gradients_by_length`.
        tokenizer: As for :func:`gradients_by_length`.
        length: As for :func:`gradients_by_length`.
        output: As for :func:`gradients_by_length`.
        limit: As for :func:`gradients_by_length`.
        seed: As for :func:`gradients_by_length`.
        batch_size: As for :func:`gradients_by_length`.
        chunk: As for :func:`gradients_by_length`.
        untrained: As for :func:`gradients_by_length`.
        command: As for :func:`gradients_by_length`.

    Returns:
        The study, ready to run.

    Raises:
        MeasurementError: If an option has no such value, or the net has no gradients by path.
    """
    names = [method] if isinstance(method, str) else list(method)
    unknown = [name for name in names if name not in (*_METHODS, "all")]
    if unknown or not names:
        raise MeasurementError(
            f"There is no method {', '.join(map(repr, unknown)) or 'given'}; expected summed, "
            "energy, sampled, several of them, or all."
        )
    methods: tuple[Method, ...] = tuple(
        name for name in _METHODS if name in names or "all" in names
    )
    _check_numbers(samples=samples, vectors=vectors, batch_size=batch_size, chunk=chunk or 1)
    if groups is not None and groups < FEWEST_GROUPS:
        raise MeasurementError(
            f"The energy was asked for in {groups} groups; expected at least {FEWEST_GROUPS}, so "
            "that its error can be told from them."
        )
    if groups is not None and groups > _MOST_GROUPS:
        raise MeasurementError(
            f"The energy was asked for in {groups:,} groups; expected at most {_MOST_GROUPS:,}."
        )
    norm = _checked_norm(norm, batchnorm, methods)
    if at != "input" and not isinstance(at, int):
        raise MeasurementError(
            f"The gradient cannot be taken at {at!r}; expected the index of a block, or 'input'."
        )
    place = None if at == "input" else at
    subject, loss = gradient_subject(
        model, data, loss, limit=limit, seed=seed, tokenizer=tokenizer, length=length,
        output=output, batch_size=batch_size,
    )  # fmt: skip
    if batchnorm == "training":
        portions = ((with_batch_statistics(chain), part) for chain, part in subject.portions)
        subject = replace(subject, portions=tuple(portions))
    device = subject.device
    measurement = Measurement(
        chain=subject.chain,
        settings=GradientSettings(
            methods=methods,
            at="input" if place is None else f"block {place}",
            loss=loss_name(loss),
            vectors=vectors,
            groups=groups,
            samples=samples,
            norm=norm,
            unit=subject.data.unit,
            batchnorm=batchnorm,
        ),
        loss=loss,
        at=place,
        seed=seed,
        batch_size=batch_size,
        chunk=chunk or (1 if device.type == "cpu" else 16),
        device=device,
    )
    study = _rehearsed(subject, measurement, command)
    if untrained is False:
        return study
    fresh, how = _untrained(untrained, model, subject, measurement)
    beside = prepare_gradients(
        fresh,
        subject.data,
        method=methods,
        loss=loss,
        at=at,
        samples=samples,
        norm=norm,
        batchnorm=batchnorm,
        vectors=vectors,
        groups=groups,
        seed=seed,
        batch_size=batch_size,
        chunk=chunk,
        command=command,
    )
    described = {
        **beside.subject.model,
        "name": f"{subject.model['name']}, untrained",
        "untrained": how,
    }
    named = replace(beside.subject, model=described)
    return replace(study, untrained=replace(beside, subject=named))


def _untrained(
    given: bool | nn.Module,
    model: nn.Module | Chain | Checkpoint,
    subject: Subject,
    measurement: Measurement,
) -> tuple[nn.Module, str]:
    """The net before training, and how it was come by."""
    if isinstance(given, nn.Module):
        return given, "as it was given"
    batch = next(iter(subject.portions[0][1].data.batches(measurement.batch_size)))
    inputs, _ = next(pieces(*batch, measurement.batch_size))
    inputs = placed(inputs, measurement.device)
    return untrained_net(model, subject.chain, inputs, measurement.seed)


def _rehearsed(subject: Subject, measurement: Measurement, command: str | None) -> GradientStudy:
    """Refuse what cannot be measured, time a little of it, and fix the number of groups."""
    settings, size = measurement.settings, measurement.batch_size
    if "energy" in settings.methods:
        size = max(1, size // settings.vectors)
    batch = next(iter(subject.portions[0][1].data.batches(size)))
    # A loader has batches of its own.
    inputs, labels = next(pieces(*batch, size))
    examples = examples_in(inputs)
    refuse_random_blocks(measurement.chain, placed(inputs, measurement.device))
    every = range(measurement.blocks)
    traced = measurement.traced(inputs, labels)
    # Once before the clock starts, since the first time also loads and allocates.
    path_gradients(traced, [every])
    started, done = time.perf_counter(), traced.branch_vjps
    squares(path_gradients(traced, [every])).sum().item()
    vjps = (traced.branch_vjps - done) * examples
    seconds = (time.perf_counter() - started) / max(vjps, 1)
    if "energy" not in settings.methods:
        settings = replace(settings, groups=None)
    elif settings.groups is None:
        pilot = measurement.energies(
            inputs, labels, FEWEST_GROUPS, measurement.generator("pilot"), lambda amount: None
        )
        groups = enough_groups(pilot / examples, len(subject.data), examples)
        settings = replace(settings, groups=groups)
    return GradientStudy(subject, replace(measurement, settings=settings), seconds, command)


def _checked_norm(
    norm: Norm | None, batchnorm: BatchNorm, methods: Sequence[str]
) -> Literal["example", "batch"]:
    """Say of what norms are, unless that does not fit what is measured."""
    if norm not in (None, "example", "batch"):
        raise MeasurementError(f"There is no norm per {norm!r}; expected 'example' or 'batch'.")
    if batchnorm not in ("evaluation", "training"):
        raise MeasurementError(
            f"There is no batchnorm {batchnorm!r}; expected 'evaluation' or 'training'."
        )
    if batchnorm == "evaluation":
        return norm or "example"
    if norm == "example":
        raise MeasurementError(
            "With the batch's statistics in BatchNorm the examples of a batch act on each other, "
            "so that none has a gradient of its own; leave norm at 'batch'."
        )
    if "energy" in methods:
        raise MeasurementError(
            "The energy mixes each example by itself, but with the batch's statistics in BatchNorm "
            "examples act on each other; choose summed, sampled, or both."
        )
    return "batch"


def _check_numbers(**numbers: int) -> None:
    for name, number in numbers.items():
        if number < 1:
            raise MeasurementError(f"{name} is {number}; expected at least 1.")
