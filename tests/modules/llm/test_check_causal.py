"""check_causal: networks that see the tokens that they are asked for, and those that do not."""

import pytest
import torch
from torch import nn

from modules.llm import Llama31Module
from modules.llm.check_causal import check_causal

WORDS, LENGTH = 50, 128


class Table(nn.Module):
    """Predicts each token from that one alone; fine."""

    def __init__(self, words=WORDS):
        super().__init__()
        self.table, self.out = nn.Embedding(WORDS, 16), nn.Linear(16, words)

    def forward(self, ids):
        return self.out(self.table(ids))


class Next(Table):
    """Sees the next token."""

    def forward(self, ids):
        return self.out(self.table(ids.roll(-1, 1)))


class HiddenNext(Next):
    """Sees the next token as soon as its last layer is no longer 0."""

    def __init__(self):
        super().__init__()
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)


class Blocks(Table):
    """Sees the next token within blocks of 64, at whose border the middle is."""

    def forward(self, ids):
        return self.out(self.table(ids.unflatten(1, (-1, 64)).roll(-1, 2).flatten(1)))


class InPlace(Table):
    """Changes its input, which the labels share memory with, so that all labels are 0."""

    def forward(self, ids):
        ids[:, 1:] = 0
        return super().forward(ids)


class Whole(Table):
    def forward(self, ids):
        return super().forward(ids).long()


class Infinite(Table):
    def forward(self, ids):
        return super().forward(ids) / 0


@pytest.mark.parametrize(
    ("net", "words"),
    [
        (Next, "Next looks ahead"),
        (HiddenNext, "HiddenNext looks ahead"),
        (Blocks, "Blocks looks ahead"),
        (InPlace, "InPlace changes its input in place"),
        (Whole, "Whole returns int64, which cannot be trained"),
        (Infinite, "Infinite returns logits that are not finite"),
        (lambda: Table(49), "Table knows 49 words, but the data has 50"),
    ],
)
def test_a_network_that_does_not_predict_is_named(net, words):
    with pytest.raises(ValueError, match=words):
        check_causal(net(), vocab_size=WORDS, length=LENGTH)


class Padded(Table):
    """Has more words than the data, and masks them."""

    def __init__(self):
        super().__init__(words=64)

    def forward(self, ids):
        masked = torch.arange(64) >= WORDS
        return super().forward(ids).masked_fill(masked, -torch.inf)


class ZeroEnd(Table):
    """Starts with even probabilities."""

    def __init__(self):
        super().__init__()
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)


@pytest.mark.parametrize("net", [Table, Padded, ZeroEnd, lambda: Table().bfloat16()])
def test_other_networks_pass_and_keep_their_weights(net):
    checked = net()
    before = {name: value.clone() for name, value in checked.state_dict().items()}
    state = torch.get_rng_state()
    check_causal(checked, vocab_size=WORDS, length=LENGTH)
    assert all(torch.equal(before[name], value) for name, value in checked.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)


class Lazy(nn.Module):
    def __init__(self):
        super().__init__()
        self.table, self.out = nn.Embedding(WORDS, 16), nn.LazyLinear(WORDS)

    def forward(self, ids):
        return self.out(self.table(ids))


def test_layers_without_a_size_are_checked_too():
    module = Llama31Module(net=Lazy)
    module.check_net(vocab_size=WORDS, seq_length=LENGTH)
    assert module.net.out.weight.shape == (WORDS, 16)
