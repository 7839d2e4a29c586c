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
TWINS = [
    (ROOT / "README.md", ROOT / "README_cn.md"),
    (GUIDES.parent / "README.md", CHINESE_GUIDES.parent / "README.md"),
    *((page, CHINESE_GUIDES / page.name) for page in sorted(GUIDES.glob("*.md"))),
]
REGENERATE = os.environ.get("EDGE_REGENERATE_DOCS") == "1"
TRANSLATED = os.environ.get("EDGE_TRANSLATED") == "1"
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
FIRST = re.compile(r"<!-- follows (\S+): ([0-9a-f ]+) -->\n")


def sections(text: str) -> list[tuple[str, str]]:
    """Return (heading, what stands under it); shown outputs are left out, since they follow by themselves."""
    text = FENCE.sub(lambda found: "" if found[1] == "console" else found[0].replace("\n#", "\n"), text)
    parts = re.split(r"^(#+ .*)$", text, flags=re.MULTILINE)
    return list(zip(parts[1::2], parts[2::2], strict=True))


def hashes(text: str) -> list[str]:
    """Return the hash of each section, blanks aside."""
    joined = [" ".join(f"{head} {body}".split()) for head, body in sections(text)]
    return [hashlib.sha256(one.encode()).hexdigest()[:8] for one in joined]


def first_line(english: Path, text: str) -> str:
    return f"<!-- follows {english.relative_to(ROOT)}: {' '.join(hashes(text))} -->\n"


def stale(english: str, chinese: str) -> list[str]:
    """Return the English headings that the Chinese page does not follow, and its own whose English text is gone."""
    found = FIRST.match(chinese)
    known = found[2].split() if found else []
    heads, now = [head for head, _ in sections(english)], hashes(english)
    own = [head for head, _ in sections(chinese)]
    changed = [f"changed or new: {head}" for head, digest in zip(heads, now, strict=True) if digest not in known]
    gone = [f"follows what is gone: {head}" for head, digest in zip(own, known, strict=False) if digest not in now]
    return changed + gone


def commands(text: str) -> list[list[str]]:
    """Return the lines of each block of a page, without comments."""
    return [
        [kind, *(re.sub(r"(^|\s+)# .*", "", line).rstrip() for line in body.splitlines())]
        for kind, body in FENCE.findall(text)
    ]


def levels(text: str) -> list[str]:
    return [head.split()[0] for head, _ in sections(text)]


@pytest.mark.parametrize(("english", "chinese"), TWINS, ids=[str(english.relative_to(ROOT)) for english, _ in TWINS])
def test_the_chinese_page_follows_the_english_one(english: Path, chinese: Path) -> None:
    assert chinese.exists(), f"{english.relative_to(ROOT)} has no Chinese twin"
    text, theirs = english.read_text(encoding="utf-8"), chinese.read_text(encoding="utf-8")
    if REGENERATE:
        theirs = with_outputs(text, theirs)
        chinese.write_text(theirs, encoding="utf-8")
    if TRANSLATED and levels(theirs) == levels(text):
        theirs = first_line(english, text) + FIRST.sub("", theirs, count=1)
        chinese.write_text(theirs, encoding="utf-8")
    if old := stale(text, theirs):
        pytest.fail(
            "\n".join([f"translate in {chinese.relative_to(ROOT)}, then EDGE_TRANSLATED=1:", *old]), pytrace=False
        )
    assert theirs.startswith(first_line(english, text)), "EDGE_TRANSLATED=1 renews the first line"
    assert levels(theirs) == levels(text)
    assert commands(theirs) == commands(text)


def test_no_chinese_guide_is_left_over() -> None:
    assert {page.name for page in CHINESE_GUIDES.glob("*.md")} <= {page.name for page in GUIDES.glob("*.md")}


def with_outputs(english: str, chinese: str) -> str:
    """Return the Chinese page with the outputs that the English one shows, block by block, of the same commands."""
    shown = iter([body for kind, body in FENCE.findall(english) if kind == "console"])

    def renewed(found: re.Match[str]) -> str:
        body = next(shown, found[2]) if found[1] == "console" else found[2]
        same = body.splitlines()[:1] == found[2].splitlines()[:1]
        return f"```{found[1]}\n{body if same else found[2]}```"

    return FENCE.sub(renewed, chinese)


ENGLISH = "# A\n\nfirst\n\n## B\n\nsecond\n\n```console\n$ x\n1\n```\n"


CHINESE = first_line(ROOT / "x.md", ENGLISH) + "# 甲\n\n一\n\n## 乙\n\n二\n\n```console\n$ x\n1\n```\n"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (("second", "another"), ["changed or new: ## B", "follows what is gone: ## 乙"]),
        (("# A\n", "# C\n"), ["changed or new: # C", "follows what is gone: # 甲"]),
        (("```console", "## D\n\n```console"), ["changed or new: ## D"]),
        (("## B\n\nsecond\n\n", ""), ["follows what is gone: ## 乙"]),
        (("\n1\n", "\n2\n"), []),
        (("first", "first  \n"), []),
    ],
)
def test_a_change_of_the_prose_is_told_by_its_heading(change: tuple[str, str], told: list[str]) -> None:
    assert stale(ENGLISH, CHINESE) == []
    assert stale(ENGLISH.replace(*change), CHINESE) == told


def test_a_page_without_a_first_line_follows_nothing() -> None:
    assert stale(ENGLISH, "# 甲\n") == ["changed or new: # A", "changed or new: ## B"]


def test_outputs_are_taken_over_and_other_commands_are_not() -> None:
    assert with_outputs(ENGLISH.replace("\n1\n", "\n2\n"), CHINESE) == CHINESE.replace("\n1\n", "\n2\n")
    assert with_outputs(ENGLISH.replace("$ x\n1", "$ y\n2"), CHINESE) == CHINESE
