"""Figures take a title and the width of a venue, and a caption says what their bars are."""

from __future__ import annotations

import pytest
import torch

import ensemble_view as ev
import ensemble_view.studies
from ensemble_view.errors import MeasurementError
from ensemble_view.figures.style import COLUMN_WIDTH, FULL_WIDTH, VENUES
from ensemble_view.nets.models.building import build
from ensemble_view.study import registry


@pytest.fixture(scope="module")
def result() -> ev.PairsResult:
    torch.manual_seed(0)
    return ev.pairs(
        build("resnet8,width=4").eval(), (torch.randn(20, 3, 8, 8), torch.arange(20) % 10)
    )


@pytest.fixture(scope="module")
def lesion() -> object:
    torch.manual_seed(0)
    return ev.lesion(build("resnet8,width=4").eval(), (torch.randn(9, 3, 8, 8), torch.arange(9)))


@pytest.mark.parametrize("style", VENUES)
def test_a_figure_has_the_width_of_the_venue(result, lesion, style):
    column, text = VENUES[style]
    assert lesion.plot().get_figwidth() == COLUMN_WIDTH
    assert lesion.plot(style=style).get_figwidth() == column
    own = result.plot().get_figwidth()
    assert COLUMN_WIDTH < own < FULL_WIDTH
    assert result.plot(style=style).get_figwidth() == pytest.approx(own * text / FULL_WIDTH)


def test_a_title_stands_above_and_is_left_out_by_default(result):
    assert result.plot().get_suptitle() == ""
    assert result.plot(title="Pairs of a ResNet-8").get_suptitle() == "Pairs of a ResNet-8"


def test_what_is_no_style_is_refused(result):
    with pytest.raises(MeasurementError, match=r"^There is no figure style 'plos'; expected"):
        result.plot(style="plos")


def test_a_caption_says_what_is_drawn_and_on_what(result):
    assert "dots mark interactions that differ from zero" in result.caption
    assert result.caption.endswith("These statements concern this net on these 20 examples.")


def test_every_kind_of_result_has_a_caption_of_one_sentence():
    assert ensemble_view.studies
    for name, kind in registry._kinds.items():
        if kind.result.__class__ is str:
            assert kind.caption.endswith("."), name
            assert len(kind.caption.split()) >= 8, name
