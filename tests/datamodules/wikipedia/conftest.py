"""A small data set in Wikipedia's published layout."""

import shutil

import pytest

from datamodules.wikipedia.demo import write_text


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """The data set, which nothing changes."""
    folder = tmp_path_factory.mktemp("wikipedia")
    write_text(folder)
    for path in (folder / "results4").glob("part-*"):
        articles = path.read_text().split("\n\n")[:20]
        path.write_text("\n\n".join(articles) + "\n")
    return folder


@pytest.fixture
def root(original, tmp_path):
    """A copy of the data set, to be changed."""
    return shutil.copytree(original, tmp_path / "data")
