"""Put a run's curve and its picture of what was learned side by side, for the README.

python -m tests.tools.run_picture RUN OUT.png
"""

import argparse
from pathlib import Path

from PIL import Image

WIDTH = 640  # pixels of each picture
GAP = 20


def join_pictures(run: Path, out: Path) -> None:
    """Write ``curve.png`` and ``predictions.png`` of a run as one picture of equal widths."""
    images = [Image.open(run / name).convert("RGB") for name in ("curve.png", "predictions.png")]
    resized = [
        image.resize((WIDTH, round(WIDTH * image.height / image.width)), Image.Resampling.LANCZOS)
        for image in images
    ]
    joined = Image.new("RGB", (2 * WIDTH + GAP, max(image.height for image in resized)), "white")
    for number, image in enumerate(resized):
        joined.paste(image, (number * (WIDTH + GAP), (joined.height - image.height) // 2))
    out.parent.mkdir(parents=True, exist_ok=True)
    # A palette keeps the file small; this method keeps rare colours, such as a legend's.
    joined.quantize(method=Image.Quantize.FASTOCTREE).save(out, optimize=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("out", type=Path)
    given = parser.parse_args()
    join_pictures(given.run, given.out)
