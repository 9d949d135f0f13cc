"""The table of model families, and what names one."""

from __future__ import annotations

import pytest

from sifthinker import config
from sifthinker.core.errors import UserError
from sifthinker.models.families import frozen_modules, picture_tokens


def test_the_patterns_of_all_families_together_are_those_that_adapters_were_trained_with() -> None:
    assert frozen_modules() == r".*(visual|vision_tower|multi_modal_projector).*"
    assert picture_tokens()[-2:] == ("<|video_pad|>", "<image>")


def test_a_configuration_names_a_family_of_the_table() -> None:
    with pytest.raises(
        UserError, match=r"model.family: there is no family named 'qwen25_vl'; did you mean 'qwen2_5_vl'\?"
    ):
        config.parse({"scenes": {}, "model": {"family": "qwen25_vl"}}, "x")
