"""Go positions from outside the data set, and the moves proposed in them."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from datamodules.common.inputs import input_file, write_json
from datamodules.selfplay.go.sgf import vertex
from datamodules.selfplay.go.sgf_reader import Position, in_words, position_text, read_position

WHAT = 'a Go game in SGF, a file or its text such as "(;SZ[9];B[ee])"'


class PositionInputs:
    """The interface that ``predict`` needs, for boards of one size."""

    size: int
    komi: float
    prediction_endings: ClassVar[tuple[str, ...]] = (".json", ".sgf")

    def read_input(self, source: str) -> dict[str, Position]:
        """Read a position, for ``predict``.

        Args:
            source: An SGF file, or SGF text.

        Returns:
            ``position``, the end of its main line.

        Raises:
            OSError: If it is neither a file nor SGF text.
            ValueError: If it is no position of this board size.
        """
        return {"position": position_of(source, self.size, self.komi)}

    def write_prediction(self, stem: Path, batch: Any, prediction: Any) -> str:
        """Write the proposed move as ``.json``, and with the position as ``.sgf``.

        Args:
            stem: Path without ending.
            batch: From ``read_input``.
            prediction: ``move``, ``value`` and ``candidates``.

        Returns:
            The move in words.
        """
        text, content = described(batch["position"], prediction)
        write_json(stem.with_name(f"{stem.name}.json"), content)
        game = position_text(batch["position"], prediction.move, text)
        stem.with_name(f"{stem.name}.sgf").write_text(game, encoding="utf-8")
        return text

    def example_inputs(self) -> list[str]:
        """Return an opening on this board."""
        centre = "abcdefghijklmnopqrs"[self.size // 2]
        neighbour = "abcdefghijklmnopqrs"[self.size // 2 + 1]
        return [f"(;SZ[{self.size}];B[{centre}{centre}];W[{neighbour}{centre}])"]


def position_of(source: str, size: int, komi: float) -> Position:
    """Read a position from an SGF file, or from SGF text.

    Args:
        source: File or text.
        size: Points per side that the network knows.
        komi: Points that White gets where the text does not say so.

    Returns:
        The position at the end of the main line.

    Raises:
        OSError: If it is neither a file nor SGF text.
        ValueError: If it is no position of this board size.
    """
    if source.lstrip().startswith("(") and not os.path.isfile(source):
        text, name = source, "the game"
    else:
        # Comments in old files have other encodings; moves are ASCII.
        text, name = input_file(source, WHAT).read_bytes().decode("utf-8", "replace"), source
    try:
        return read_position(text, size, komi)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def described(position: Position, proposal: Any) -> tuple[str, dict[str, Any]]:
    """Describe a proposed move.

    Args:
        position: From ``position_of``.
        proposal: ``move``, ``value`` (-1 to 1, Black's) and ``candidates``.

    Returns:
        A sentence, and the content of a JSON file.
    """
    size, black = position.size, (1 + proposal.value) / 2
    content: Mapping[str, Any] = {
        "size": size,
        "komi": position.komi,
        "to_play": {"B": "black", "W": "white"}[position.to_play],
        "move": vertex(proposal.move, size),
        "black_wins": round(black, 4),
        "network": [
            {"move": vertex(action, size), "prior": round(prior, 4)}
            for action, prior in proposal.candidates
        ],
    }
    text = f"{in_words(position, proposal.move)} (the network gives Black {black:.0%} to win)"
    return text, dict(content)
