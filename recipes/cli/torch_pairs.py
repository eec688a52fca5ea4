"""Torch and the packages that must be built for it: pip cannot express which go together."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import metadata

# torch 2.N is released with torchvision 0.(N + 15).
VISION_MINOR = 15
# torchaudio stays at 2.11. Its 2.11.1 needs three functions that torch 2.11 does not have yet
# (torch_new_stable_ivalue and torch_exception_get_what in two forms), despite its metadata.
AUDIO, AUDIO_OF_2_11 = "2.11.1", "2.11.0"


def check_pairs(packages: Iterable[str]) -> None:
    """Check the named packages' versions against torch's, without importing any of them.

    Raises a ValueError of one line, where an import would end in an undefined symbol or operator.
    """
    torch = _version("torch")
    for package in packages:
        fits, found = fitting(package, torch), _version(package)
        if found and fits and not (f"{found}.").startswith(f"{fits}."):
            major, minor, *_ = torch.split(".")
            wanted = f"{fits}.*" if fits.count(".") == 1 else fits
            raise ValueError(
                f"{package} {found} does not load together with torch {torch}; run "
                f"pip install 'torch=={major}.{minor}.*' '{package}=={wanted}' "
                "(README.md lists the versions that go together)"
            )


def fitting(package: str, torch: str) -> str:
    """Return the version, or the start of it, that goes with a torch version; empty: not known."""
    major, minor, *_ = (*torch.split("."), "")
    if major != "2" or not minor.isdigit():
        return ""
    if package == "torchvision":
        return f"0.{int(minor) + VISION_MINOR}"
    return AUDIO_OF_2_11 if minor == "11" else AUDIO


def _version(package: str) -> str:
    """Return an installed version without its build, e.g. ``2.11.0`` of ``2.11.0+cpu``."""
    try:
        return metadata.version(package).partition("+")[0]
    except metadata.PackageNotFoundError:
        return ""
