"""Put a run's curve and its picture of what was learned side by side, for the README.

    python -m tests.tools.run_picture RUN OUT.png
"""

import argparse
from pathlib import Path

from PIL import Image

WIDTH = 1600  # pixels
GAP = 20
COLORS = 128  # of a palette; keeps the file small


def join_pictures(run: Path, out: Path) -> None:
    """Write ``curve.png`` and ``predictions.png`` of a run at equal height as one picture."""
    images = [Image.open(run / name).convert("RGB") for name in ("curve.png", "predictions.png")]
    shares = [image.width / image.height for image in images]
    height = round((WIDTH - GAP) / sum(shares))
    joined = Image.new("RGB", (WIDTH, height), "white")
    left = 0
    for image, share in zip(images, shares, strict=True):
        size = (round(share * height), height)
        joined.paste(image.resize(size, Image.Resampling.LANCZOS), (left, 0))
        left += size[0] + GAP
    out.parent.mkdir(parents=True, exist_ok=True)
    joined.quantize(COLORS).save(out, optimize=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("out", type=Path)
    given = parser.parse_args()
    join_pictures(given.run, given.out)
