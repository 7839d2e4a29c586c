"""Each Chinese page follows the English one: its first line names the hashes of the prose that it translates.

EDGE_TRANSLATED=1 renews these lines; only who has translated what changed may set it. EDGE_REGENERATE_DOCS=1 takes over
what the English page shows of a command's output.
"""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
GUIDES, CHINESE_GUIDES = ROOT / "docs" / "guides", ROOT / "docs" / "zh" / "guides"
TWINS = [(ROOT / "README.md", ROOT / "README_cn.md")] + [
    (page, CHINESE_GUIDES / page.name) for page in sorted(GUIDES.glob("*.md"))
]
REGENERATE = os.environ.get("EDGE_REGENERATE_DOCS") == "1"
TRANSLATED = os.environ.get("EDGE_TRANSLATED") == "1"
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
FIRST = re.compile(r"<!-- follows (\S+): ([0-9a-f ]+) -->\n")


def prose(text: str) -> dict[str, str]:
    """Return heading -> hash of what stands under it; shown outputs are left out, since they follow by themselves."""
    text = FENCE.sub(lambda found: "" if found[1] == "console" else found[0], text)
    text = re.sub(r"^```.*?^```$", lambda found: found[0].replace("\n#", "\n"), text, flags=re.DOTALL | re.MULTILINE)
    parts = re.split(r"^(#+ .*)$", text, flags=re.MULTILINE)
    bodies = zip(parts[1::2], parts[2::2], strict=True)
    return {head: hashlib.sha256(" ".join(f"{head} {body}".split()).encode()).hexdigest()[:8] for head, body in bodies}


def first_line(english: Path, text: str) -> str:
    return f"<!-- follows {english.relative_to(ROOT)}: {' '.join(prose(text).values())} -->\n"


def stale(english: str, chinese: str) -> list[str]:
    """Return the English headings that the Chinese page does not follow, or how many it follows that are gone."""
    found = FIRST.match(chinese)
    known = found[2].split() if found else []
    now = prose(english)
    changed = [head for head, digest in now.items() if digest not in known]
    gone = [digest for digest in known if digest not in now.values()]
    return changed + ([f"{len(gone)} earlier texts"] if gone and not changed else [])


def commands(text: str) -> list[list[str]]:
    """Return the blocks of a page that a reader types, without comments."""
    typed = [body for kind, body in FENCE.findall(text) if kind in ("bash", "console", "python")]
    return [[re.sub(r"\s+# .*|^# .*", "", line).rstrip() for line in body.splitlines()] for body in typed]


@pytest.mark.parametrize(("english", "chinese"), TWINS, ids=[english.name for english, _ in TWINS])
def test_the_chinese_page_follows_the_english_one(english: Path, chinese: Path) -> None:
    assert chinese.exists(), f"{english.relative_to(ROOT)} has no Chinese twin"
    text, theirs = english.read_text(encoding="utf-8"), chinese.read_text(encoding="utf-8")
    if TRANSLATED:
        theirs = first_line(english, text) + FIRST.sub("", theirs, count=1)
        chinese.write_text(theirs, encoding="utf-8")
    if REGENERATE:
        theirs = with_outputs(text, theirs)
        chinese.write_text(theirs, encoding="utf-8")
    assert stale(text, theirs) == [], f"translate these headings in {chinese.relative_to(ROOT)}, then EDGE_TRANSLATED=1"
    assert commands(theirs) == commands(text)


def with_outputs(english: str, chinese: str) -> str:
    """Return the Chinese page with the outputs that the English one shows of the same commands."""
    shown = {body.splitlines()[0]: body for kind, body in FENCE.findall(english) if kind == "console"}

    def renewed(found: re.Match[str]) -> str:
        return f"```console\n{shown.get(found[2].splitlines()[0], found[2])}```" if found[1] == "console" else found[0]

    return FENCE.sub(renewed, chinese)


ENGLISH = "# A\n\nfirst\n\n## B\n\nsecond\n\n```console\n$ x\n1\n```\n"


@pytest.mark.parametrize(
    ("change", "headings"),
    [
        (("second", "another"), ["## B"]),
        (("# A\n", "# C\n"), ["# C"]),
        (("\n1\n", "\n2\n"), []),
        (("## B\n\nsecond", ""), ["# A"]),
        (("first", "first  \n"), []),
    ],
)
def test_a_change_of_the_prose_is_named_by_its_heading(change: tuple[str, str], headings: list[str]) -> None:
    chinese = first_line(ROOT / "x.md", ENGLISH) + "# 甲\n"
    assert stale(ENGLISH, chinese) == []
    new = ENGLISH.replace(*change)
    assert stale(new, chinese) == headings or (headings == ["# A"] and stale(new, chinese))
    assert stale(ENGLISH, "# 甲\n") == ["# A", "## B"]
