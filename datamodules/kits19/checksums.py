"""Preprocessed KiTS19 files against the MD5 list of the reference.

Labels must be equal. Images may differ: the list was made with torch 1.7.1, and another version or
processor may interpolate differently in the last bits.
"""

from collections.abc import Mapping
from functools import cache
from pathlib import Path

from datamodules.kits19.cases import PreparedCase, image_path, label_path
from datamodules.kits19.split import data_lines, some_cases

# mlcommons/training#545: upstream changed this case after the list was made; it differs for all.
CHANGED_UPSTREAM = {"00043"}


@cache
def reference_checksums() -> dict[str, str]:
    """Return the MD5s of the 420 files that the reference's preprocessing writes, by file name.

    Source:
        mlcommons/training @ 9947bdf2, image_segmentation/pytorch/checksum.json.
    """
    return {name: md5 for md5, name in map(str.split, data_lines("kits19_md5.txt"))}


def is_other_data(cases: Mapping[str, PreparedCase], errors: Mapping[str, str]) -> bool:
    """Return whether so many labels differ that it is no damage but other data of the same ids."""
    return len(errors) > len(cases) / 2


def label_errors(
    folder: Path, cases: Mapping[str, PreparedCase], checksums: Mapping[str, str]
) -> dict[str, str]:
    """Return one line for each case whose label differs from the reference's.

    Nearest-neighbour resampling is exact, so there is no tolerance. An unlisted file passes.
    """
    paths = {case: label_path(folder, case) for case in cases if case not in CHANGED_UPSTREAM}
    return {
        case: f"{path}: MD5 {cases[case].md5_y} differs from the reference's "
        f"{checksums[path.name]}; fetch the raw case again and prepare it again"
        for case, path in paths.items()
        if checksums.get(path.name, cases[case].md5_y) != cases[case].md5_y
    }


def checksum_verdict(cases: Mapping[str, PreparedCase], checksums: Mapping[str, str]) -> list[str]:
    """Summarise the checksums, empty for generated data, once all labels have passed."""
    if not checksums:
        return []
    here = Path()
    names_x = {case: image_path(here, case).name for case in cases}
    names_y = {case: label_path(here, case).name for case in cases}
    wrong_x = {case for case, name in names_x.items() if checksums.get(name) != cases[case].md5_x}
    wrong_y = {case for case, name in names_y.items() if checksums.get(name) != cases[case].md5_y}
    changed = (wrong_x | wrong_y) & CHANGED_UPSTREAM
    total, wrong = 2 * len(cases), len(wrong_x) + len(wrong_y)
    lines = [f"md5: {total - wrong} of {total} files equal the reference's list"]
    others = wrong_x - changed
    if others and len(others) <= len(cases) / 2:  # interpolation would change nearly all
        lines.append(
            f"warning: the image of {some_cases(sorted(others))} differs from the reference's "
            "while most are equal; fetch the raw case again"
        )
    elif others:
        lines.append(
            f"warning: {len(others)} image files differ in MD5 while their labels are equal: "
            "interpolation may differ in the last bits from the reference's torch 1.7.1"
        )
    lines += [
        f"warning: case_{case} differs for everyone since upstream changed it "
        "(mlcommons/training#545)"
        for case in sorted(changed)
    ]
    return lines
