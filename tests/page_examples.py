"""The Python examples of the pages: ```python blocks whose first line names their file."""

import re
from pathlib import Path

DOCS = Path(__file__).parents[1] / "docs"
BLOCK = re.compile(r"^```python\n# (\w+\.py)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def page_examples(stem):
    """Return file name -> code of a page."""
    return dict(BLOCK.findall((DOCS / f"{stem}.md").read_text()))


def write_examples(stem, folder):
    """Write a page's examples as the files that they name."""
    for name, code in page_examples(stem).items():
        (folder / name).write_text(code)
