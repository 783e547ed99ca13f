"""Valid files of models in the formats of others, and of trainings that were stopped."""

from __future__ import annotations

import io
import pickle
import struct
import tarfile
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ensemble_view.data.opening import open_data
from ensemble_view.training.recipe import Recipe
from ensemble_view.training.state import resume_path
from ensemble_view.training.training import Progress, train

GPT2: dict[str, Any] = {
    "n_layer": 2, "n_head": 2, "n_embd": 8, "vocab_size": 20, "n_positions": 16,
    "bos_token_id": 0, "eos_token_id": 0,
}  # fmt: skip
RESNET: dict[str, Any] = {
    "embedding_size": 4, "hidden_sizes": [4, 8], "depths": [1, 1], "layer_type": "basic",
    "num_labels": 3, "image_size": 16,
}  # fmt: skip
RECIPE = Recipe(epochs=2, batch_size=16, seed=0)
TRAINED = "resnet8,width=2"


class Residual(nn.Module):
    """The smallest net with a shortcut that an export can be made of."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.second = nn.Linear(4, 4)

    def forward(self, inputs: Tensor) -> Tensor:
        inputs = inputs + self.first(inputs).relu()
        return inputs + self.second(inputs).relu()


def transformers_folders(folder: Path) -> list[Path]:
    """Save a language model with its tokenizer and a classifier with its processor.

    Args:
        folder: Where to.

    Returns:
        Their folders.
    """
    import tokenizers
    import transformers

    torch.manual_seed(0)
    text, images = folder / "gpt2", folder / "resnet"
    transformers.GPT2LMHeadModel(transformers.GPT2Config(**GPT2)).save_pretrained(text)
    known = {"[UNK]": 0, "to": 1, "be": 2, "or": 3, "not": 4}
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel(known, unk_token="[UNK]"))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="[UNK]"
    ).save_pretrained(str(text))
    kind = transformers.ResNetForImageClassification
    kind(transformers.ResNetConfig(**RESNET)).save_pretrained(images)
    transformers.ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained(images)
    return [text, images]


def exported(folder: Path) -> bytes:
    """Export a small program.

    Args:
        folder: For the file.

    Returns:
        What ``torch.export.save`` wrote.
    """
    path = folder / "exported.pt2"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(
            Residual().eval(), (torch.ones(2, 4),), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},)
        )
        torch.export.save(program, path)
    return path.read_bytes()


def tar_checkpoint(weights: dict[str, Tensor]) -> bytes:
    """Write weights as PyTorch did before version 0.1.10: a tar archive of four files.

    Args:
        weights: Names and tensors of one type.

    Returns:
        The archive.
    """
    storages, tensors = io.BytesIO(), io.BytesIO()
    pickle.dump(len(weights), storages, protocol=2)
    pickle.dump(len(weights), tensors, protocol=2)
    named = {}
    for key, (name, value) in enumerate(weights.items(), start=1):
        flat = value.float().contiguous()
        pickle.dump((key, "cpu", torch.FloatStorage), storages, protocol=2)
        storages.write(struct.pack("<q", flat.numel()) + flat.numpy().tobytes())
        pickle.dump((1000 + key, key, "torch.FloatTensor"), tensors, protocol=2)
        sizes = [*flat.shape, *flat.stride()]
        tensors.write(struct.pack(f"<i4x{len(sizes)}qq", flat.ndim, *sizes, 0))
        named[name] = Persistent(1000 + key)
    pickle.dump([], storages, protocol=2)
    content = io.BytesIO()
    whole = _Pickler(content, protocol=2)
    whole.dump(named)
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        files = {
            "sys_info": pickle.dumps({"protocol_version": 1000, "little_endian": True}, 2),
            "pickle": content.getvalue(),
            "tensors": tensors.getvalue(),
            "storages": storages.getvalue(),
        }
        for name, part in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(part)
            archive.addfile(member, io.BytesIO(part))
    return out.getvalue()


class Persistent:
    """Stands for a tensor that lies elsewhere in the archive."""

    def __init__(self, number: int) -> None:
        self.number = number


class _Pickler(pickle.Pickler):
    def persistent_id(self, value: Any) -> Any:
        return value.number if isinstance(value, Persistent) else None


def stopped_training(folder: Path) -> bytes:
    """Stop a training after its first epoch.

    Args:
        folder: For the files.

    Returns:
        The state that ``train --resume`` goes on from.
    """
    path = folder / "stopped.safetensors"

    def stop(told: Progress) -> None:
        if told.epoch == 1:
            raise KeyboardInterrupt

    resumed(path, resume=False, progress=stop)
    return resume_path(path).read_bytes()


def resumed(path: Path, *, resume: bool = True, progress: Any = None) -> None:
    """Train, or go on with a training.

    Args:
        path: Where the net goes.
        resume: Whether there is one to go on with.
        progress: Told of each epoch.
    """
    data = open_data("digits", limit=32)
    train(TRAINED, data, recipe=RECIPE, checkpoint_path=path, resume=resume, progress=progress)
