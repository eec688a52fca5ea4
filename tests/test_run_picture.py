"""The README's picture of a run: a curve next to what was learned."""

from pathlib import Path

from PIL import Image

from tests.tools.run_picture import GAP, WIDTH, join_pictures

ROOT = Path(__file__).parents[1]


def test_both_pictures_are_side_by_side_at_equal_width(tmp_path):
    Image.new("RGB", (700, 420), "red").save(tmp_path / "curve.png")
    Image.new("RGB", (800, 1600), "blue").save(tmp_path / "predictions.png")
    join_pictures(tmp_path, tmp_path / "images" / "run.png")
    joined = Image.open(tmp_path / "images" / "run.png").convert("RGB")
    assert joined.size == (2 * WIDTH + GAP, 2 * WIDTH)
    middle = joined.height // 2
    assert joined.getpixel((WIDTH // 2, middle))[0] > 200
    assert joined.getpixel((WIDTH + GAP + WIDTH // 2, 5))[2] > 200
    assert min(joined.getpixel((WIDTH // 2, 5))) > 250  # the curve is lower


def test_the_readme_shows_one_of_at_most_200_kb():
    (picture,) = (ROOT / "docs" / "images").iterdir()
    assert f"](docs/images/{picture.name})" in (ROOT / "README.md").read_text()
    assert picture.stat().st_size < 200_000
