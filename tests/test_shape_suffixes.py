"""The check of shape suffixes: it fails where it must and leaves functions whole."""

import inspect
import pickle
import types

import numpy as np
import pytest
import torch

from modules.detection import boxes
from modules.unet3d import dice
from tests.shape_suffixes import shape_of, wrap_module, wrapped


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("image_BCDHW", (None,) * 5),
        ("counts_BK3", (None, None, 3)),
        ("boxes_N4", (None, 4)),
        ("pooled_RC77", (None, None, 7, 7)),
        ("image", None),
        ("max_N_rows", None),
        ("num_classes", None),
    ],
)
def test_a_suffix_names_dimensions(name, shape):
    assert shape_of(name) == shape


def scale(rows_N4, factor=1.0, *, by_N=None):
    """Doc."""
    return rows_N4 * factor


def test_a_tensor_of_another_shape_fails():
    checked = wrapped(scale)
    assert checked(torch.ones(2, 4), 2.0).sum() == 16
    with pytest.raises(AssertionError, match=r"scale: rows_N4 has shape \(2, 4, 1\)"):
        checked(torch.ones(2, 4, 1))
    with pytest.raises(AssertionError, match="rows_N4"):
        checked(rows_N4=np.ones((2, 5)))
    with pytest.raises(AssertionError, match="by_N"):
        checked(torch.ones(2, 4), by_N=torch.ones(2, 2))


def test_what_is_no_array_passes():
    assert wrapped(scale)(3, by_N=None) == 3.0


def test_a_function_without_suffixes_stays_itself():
    def plain(image, num_classes):
        return image

    assert wrapped(plain) is plain


def test_functions_methods_and_static_methods_of_a_module_are_wrapped():
    module = types.ModuleType("made_up")
    code = (
        "class Net:\n"
        "    def forward(self, x_BC): return x_BC\n"
        "    @staticmethod\n"
        "    def sum(x_BC): return x_BC.sum()\n"
        "    @classmethod\n"
        "    def of(cls, x_BC): return cls()\n"
        "def twice(x_BC): return 2 * x_BC\n"
    )
    exec(code, module.__dict__)
    assert wrap_module(module) == 4
    for function in (module.Net().forward, module.Net.sum, module.Net.of, module.twice):
        function(torch.ones(2, 3))
        with pytest.raises(AssertionError, match="x_BC has shape"):
            function(torch.ones(2, 3, 4))


def test_the_check_is_on_in_this_run():
    wrapped_ones = [
        value
        for module in (dice, boxes)
        for value in vars(module).values()
        if inspect.isfunction(value) and hasattr(value, "__wrapped__")
    ]
    assert len(wrapped_ones) >= 3


def test_a_wrapped_function_keeps_its_name_signature_and_pickles():
    function = dice.overlap_counts
    assert inspect.signature(function) == inspect.signature(function.__wrapped__)
    assert pickle.loads(pickle.dumps(function)) is function


def test_compiled_code_is_traced_whole():
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph

    compiled = torch.compile(wrapped(scale), backend=backend, fullgraph=True)
    assert compiled(torch.ones(2, 4), 3.0).sum() == 24
    assert len(graphs) == 1


def test_many_compiled_functions_do_not_use_up_one_limit():
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph

    for number in range(4):
        module = types.ModuleType(f"made_up_{number}")
        exec("def add(x_N): return x_N + 1", module.__dict__)
        assert wrap_module(module) == 1
        with torch._dynamo.config.patch(recompile_limit=2):
            torch.compile(module.add, backend=backend)(torch.ones(2 + number))
    assert len(graphs) == 4
