"""Variants: their names, their settings, and that these end with them."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from recipes.cli.usage import UsageError
from recipes.speed.comparison import table
from recipes.speed.variants import Settings, parse_variants
from tests.recipes.speed.test_gate import config
from tests.toy import toy_trainer


def test_names_are_read_in_order_each_once_and_the_reference_first():
    variants = parse_variants("bf16, compile+bf16,eager,bf16")
    assert [variant.name for variant in variants] == ["eager", "bf16", "compile+bf16"]
    assert variants[2].bf16
    assert variants[2].compile_mode == "default"
    assert parse_variants("reduce-overhead+channels_last")[1].compile_mode == "reduce-overhead"


def test_an_unknown_word_is_told_with_the_nearest():
    with pytest.raises(UsageError, match=r"--variants: unknown 'bf1'; did you mean bf16\?"):
        parse_variants("eager,bf1")
    with pytest.raises(UsageError, match="--variants"):
        parse_variants("no.such.function")


def made(name, **settings):
    module = SimpleNamespace(net=nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3)))
    cli = SimpleNamespace(model=module, config=config(**settings))
    return module.net, Settings(cli, toy_trainer([]), parse_variants(name)[-1])


def layout(net):
    return net[1].weight.is_contiguous(memory_format=torch.channels_last)


def test_a_layout_holds_within_the_block_only():
    net, settings = made("channels_last")
    with settings.applied():
        assert layout(net)
    assert not layout(net)


def test_a_preset_is_the_configuration_and_joined_words_come_on_top():
    net, settings = made("preset", memory_format="channels_last", matmul_precision="high")
    with settings.applied():
        assert layout(net)
        assert torch.get_float32_matmul_precision() == "high"
    assert torch.get_float32_matmul_precision() == "highest"
    net, settings = made("preset+bf16")
    with settings.applied(), settings.autocast():
        assert not layout(net)
        assert net(torch.zeros(1, 3, 8, 8)).dtype is torch.bfloat16


def test_volumes_have_a_layout_of_their_own():
    module = SimpleNamespace(net=nn.Conv3d(4, 8, 3))
    cli = SimpleNamespace(model=module, config=config())
    settings = Settings(cli, toy_trainer([]), parse_variants("channels_last")[-1])
    with settings.applied():
        assert module.net.weight.is_contiguous(memory_format=torch.channels_last_3d)


def test_compilation_holds_within_the_block_only():
    net, settings = made("compile")
    with settings.applied():
        assert net._compiled_call_impl is not None
    assert net._compiled_call_impl is None


def test_the_table_shows_what_is_wrong_and_what_failed():
    row = {
        "name": "bf16", "samples_per_second": 10.0, "ms_per_step_median": 100.0,
        "loss_error": 0.5, "gradient_error": float("nan"), "tolerance": [0.02, 0.3],
        "right": False, "error": None,
    }  # fmt: skip
    lines = table([row, {**row, "name": "compile", "loss_error": None, "error": "no compiler"}])
    assert "NO (allowed 0.02, 0.3)" in lines[1]
    assert "failed: no compiler" in lines[2]
