"""The gradient that paths carry, by their length: summed, as energy, and path by path.

Forward activations are those of the full net; a path is a product of Jacobians (Veit, Wilber and
Belongie 2016, section 5). S, B and A are the Jacobians of a block's shortcut, its branch and what
follows its addition.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

import torch
from torch import Tensor

from ensemble_view.paths.trace import Trace, TracedBlock

__all__ = ["draw_energies", "path_gradients", "squares", "summed_gradients"]


def summed_gradients(trace: Trace, *, chunk: int = 1) -> list[Tensor]:
    """Sum the gradient over all paths of each length, exactly.

    One cotangent per length goes back: c'_k = Sᵀ Aᵀ c_k + Bᵀ Aᵀ c_{k-1}; n(n+1)/2 branch VJPs for
    all 2^n paths. The sum over k is the ordinary gradient.

    Args:
        trace: Of n blocks on B examples.
        chunk: So many lengths go through a block at once. Besides those, n + 1 cotangents are
            held, which is less than the trace itself holds.

    Returns:
        For each length from 0 to n the sum, of the shape of the place where it is taken, (B, ...).

    Example:
        >>> from ensemble_view import Block, Chain
        >>> from ensemble_view.paths.trace import trace
        >>> blocks = [Block(i, str(i), branch=lambda x, context: 3 * x) for i in range(2)]
        >>> chain = Chain.from_parts(lambda x: x, blocks, lambda x: x)
        >>> traced = trace(chain, torch.ones(1, 1), None, loss=lambda output, *_: output.sum(1))
        >>> [gradient.item() for gradient in summed_gradients(traced)], traced.branch_vjps
        ([1.0, 6.0, 9.0], 3)
    """
    cotangents = [trace.start]
    for block in reversed(trace.blocks):
        cotangents = _one_block(trace, block, cotangents, None, chunk)
    return trace.leave(cotangents)


def draw_energies(
    trace: Trace, generator: torch.Generator, *, vectors: int = 16, chunk: int = 1
) -> Tensor:
    """Draw an unbiased estimate of the energy Σ‖g_S‖² over the paths S of each length.

    ``vectors`` cotangents per length, as the columns of U_k, are mixed at every branch:
    U'_k = Sᵀ Aᵀ U_k + Bᵀ Aᵀ U_{k-1} O with O a Haar-random orthogonal matrix of its own for each
    block and example. Two paths part at some block, where the mean over O takes their product out:
    the expectation of ‖U_k‖² is the energy.

    Args:
        trace: Of n blocks on B examples.
        generator: On the CPU.
        vectors: Columns; more of them make the tails lighter. 1 means plain random signs.
        chunk: So many lengths go through a block at once.

    Returns:
        One draw, float64, (B, n + 1).

    Example:
        >>> from ensemble_view import Block, Chain
        >>> from ensemble_view.paths.trace import trace
        >>> blocks = [Block(0, "F", branch=lambda x, context: 3 * x)]
        >>> chain = Chain.from_parts(lambda x: x, blocks, lambda x: x)
        >>> traced = trace(chain, torch.ones(1, 1), None, loss=lambda output, *_: output.sum(1))
        >>> draw_energies(traced, torch.Generator().manual_seed(0)).round(decimals=5)
        tensor([[1., 9.]], dtype=torch.float64)
    """
    nothing = torch.zeros_like(trace.start)
    cotangents = [trace.start, *[nothing] * (vectors - 1)]
    for block in reversed(trace.blocks):
        rotations = _orthogonal(len(trace.start), vectors, generator).to(trace.start)
        cotangents = _one_block(trace, block, cotangents, rotations, chunk)
    found = squares(trace.leave(cotangents))
    return found.reshape(len(found), -1, vectors).sum(2)


def path_gradients(trace: Trace, paths: Sequence[Collection[int]]) -> list[Tensor]:
    """Take the gradient along single paths; a block that is skipped costs nothing.

    Args:
        trace: Of n blocks on B examples.
        paths: Each the positions, among the traced blocks, of those whose branch it takes.

    Returns:
        For each path its gradient, (B, ...).

    Example:
        >>> from ensemble_view import Block, Chain
        >>> from ensemble_view.paths.trace import trace
        >>> blocks = [Block(i, str(i), branch=lambda x, context: 3 * x) for i in range(2)]
        >>> chain = Chain.from_parts(lambda x: x, blocks, lambda x: x)
        >>> traced = trace(chain, torch.ones(1, 1), None, loss=lambda output, *_: output.sum(1))
        >>> [gradient.item() for gradient in path_gradients(traced, [(), (0,), (0, 1)])]
        [1.0, 3.0, 9.0]
    """
    cotangents = [trace.start] * len(paths)
    for position in reversed(range(len(trace.blocks))):
        block = trace.blocks[position]
        cotangents = trace.back(block.after, cotangents)
        taken = [index for index, path in enumerate(paths) if position in path]
        skipped = [index for index, path in enumerate(paths) if position not in path]
        through = trace.through(block, [cotangents[index] for index in taken])
        around = trace.back(block.shortcut, [cotangents[index] for index in skipped])
        for index, cotangent in zip([*taken, *skipped], [*through, *around], strict=True):
            cotangents[index] = cotangent
        cotangents = trace.back(block.link, trace.back(block.before, cotangents))
    return trace.leave(cotangents)


def squares(gradients: Iterable[Tensor]) -> Tensor:
    """Square the norm of each example's part of each gradient, in float64.

    Args:
        gradients: Each (B, ...).

    Returns:
        (B, gradients).

    Example:
        >>> squares([torch.tensor([[3.0, 4.0], [0.0, 1e-30]])])
        tensor([[2.5000e+01],
                [1.0000e-60]], dtype=torch.float64)
    """
    return torch.stack(
        [gradient.flatten(1).double().square().sum(1) for gradient in gradients], dim=1
    )


def _one_block(
    trace: Trace,
    block: TracedBlock,
    cotangents: list[Tensor],
    rotations: Tensor | None,
    chunk: int,
) -> list[Tensor]:
    """From cotangents at a block's output, used up, to those at its input, one length more."""
    width = 1 if rotations is None else rotations.shape[-1]
    found: list[Tensor] = []
    # What came through the branch waits for the shortcut's share of the next length.
    carried: list[Tensor] = []
    while cotangents:
        joined = trace.back(block.after, cotangents[: chunk * width])
        del cotangents[: chunk * width]
        around = trace.back(block.shortcut, joined)
        if not found and not carried:
            found, around = around[:width], around[width:]
        carried += _mixed(trace.through(block, joined), rotations)
        found += [first + second for first, second in zip(carried, around, strict=False)]
        del carried[: len(around)]
    return trace.back(block.link, trace.back(block.before, found + carried))


def _mixed(cotangents: list[Tensor], rotations: Tensor | None) -> list[Tensor]:
    if rotations is None:
        return cotangents
    width = rotations.shape[-1]
    found: list[Tensor] = []
    for start in range(0, len(cotangents), width):
        columns = torch.stack(cotangents[start : start + width])
        mixed = torch.einsum("ibd,bij->jbd", columns.flatten(2), rotations)
        found.extend(mixed.view_as(columns).unbind())
    return found


def _orthogonal(number: int, size: int, generator: torch.Generator) -> Tensor:
    """Haar-random orthogonal matrices: QR of Gaussian ones, the signs of R's diagonal made +."""
    gaussian = torch.randn(number, size, size, generator=generator, dtype=torch.float64)
    q, r = torch.linalg.qr(gaussian)
    found: Tensor = q * torch.diagonal(r, dim1=-2, dim2=-1).sign().unsqueeze(-2)
    return found
