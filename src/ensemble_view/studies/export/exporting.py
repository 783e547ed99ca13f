"""Save what a plan leaves of a net, in a file that says how to build it again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from ensemble_view.core.alteration import branch_means
from ensemble_view.core.interventions.base import Compose, Intervention
from ensemble_view.core.interventions.parsing import parse_interventions
from ensemble_view.core.plan import bind
from ensemble_view.data.data import Data
from ensemble_view.discovery.granularity import Granularity
from ensemble_view.discovery.unravelling import unravel
from ensemble_view.edits.extracted_files import Extraction
from ensemble_view.errors import CheckpointError, InterventionError, MeasurementError
from ensemble_view.nets.adapters.architectures import architecture_to_store
from ensemble_view.nets.checkpoints import Checkpoint, save_checkpoint
from ensemble_view.nets.models.architecture import ArchitectureError
from ensemble_view.nets.weights_file import check_destination
from ensemble_view.study.subject import examine

__all__ = ["Exported", "export", "needs_data"]


@dataclass(frozen=True)
class Exported:
    """What was saved.

    Args:
        path: The file.
        name: Of the model.
        plan: What was done, as it prints.
        blocks: Of the whole net.
        left: Branches that are still computed.
        parameters: Numbers in the whole net, and in what is left.
        own_class: Name of the model's class where that, with fewer blocks, is what is left.
    """

    path: Path
    name: str
    plan: str
    blocks: int
    left: int
    parameters: tuple[int, int]
    own_class: str | None

    def __str__(self) -> str:
        before, after = self.parameters
        loads = (
            f"The weights load in {self.own_class}, built with fewer blocks, as well."
            if self.own_class is not None
            else "What is left is no net of its own class, so ensemble_view alone builds it again."
        )
        return (
            f"{self.name}, {self.plan}: {self.left} of {self.blocks} branches, {after:,} of "
            f"{before:,} parameters ({after / before:.1%}); saved to {self.path}. {loads}"
        )


def needs_data(intervention: Intervention | str) -> bool:
    """Say whether data are needed to carry out interventions: for the mean of a branch they are.

    Args:
        intervention: As values, or as on the command line.

    Returns:
        Whether a branch is replaced by its mean.

    Example:
        >>> needs_data("delete 3; replace 5 mean"), needs_data("delete 3")
        (True, False)
    """
    do = parse_interventions(intervention) if isinstance(intervention, str) else intervention
    parts = do.parts if isinstance(do, Compose) else (do,)
    return any(getattr(part, "value", None) == "mean" for part in parts)


def export(
    checkpoint: Checkpoint,
    intervention: Intervention | str,
    path: str | Path,
    *,
    data: Data | None = None,
    plain: bool = False,
    granularity: Granularity = "block",
    overwrite: bool = False,
    progress: Callable[[str], None] | None = None,
) -> Exported:
    """Extract what interventions leave of a net and save it, with how it is built again.

    :func:`ensemble_view.load_checkpoint` and the commands open the file without further options.

    Args:
        checkpoint: The net, of an architecture that can be built by name.
        intervention: What to do, as values or as on the command line.
        path: Where to; ``.safetensors``, ``.pt``, ``.pth`` or ``.th``.
        data: For branches that are replaced by their mean over data.
        plain: Take a net without shortcuts apart into its conv-norm-activation units.
        granularity: ``block`` or ``branch``, as for :func:`ensemble_view.unravel`.
        overwrite: Whether a file that is there, such as the net's own, may be replaced.
        progress: Told the name of each stage as it begins.

    Returns:
        What was saved.

    Raises:
        CheckpointError: If the net cannot be built again by name, or the file not be written.
        InterventionError: If nothing would be changed, or no branch be left.
        MeasurementError: If a mean is needed and no data are given.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> from ensemble_view import Delete, load_checkpoint
        >>> with TemporaryDirectory() as folder:
        ...     file = Path(folder) / "smaller.safetensors"
        ...     saved = export(load_checkpoint("digits-resnet110"), Delete("layer2.[1-9]"), file)
        ...     saved.left, load_checkpoint(file).architecture
        (45, 'cifar:resnet110 after delete layer2.[1-9]')
    """
    path = Path(path)
    check_destination(path, overwrite=overwrite)
    do = parse_interventions(intervention) if isinstance(intervention, str) else intervention
    if checkpoint.lesion is not None:
        raise CheckpointError(
            f"The net is what an export left already ({checkpoint.lesion}); export the net that "
            "it was made from, with all interventions in order."
        )
    try:
        architecture = architecture_to_store(checkpoint.architecture, checkpoint.model)
    except ArchitectureError as error:
        raise CheckpointError(str(error)) from error
    if data is None:
        example = checkpoint.example()
        chain = unravel(
            checkpoint.model, example, plain=plain, granularity=granularity,
            output=checkpoint.output, progress=progress,
        )  # fmt: skip
    else:
        subject = examine(checkpoint, data, plain=plain, granularity=granularity, progress=progress)
        if len(subject.portions) > 1:
            raise MeasurementError(
                f"The data come in {len(subject.portions)} lengths, and what is left of a net is "
                "for one; give data of one length."
            )
        chain, (example, _) = subject.chain, subject.sample
        data = subject.data
    plan = bind(do, chain.outline)
    if plan == bind(Compose(), chain.outline):
        raise InterventionError(
            f"{str(do)!r} changes nothing of this net's {len(chain)} blocks; say what to delete, "
            'such as --do "delete 3,7-9".'
        )
    if not plan.block_evaluations:
        raise InterventionError(
            f"{str(do)!r} leaves none of this net's {len(chain)} branches; keep at least one."
        )
    replaced = {step.index for step in plan.altered if step.treatment.branch == "mean"}
    if replaced and data is None:
        raise MeasurementError(
            f"{str(do)!r} replaces a branch by its mean over data, and no data are given; name "
            "them with --data."
        )
    means = branch_means(chain, data.batches(), replaced) if replaced and data is not None else {}
    description, net, stored = Extraction.of(
        chain, str(do), granularity=granularity, plain=plain, means=means
    )
    seen = tuple(example.shape[1:]) if isinstance(example, Tensor) and example.ndim == 4 else None
    save_checkpoint(
        path,
        net,
        architecture=architecture,
        normalisation=checkpoint.normalisation,
        normalisation_source=checkpoint.normalisation_source,
        inferred=checkpoint.inferred is not None,
        data=checkpoint.data,
        class_names=checkpoint.class_names,
        input_shape=checkpoint.input_shape or seen,
        training=checkpoint.training,
        extraction=description,
        weights=stored,
    )
    return Exported(
        path=path,
        name=checkpoint.path.stem if checkpoint.path is not None else checkpoint.architecture,
        plan=str(plan),
        blocks=len(chain),
        left=plan.block_evaluations,
        parameters=(_size(checkpoint.model), _size(net)),
        own_class=None if description.entries is None else type(net).__name__,
    )


def _size(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())
