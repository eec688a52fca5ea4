"""Private attributes of jsonargparse and argparse that we use still exist and mean the same."""

from pathlib import Path

from jsonargparse import ArgumentParser

from recipes.cli import jsonargparse_private as private


def parser():
    made = ArgumentParser()
    made.add_argument("-n", "--number", type=int, default=3)
    made.add_argument("--place", type=Path | None, default=None)
    return made


def test_attributes_exist():
    made = parser()
    for name in ("_actions", "_action_groups"):
        assert hasattr(made, name), f"argparse's ArgumentParser has no {name} any more"
    assert hasattr(made._action_groups[0], "_group_actions"), "argparse: no _group_actions any more"
    (place,) = (action for action in made._actions if action.dest == "place")
    assert hasattr(place, "_typehint"), "jsonargparse's ActionTypeHint has no _typehint any more"


def test_flags_groups_and_types():
    made = parser()
    assert {"--help", "--number", "--place"} <= set(private.long_flags(made))
    actions = {action.dest: action for _, group in private.groups(made) for action in group}
    assert private.value_type(actions["number"]) is int
    assert private.value_type(actions["place"]) == Path | None
