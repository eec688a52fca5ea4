"""The group of flags that describes a submission."""

from __future__ import annotations

from typing import Literal


class Submission:
    """Submission metadata; affects only the log.

    Args:
        division: ``auto`` is closed if every closed rule holds. With ``closed`` a broken rule is
            an error.
        org: Organisation.
        platform: Name of the system.
        status: Availability of the system.
        clear_cache: Drop the page cache first (needs root).

    Raises:
        ValueError: If a name is empty.
    """

    def __init__(
        self,
        division: Literal["auto", "closed", "open"] = "auto",
        *,
        org: str = "finishline",
        platform: str = "unnamed",
        status: Literal["cloud", "onprem", "preview", "research"] = "onprem",
        clear_cache: bool = False,
    ) -> None:
        if not org or not platform:
            raise ValueError("submission.org and submission.platform must not be empty")
        self.division, self.clear_cache = division, clear_cache
        self.names = {"org": org, "platform": platform, "status": status}
