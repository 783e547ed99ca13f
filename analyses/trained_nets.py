"""The scales that the analyses run at, and the nets trained for them, each once.

Analyses that need nets of several seeds ask `Scale.net` for them. Each is trained at most once and
kept as a checkpoint in a folder that is not committed (``analyses/.nets``), so that analyses share
their nets, and a run that was stopped goes on with the nets that are missing. The record of the
training, the errors of every epoch included, is in the checkpoint.

    python analyses/trained_nets.py ARCHITECTURE [ARCHITECTURE ...] [OPTION ...]

trains nets beforehand, for example ``resnet20 "resnet56,survival=50" --seeds 0 1``; several such
commands may run side by side. Options are those of every analysis, see `scale_options`.
"""

from __future__ import annotations

import argparse
import io
import itertools
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import ensemble_view
from ensemble_view import Checkpoint, EnsembleViewError
from ensemble_view.data.labelled_data import IndexedData
from ensemble_view.data.opening import as_data
from ensemble_view.training.presets import PRESETS
from ensemble_view.training.recipe import Recipe, TrainingError
from ensemble_view.training.state import kept_path
from ensemble_view.training.training import channel_statistics, train

NETS = Path(__file__).with_name(".nets")
SCALES = ("digits", "cifar10", "cifar10-fast")
RECIPES = {
    "digits": Recipe(epochs=30, batch_size=64),
    "cifar10": PRESETS["he"],
    "cifar10-fast": replace(PRESETS["fast"], epochs=10, warmup_epochs=2.0, precision="bfloat16"),
}
"""Down along a cosine after five epochs of warm-up; He et al. 2015; ten epochs for a CPU."""
SEEDS = {"digits": (0, 1, 2, 3, 4), "cifar10": (0, 1, 2, 3, 4), "cifar10-fast": (0,)}


@dataclass(frozen=True)
class Scale:
    """Data, recipe and seeds that nets are trained with.

    Args:
        name: "digits", "cifar10" (the paper's own setting, for a GPU) or "cifar10-fast".
        train: Images to learn from.
        test: Images to measure on.
        recipe: How all nets are trained, but for the seed.
        seeds: One net of each architecture per seed.
        folder: Where trained nets are kept.
        device: Where to train.
        epochs: Of the recipe, if they are not what the scale's name says.
    """

    name: str
    train: IndexedData
    test: IndexedData
    recipe: Recipe
    seeds: tuple[int, ...]
    folder: Path = NETS
    device: str = "cpu"
    epochs: int | None = None

    @property
    def words(self) -> str:
        """How the nets were trained, for a summary: data, recipe and seeds."""
        recipe = self.recipe
        falls = {
            "cosine": "down to zero along a cosine",
            "linear": "down to zero along a line",
            "steps": "a tenth after half and again after three quarters",
        }[recipe.schedule]
        return (
            f"Trained on {len(self.train):,} images of {self.train.name}, tested on "
            f"{len(self.test):,}; {recipe.epochs} epochs in batches of {recipe.batch_size}, "
            f"learning rate {recipe.learning_rate} after {recipe.warmup_epochs:g} epochs of "
            f"warm-up, {falls}; one recipe for all nets, chosen for none. "
            f"Seeds {', '.join(map(str, self.seeds))}."
        )

    def path(self, architecture: str, seed: int) -> Path:
        """Return where a net is kept."""
        folder = self.name if self.epochs is None else f"{self.name}-{self.epochs}-epochs"
        return self.folder / folder / f"{architecture}-seed{seed}.safetensors"

    def net(self, architecture: str, seed: int) -> Checkpoint:
        """Return a trained net, from the folder or trained now.

        Args:
            architecture: For example "resnet20" or "resnet56,survival=50".
            seed: Seed of its training.

        Returns:
            The net, with its test data and the record of its training.

        Raises:
            EnsembleViewError: If the folder's net was trained otherwise.
        """
        path = self.path(architecture, seed)
        if path.exists():
            return self._checked(ensemble_view.load_checkpoint(path))
        return self._trained(path, architecture, seed, keep=())

    def nets_of_training(
        self, architecture: str, seed: int, epochs: Sequence[int]
    ) -> dict[int, Path]:
        """Return the nets as they were after some epochs of one training.

        Args:
            architecture: For example "resnet20".
            seed: Seed of its training.
            epochs: Epochs done; 0 is the untrained net.

        Returns:
            From epochs done to the checkpoint's path.
        """
        path = self.path(architecture, seed)
        kept = {epoch: kept_path(path, epoch) for epoch in epochs}
        if not all(file.exists() for file in kept.values()):
            self._trained(path, architecture, seed, keep=epochs)
        for file in kept.values():
            self._checked(ensemble_view.load_checkpoint(file))
        return kept

    def _trained(
        self, path: Path, architecture: str, seed: int, keep: Collection[int]
    ) -> Checkpoint:
        path.parent.mkdir(parents=True, exist_ok=True)
        recipe = replace(self.recipe, seed=seed)
        made = train(
            architecture,
            self.train,
            self.test,
            recipe=recipe,
            device=self.device,
            checkpoint_path=path,
            keep=keep,
            overwrite=True,
        )
        print(f"{architecture}, seed {seed}: test error {error(made):.2%}", flush=True)
        return made

    def _checked(self, made: Checkpoint) -> Checkpoint:
        record = made.training or {}
        recipe = {**asdict(self.recipe), "seed": record.get("recipe", {}).get("seed")}
        expected = (recipe, self.train.fingerprint(), self.test.fingerprint(), False)
        found = tuple(
            record.get(key)
            for key in ("recipe", "train_fingerprint", "test_fingerprint", "interrupted")
        )
        if found != expected:
            raise EnsembleViewError(
                f"{made.path} was trained otherwise, on other data, or not to its end: expected "
                f"the recipe of the scale {self.name}; delete it, or choose another folder."
            )
        return made


