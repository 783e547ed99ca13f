"""Chains that several test files need, found once."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from hypothesis import settings
from torch import Tensor, nn

from cases import CASES, Case, images
from ensemble_view import Chain, unravel
from ensemble_view.core.interventions.base import Intervention
from ensemble_view.core.plan import Plan, bind

# Scripts, which need extras; test_families.py imports what it needs.
collect_ignore = ["families"]

if "PYTEST_XDIST_WORKER" in os.environ:
    # Tests that run side by side share the cores, and so do the programs that they start.
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"

# The same examples on every machine, however slow it is.
settings.register_profile("repeatable", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("repeatable")


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What the tests keep between runs of a command is not the user's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@dataclass(frozen=True, eq=False)
class Prepared:
    """A case's model in double precision, a batch of two images, and the chain found in it."""

    case: Case
    model: nn.Module
    images: Tensor
    chain: Chain
    known: dict[Plan, Tensor] = field(default_factory=dict)

    @property
    def arguments(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Fresh arguments for the model: a net may write over its input."""
        return self.case.arguments(self.images)

    def bind(self, intervention: Intervention) -> Plan:
        return bind(intervention, self.chain.outline)

    def expected(self, plan: Plan) -> Tensor:
        """The oracle's logits."""
        if plan not in self.known:
            with torch.no_grad():
                self.known[plan] = self.case.oracle(
                    self.model, self.images.clone(), plan.order, frozenset(plan.deleted)
                )
        return self.known[plan]


@pytest.fixture(scope="session", params=CASES, ids=[case.name for case in CASES])
def prepared(request: pytest.FixtureRequest) -> Prepared:
    case: Case = request.param
    model = case.make()
    batch = images(side=case.side)
    args, kwargs = case.arguments(batch)
    chain = unravel(model, kwargs or args, plain=case.plain, granularity=case.granularity)
    return Prepared(case, model, batch, chain)
