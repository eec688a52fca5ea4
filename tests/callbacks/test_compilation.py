"""Compilation covers all that a training step calls, in every recipe; and it can be taken off."""

import importlib
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend

from callbacks.compilation import compile_net, compiled_parts, put_back
from callbacks.warm_up import WarmUp, synthetic_step
from modules.rnnt.module import RNNTModule
from modules.rnnt.net import RNNT
from modules.rnnt.transducer import transducer_loss
from recipes.cli.parser import RecipeCLI
from recipes.cli.presets import demo_preset
from tests.toy import ToyData, ToyModule, toy_trainer

STEMS = sorted(path.stem for path in (Path(__file__).parents[2] / "recipes").glob("[a-z]*.py"))


class StandIn:
    """Takes the place of ``torch.compile``: counts the calls of what was compiled."""

    def __init__(self) -> None:
        self.calls = self.depth = 0

    def __call__(self, call, **options):
        def compiled(*args, **kwargs):
            self.calls += 1
            self.depth += 1
            try:
                return call(*args, **kwargs)
            finally:
                self.depth -= 1

        return compiled


@pytest.mark.parametrize("stem", STEMS)
def test_no_part_of_the_net_is_trained_uncompiled(stem, monkeypatch):
    sheet = importlib.import_module(f"recipes.{stem}").BENCHMARK
    cli = RecipeCLI(sheet, "speed", ["--config", str(demo_preset(sheet))])
    cli.datamodule.prepare_data()
    cli.datamodule.batch_size = 2
    module = cli.model
    getattr(module, "build", module.configure_model)()  # language models build theirs in setup
    stand_in, outside, inside = StandIn(), [], []
    monkeypatch.setattr(torch, "compile", stand_in)
    compile_net(module, "default")
    for name, part in module.net.named_modules():

        def entered(part, inputs, name=name):
            (inside if stand_in.depth else outside).append(name)

        part.register_forward_pre_hook(entered)
    synthetic_step(toy_trainer([]), module, cli.datamodule.synthetic_batch())
    assert stand_in.calls
    assert inside
    assert not outside


class Methods(nn.Module):
    """A net without ``forward``; one of its calls is a module."""

    def __init__(self):
        super().__init__()
        self.encode = nn.Linear(2, 1)

    def join(self, x):
        return 2 * x


class ByMethods(ToyModule):
    compiled_calls = ("encode", "join")

    def __init__(self):
        super().__init__()
        self.net = Methods()

    def training_step(self, batch, batch_idx):
        return self.net.join(self.net.encode(batch[0])).mean()


def test_methods_and_modules_in_their_place_are_compiled_and_put_back(monkeypatch):
    module, stand_in = ByMethods(), StandIn()
    monkeypatch.setattr(torch, "compile", stand_in)
    eager = compiled_parts(module)
    assert eager == [None, None]
    batch = [torch.ones(3, 2)]
    compile_net(module, "default")
    parts = compiled_parts(module)
    module.training_step(batch, 0)
    assert stand_in.calls == 2
    put_back(module, eager)
    module.training_step(batch, 0)
    assert stand_in.calls == 2
    put_back(module, parts)
    module.training_step(batch, 0)
    assert stand_in.calls == 4


def test_cuda_graphs_are_refused_for_a_net_that_a_step_calls_several_times():
    trainer = toy_trainer([WarmUp(compile=True, compile_mode="reduce-overhead")], max_epochs=1)
    with pytest.raises(ValueError, match="ByMethods adds up over several calls of its net; use"):
        trainer.fit(ByMethods(), datamodule=ToyData())


@pytest.mark.slow
def test_a_compiled_transducer_computes_the_same_and_is_not_traced_for_every_length(monkeypatch):
    torch.manual_seed(0)
    net = RNNT(
        input_size=12, num_labels=7, encoder_size=16, prediction_size=8, joint_size=8,
        encoder_dropout=0.0, prediction_dropout=0.0, joint_dropout=0.0,
    )  # fmt: skip

    def step(utterances, frames, labels):
        generator = torch.Generator().manual_seed(frames)
        speech = torch.randn(utterances, frames, 12, generator=generator)
        text = torch.randint(7, (utterances, labels), generator=generator)
        lengths, counts = torch.full((2, utterances), frames), torch.full((utterances,), labels)
        encoded, lengths = net.encode(speech, lengths[0])
        predicted, _ = net.predict(text, start=True)
        loss = transducer_loss(net, encoded, lengths, predicted, text, counts, max_nodes=60)
        net.zero_grad()
        loss.backward()
        return [loss.detach(), *(weight.grad.clone() for weight in net.parameters())]

    sizes = [(3, 8, 4), (5, 13, 3), (2, 10, 6), (4, 15, 5), (6, 18, 7)]
    expected = [step(*size) for size in sizes]
    # All of the compiler but its last stage, which would need a C++ compiler and a minute.
    graphs = CompileCounterWithBackend("aot_eager")
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=graphs))
    compile_net(SimpleNamespace(net=net, compiled_calls=RNNTModule.compiled_calls), "default")
    traced = []
    for size, values in zip(sizes, expected, strict=True):
        torch.testing.assert_close(step(*size), values)
        traced.append(graphs.frame_count)
    assert traced[0] > 0
    assert traced[-1] == traced[-2]
