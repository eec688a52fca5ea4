"""First weights have the same bits in whole tensors and in any number of ranks' shares."""

import numpy as np
import pytest
import torch
import torch.distributed as dist
from lightning.pytorch import seed_everything
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard, distribute_tensor

from modules.common import first_weights
from modules.common.first_weights import draw_normal
from modules.llm import Llama31Module
from modules.llm.net import GptOss
from recipes.cli.strategy import build_strategy
from tests.ranks import on_ranks
from tests.toy import toy_trainer
from tests.toy_decoder import TokenData

SHAPES = [(7, 5), (1, 40), (64, 3), (6, 2, 4)]
NET = {"vocab_size": 48, "hidden_size": 16, "num_layers": 2, "num_heads": 4, "num_kv_heads": 2,
       "head_size": 4, "intermediate_size": 8, "num_experts": 4,
       "experts_per_token": 2}  # fmt: skip


def drawn(sharded, block=1 << 20):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(first_weights, "BLOCK", block)
        tensors = [torch.zeros(shape) for shape in SHAPES]
        if sharded:
            mesh = init_device_mesh("cpu", (dist.get_world_size(),))
            tensors = [distribute_tensor(tensor, mesh, [Shard(0)]) for tensor in tensors]
        for number, tensor in enumerate(tensors):
            draw_normal(tensor, 0.5, seed=3, name=str(number))
        return [whole(tensor) for tensor in tensors]


def whole(tensor):
    return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).detach().numpy().copy()


def on_a_rank():
    return {block: drawn(True, block) for block in (10, 1 << 20)}, sharded_net()


class Net:
    """Builds the network, as the command line does."""

    target = GptOss

    def __call__(self):
        return GptOss(**NET)


def sharded_net():
    seed_everything(5, verbose=False)
    module = Llama31Module(net=Net())
    strategy = build_strategy("fsdp2", module)
    trainer = toy_trainer([], strategy=strategy, devices=dist.get_world_size(), max_steps=0)
    built = []
    whole_build, module.build = module.build, lambda: (whole_build(), built.append(on_meta(module)))
    trainer.fit(module, datamodule=TokenData(2))
    assert built == [True]
    net = module.net
    named = {name: whole(p) for name, p in net.named_parameters()}
    return named, net.layers[0].self_attn.rotary.frequencies.numpy().copy()


def on_meta(module):
    return all(p.is_meta for p in module.net.parameters())


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    return on_ranks(3, tmp_path_factory.mktemp("meet"), on_a_rank)


def test_shares_of_three_ranks_are_those_of_the_whole(three):
    for results, _ in three:
        for block, tensors in results.items():
            for one, other in zip(tensors, drawn(False, block), strict=True):
                assert np.array_equal(one, other)


def test_a_sharded_net_starts_as_one_that_was_built_whole(three):
    seed_everything(5, verbose=False)
    net = GptOss(**NET)
    for _, (named, frequencies) in three:
        assert named.keys() == {name for name, _ in net.named_parameters()}
        for name, parameter in net.named_parameters():
            assert np.array_equal(named[name], parameter.detach().numpy()), name
        assert np.array_equal(frequencies, net.layers[0].self_attn.rotary.frequencies.numpy())


def test_numbers_are_normal_and_independent_of_each_other():
    tensor, other = torch.empty(3000, 400), torch.empty(3000, 400)
    draw_normal(tensor, 0.02, seed=1, name="a")
    draw_normal(other, 0.02, seed=1, name="b")
    assert float(tensor.std()) == pytest.approx(0.02, rel=3e-3)
    assert abs(float(tensor.mean())) < 1e-4
    assert len(tensor.flatten().unique()) > 0.8 * tensor.numel()
    for second in (other, tensor.roll(first_weights.BLOCK // 400, 0)):
        assert abs(float((tensor * second).mean())) < 1e-6
    again = torch.empty(3000, 400)
    draw_normal(again, 0.02, seed=2, name="a")
    assert not torch.equal(tensor, again)
