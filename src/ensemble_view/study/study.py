"""What a study is: options as a value, prepared on a model and data, priced, run, and a result.

    study = PairsStudy(only="0-8")          a value: the options, nothing else
    prepared = study.prepare(model, data)   chain and plans; str(prepared) says what they cost
    result = prepared.run()                 outcomes, from one place, and what follows from them
    result.frame, result.summary, result.plot(), result.save(folder)

Whoever adds a study writes these three and registers the first
(:func:`ensemble_view.study.registry.register`); the command line, the files and
:func:`ensemble_view.load` follow from it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, Protocol, Self, TypeVar, Unpack

from ensemble_view.data.data import Data
from ensemble_view.study.experiment import Experiment, Options
from ensemble_view.study.registry import study_named
from ensemble_view.study.result import StudyResult
from ensemble_view.study.run import Run

__all__ = [
    "Argument",
    "Option",
    "Prepared",
    "PreparedExperiment",
    "PricedExperiment",
    "Study",
    "function_of",
    "prepare",
]

ResultT = TypeVar("ResultT", bound=StudyResult)
ResultT_co = TypeVar("ResultT_co", bound=StudyResult, covariant=True)


@dataclass(frozen=True)
class Option:
    """What the command line says of a field of a study; fields without one are for Python alone.

    Attributes:
        help: a sentence or two.
        flag: how it is written, where that does not follow from the field's name.
        kind: what the command line reads, where it is not the field's type.
        least: the smallest number allowed.
        metavar: what stands for the value.
    """

    help: str
    flag: str | None = None
    kind: Any = None
    least: int | None = None
    metavar: str | None = None


@dataclass(frozen=True)
class Argument:
    """What the command line says of a field that stands before the model, without a flag.

    Attributes:
        help: a sentence or two.
        metavar: what stands for the value.
    """

    help: str
    metavar: str


class Prepared(Protocol[ResultT_co]):
    """A study on a model and data: its cost is known, and it has not run yet. ``str`` says both."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader needs before the numbers."""

    @property
    def work(self) -> int:
        """The total of what ``progress`` is told."""

    def run(self, progress: Callable[[int], None] | None = None) -> ResultT_co:
        """Measure."""


class Study(ABC, Generic[ResultT_co]):
    """A frozen dataclass of the options that are a study's own.

    Class attributes:
        name: the verb of the command line, and what the files of its results are called.
        unit: what the progress bar counts.
        help: what ``--help`` says.
    """

    name: ClassVar[str]
    unit: ClassVar[str]
    help: ClassVar[str]

    def opened(self, training: Callable[[str | None], Data]) -> Self:
        """Put data in the place of the names of data among the options.

        Args:
            training: Opens the training split by name; of None, of the data that are measured.

        Returns:
            The study itself, where it names no data.
        """
        return self

    @abstractmethod
    def prepare(self, model: Any, data: Any, **options: Unpack[Options]) -> Prepared[ResultT_co]:
        """Choose the plans for a model and data, and find out what running them will cost.

        Args:
            model: A module, a chain, or a loaded checkpoint.
            data: As for :func:`ensemble_view.lesion`.
            **options: Those that all studies share.

        Returns:
            Ready to run.
        """


@dataclass(frozen=True, eq=False)
class PricedExperiment:
    """What every study that is an experiment has: interventions on a subject, and their cost.

    Args:
        experiment: The full net, then what is done to it.
    """

    experiment: Experiment

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader needs before the numbers."""
        return self.experiment.subject.notes

    @property
    def work(self) -> int:
        """Block evaluations times examples: the total of what ``progress`` is told."""
        return self.experiment.work


@dataclass(frozen=True, eq=False)
class PreparedExperiment(PricedExperiment, ABC, Generic[ResultT]):
    """A study whose result follows from the outcomes of its experiment, which are kept whole."""

    @abstractmethod
    def result(self, run: Run) -> ResultT:
        """Say what follows from the outcomes.

        Args:
            run: Of the experiment.

        Returns:
            The result.
        """

    def run(self, progress: Callable[[int], None] | None = None) -> ResultT:
        """Measure.

        Args:
            progress: Told of the block evaluations done, times examples.

        Returns:
            The result; of the examples done so far, if the user interrupted.
        """
        return self.result(self.experiment.run(progress))


def prepare(
    study: type[Study[ResultT_co]], model: Any, data: Any, **options: Any
) -> Prepared[ResultT_co]:
    """Prepare a study whose own options stand among those that all studies share.

    Args:
        study: The class.
        model: A module, a chain, or a loaded checkpoint.
        data: As for :func:`ensemble_view.lesion`.
        **options: Fields of the study, and options of all studies.

    Returns:
        Ready to run.

    Example:
        >>> import torch
        >>> from ensemble_view.nets.models.building import build
        >>> import ensemble_view.studies
        >>> from ensemble_view.study.registry import study_named
        >>> examples = torch.randn(8, 3, 8, 8), torch.arange(8)
        >>> ready = prepare(study_named("pairs"), build("resnet8,width=4").eval(), examples,
        ...                 only="0,2", batch_size=8)
        >>> ready.run().frame["drop"].count()
        np.int64(1)
    """
    fields = study.__dataclass_fields__  # type: ignore[attr-defined]
    own = {name: value for name, value in options.items() if name in fields}
    shared: Any = {name: value for name, value in options.items() if name not in own}
    return study(**own).prepare(model, data, **shared)


def function_of(name: str) -> Callable[..., Any]:
    """Give a study as a function, for those that were registered from outside.

    Args:
        name: The study's verb.

    Returns:
        A function of a model, data, the study's own options, those of all studies and ``progress``.

    Example:
        >>> import ensemble_view.studies
        >>> function_of("pairs").__name__
        'pairs'
    """
    study = study_named(name)

    def measure(
        model: Any, data: Any, *, progress: Callable[[int], None] | None = None, **options: Any
    ) -> Any:
        return prepare(study, model, data, **options).run(progress)

    measure.__name__ = measure.__qualname__ = name
    measure.__doc__ = study.__doc__
    return measure
