"""What was built and measured, as documents: a page, Markdown and data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edge.accuracy.table import Evaluation
    from edge.folder.built import Built


def report_of_build(built: Built, names: Sequence[str], measured: Evaluation) -> Mapping[str, str]:
    """Return the reports of a build that is about to be published, file name -> text.

    Args:
        names: of the classes; empty if unknown.
        measured: what the build measured; an ``eval.json`` of the same files tells more and is preferred.
    """
    from edge.report.gather import gather
    from edge.report.page import documents

    return documents(gather(built, names=names, measured=measured))