def error(made: Checkpoint) -> float:
    """Return the share of the test images that a trained net named wrongly.

    Args:
        made: As `Scale.net` gave it.

    Returns:
        Its test error after the last epoch.
    """
    return 1.0 - float((made.training or {})["test_accuracy"])


def training_error(scale: Scale, made: Checkpoint) -> float:
    """Return the share of the training images, as they are, that a trained net names wrongly.

    Args:
        scale: What it was trained at.
        made: As `Scale.net` gave it.

    Returns:
        Its training error in evaluation.
    """
    with torch.no_grad():
        wrong = [
            int((made.model(inputs).argmax(1) != labels).sum())
            for inputs, labels in scale.train.batches(256)
        ]
    return sum(wrong) / len(scale.train)


def folder_of(file: str, scale: Scale) -> Path:
    """Return where an analysis writes at a scale.

    Args:
        file: The analysis's own ``__file__``.
        scale: What it runs at.

    Returns:
        The folder of its name; within it one per scale, but for the digits, and one per number of
        epochs, but for the recipe's own.

    Example:
        >>> from types import SimpleNamespace
        >>> scale = SimpleNamespace(name="cifar10", epochs=None)
        >>> folder_of("analyses/shortcuts.py", scale).as_posix()
        'analyses/shortcuts/cifar10'
    """
    folder = Path(file).with_suffix("")
    folder = folder if scale.name == "digits" else folder / scale.name
    return folder / f"{scale.epochs}-epochs" if scale.epochs else folder


def command_of(file: str, scale: Scale) -> str:
    """Return the command that runs an analysis at a scale.

    Args:
        file: The analysis's own ``__file__``.
        scale: What it runs at.

    Returns:
        For a summary.

    Example:
        >>> from types import SimpleNamespace
        >>> command_of("analyses/shortcuts.py", SimpleNamespace(name="cifar10", epochs=None))
        'python analyses/shortcuts.py --scale cifar10'
    """
    words = [f"python analyses/{Path(file).name}"]
    words += [] if scale.name == "digits" else [f"--scale {scale.name}"]
    words += [f"--epochs {scale.epochs}"] if scale.epochs else []
    return " ".join(words)


def scale_options(description: str | None) -> argparse.ArgumentParser:
    """Return the options that say at what scale an analysis runs.

    Args:
        description: The analysis's docstring.

    Returns:
        A parser with ``--scale``, ``--seeds``, ``--train`` and ``--test`` (`.npz` files instead of
        torchvision's CIFAR-10), ``--device`` and ``--epochs``.
    """
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scale", choices=SCALES, default="digits")
    parser.add_argument("--seeds", type=int, nargs="+")
    parser.add_argument("--train", type=Path, help="CIFAR-10's training images as .npz")
    parser.add_argument("--test", type=Path, help="CIFAR-10's test images as .npz")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--epochs", type=int, help="train for so many epochs instead")
    return parser


def chosen_scale(options: argparse.Namespace) -> Scale:
    """Open the data of a scale.

    Args:
        options: As `scale_options` read them.

    Returns:
        The scale, with the recipe and seeds of its name unless seeds are given.
    """
    # Weights and times shall not depend on how many cores there are.
    torch.set_num_threads(1)
    name = options.scale
    if name == "digits":
        train_data, test_data = (ensemble_view.open_data(name, split=s) for s in ("train", "test"))
    else:
        train_data = _cifar(options.train, "train")
        test_data = _cifar(options.test, "test")
    normalisation = channel_statistics(train_data)
    recipe = RECIPES[name]
    if options.epochs:
        recipe = replace(recipe, epochs=options.epochs)
    return Scale(
        name,
        train_data.with_normalisation(*normalisation),
        test_data.with_normalisation(*normalisation),
        recipe,
        tuple(options.seeds) if options.seeds else SEEDS[name],
        device=options.device,
        epochs=options.epochs,
    )


def _cifar(path: Path | None, split: str) -> IndexedData:
    """Open CIFAR-10: torchvision's, or a file with `images`, or with JPEG files one by one."""
    if path is None:
        return ensemble_view.open_data("cifar10", split=split, download=True)
    with np.load(path, allow_pickle=False) as arrays:
        if "jpeg" not in arrays:
            return ensemble_view.open_data(path)
        stored, offsets, labels = arrays["jpeg"], arrays["offsets"], arrays["labels"]
    files = (stored[start:end] for start, end in itertools.pairwise(offsets))
    images = np.stack([np.array(Image.open(io.BytesIO(file.tobytes()))) for file in files])
    data = as_data((images, labels), name=path.stem)
    assert isinstance(data, IndexedData)
    return data


if __name__ == "__main__":
    parser = scale_options(__doc__)
    parser.add_argument("architectures", nargs="+", metavar="ARCHITECTURE")
    parser.add_argument(
        "--keep", type=int, nargs="+", metavar="EPOCH", help="keep the nets after these epochs, too"
    )
    options = parser.parse_args()
    scale = chosen_scale(options)
    for seed, architecture in itertools.product(scale.seeds, options.architectures):
        try:
            if options.keep:
                scale.nets_of_training(architecture, seed, options.keep)
            else:
                scale.net(architecture, seed)
        except TrainingError as diverged:
            # What comes of that is for the analysis to say.
            print(f"{architecture}, seed {seed}: {diverged}", flush=True)
