"""The engine is timed against the model's own blocks, on the same evaluations."""

from __future__ import annotations

import engine_overhead
import pytest
import torch
from torchvision.models import VisionTransformer

from cases import error, images, small
from ensemble_view import Block, Chain, Compose, Delete, Engine, Swap, edited, unravel
from ensemble_view.bench.overhead import overhead
from ensemble_view.core.plan import bind
from ensemble_view.errors import MeasurementError
from layers import wake
from nets import RootLoop
from state import unchanged


class Counting(torch.nn.Module):
    """Two blocks that count their calls, write over their input, and take a keyword."""

    class Layer(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.linear, self.calls, self.inputs = torch.nn.Linear(4, 4), 0, []

        def forward(self, x, *, scale):
            self.calls += 1
            self.inputs.append(x.clone())
            branch = self.linear(x) * scale
            x += branch
            return x

    def __init__(self):
        super().__init__()
        self.stem, self.head = torch.nn.Linear(3, 4), torch.nn.Linear(4, 2)
        self.layers = torch.nn.ModuleList(self.Layer() for _ in range(2))

    def forward(self, *, rows, scale):
        x = self.stem(rows)
        for layer in self.layers:
            x = layer(x, scale=scale)
        return self.head(x)


def test_each_block_is_called_as_often_as_the_engine_evaluates_it_and_with_its_own_input():
    model = wake(Counting().double()).train()
    rows = torch.randn(6, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    example = {"rows": rows, "scale": torch.full((6, 1), 0.5, dtype=torch.float64)}
    chain = unravel(model, example)
    for layer in model.layers:
        layer.calls, layer.inputs = 0, []
    with unchanged(model):
        found = overhead(chain, example, [Compose(), Delete(0), Delete(1)], rounds=2)
    # Block 0 is kept once for the first and the last plan; block 1 once more after a deletion.
    assert found.block_evaluations == 1 + 2
    assert (found.plans, found.batch_size, found.left_out) == (3, 6, ())
    # One warm-up, two rounds; what the recording call counted is taken back with all else.
    assert [layer.calls for layer in model.layers] == [1 + 2 * 1, 1 + 2 * 2]
    for layer in model.layers:
        assert all(torch.equal(value, layer.inputs[0]) for value in layer.inputs)
    assert len(found.ratios) == 2
    assert min(found.ratios) <= found.ratio <= max(found.ratios)
    assert 0 < found.blocks < found.walk
    text = repr(found)
    assert "3 plans, 3 block evaluations, batches of 6" in text
    assert max(map(len, text.splitlines())) <= 80


def test_both_layouts_are_tried_on_images_and_a_moved_block_counts_where_it_is():
    model = small()
    chain = unravel(model, images())
    with unchanged(model):
        found = overhead(chain, images(), rounds=1)
    assert found.layout in ("contiguous_format", "channels_last")
    assert found.block_evaluations == 6
    layers = wake(RootLoop())
    moved = unravel(layers, images())
    with pytest.raises(MeasurementError, match=r"^No block of RootLoop is a module of its own"):
        overhead(moved, images(), [Swap(0, 1)])


def test_layers_that_read_one_size_are_modules_of_their_own():
    """The size is computed in the first layer's code, and in each layer's when it runs alone."""
    layers = {"num_layers": 3, "num_heads": 2, "hidden_dim": 8, "mlp_dim": 16}
    model = wake(VisionTransformer(8, 4, **layers).double())
    batch = images()
    chain = unravel(model, batch)
    names = [f"encoder.layers.encoder_layer_{index}" for index in range(3)]
    assert [block.module for block in chain.provenance.blocks] == names
    plan = bind(Swap(0, 2), chain.outline)
    ((_, engine),) = Engine(chain, [plan]).logits(batch)
    with torch.no_grad():
        full = model(batch)
        with edited(chain, Swap(0, 2)):
            hooks = model(batch)
    assert error(engine, hooks) <= 1e-10
    assert error(hooks, full) >= 1e-3


def test_a_chain_from_parts_has_no_eager_blocks():
    chain = Chain.from_parts(lambda x: x, [Block(0, "F")], lambda x: x)
    with pytest.raises(MeasurementError, match=r"^No model stands behind this chain"):
        overhead(chain, torch.ones(2, 3))


def test_the_committed_command_writes_its_summary(tmp_path):
    pytest.importorskip("transformers", reason="needs the extra transformers")
    models = {"GPT-2 of two layers": lambda batch: engine_overhead.language_model(batch, 2, 8)}
    found = engine_overhead.run(tmp_path, models, batch=2, rounds=1)
    (figures,) = found.values()
    # Two layers: the full net, its first (also its middle) and its last layer deleted.
    assert figures.block_evaluations == 2 + 1
    text = (tmp_path / "summary.md").read_text()
    assert f"| GPT-2 of two layers | 3 | {figures.eager:.2f} (contiguous_format) |" in text
    assert "seed 0" in text
    assert torch.__version__ in text
