"""A rule from an image's path to its mask's: a regular expression and its replacement."""

import re
from collections.abc import Collection, Iterable
from difflib import SequenceMatcher
from pathlib import PurePosixPath

from segrecipes.storage.survey.words import IMAGE_WORDS, MASK_WORDS, TOKEN

Rule = tuple[str, str]

_BARE = re.compile(r'([/_\-. ]*)(.*?)([/_\-. ]*)')  # what is between separators


def rule_between(image: str, mask: str) -> Rule:
    r"""Of ``images/a.jpg`` and ``masks/a_L.png``: ``^images/(.+)\.\w+$`` and ``masks/\1_L.png``.

    What both have is a group, and what differs stands there as it is.
    """
    old = TOKEN.findall(str(PurePosixPath(image).with_suffix('')))
    new = TOKEN.findall(str(PurePosixPath(mask).with_suffix('')))
    blocks = [block for block in SequenceMatcher(None, old, new, autojunk=False).get_matching_blocks() if block.size]
    pattern, replacement, a, b, groups = '^', '', 0, 0, 0
    for index, block in enumerate(blocks):
        is_last = index + 1 == len(blocks)
        # Nothing stands here between two groups: what ends the one is that a part of the path ends
        is_open = (index > 0 and block.a == a) or (not is_last and blocks[index + 1].a == block.a + block.size)
        pattern += re.escape(''.join(old[a : block.a]))
        replacement += ''.join(new[b : block.b])
        a, b = block.a + block.size, block.b + block.size
        start, same, end = _BARE.fullmatch(''.join(old[block.a : a])).groups()  # type: ignore[union-attr]
        group, reference = '', ''
        if same:
            groups += 1
            group = '([^/]+)' if is_open and '/' not in same else '(.+)'
            reference = rf'\{groups}' if end or not ''.join(new[b:])[:1].isdigit() else rf'\g<{groups}>'
        pattern += re.escape(start) + group + re.escape(end)
        replacement += start + reference + end
    pattern += re.escape(''.join(old[a:])) + r'\.\w+$'
    replacement += ''.join(new[b:]) + PurePosixPath(mask).suffix
    return pattern, replacement


def apply(rule: Rule, images: Iterable[str], masks: Collection[str]) -> dict[str, str]:
    pattern = re.compile(rule[0])
    mapped = {name: pattern.subn(rule[1], name) for name in images}
    return {name: mask for name, (mask, count) in mapped.items() if count and mask in masks}


def mask_pattern(rule: Rule) -> str:
    """A regular expression, but for its ``^``, of the paths that a rule leads to."""
    parts = re.split(r'\\\d|\\g<\d>', rule[1])
    return '.+'.join(map(re.escape, parts)) + '$'


def taste(rule: Rule) -> tuple[int, int, int, str]:
    """Of two rules for as many pairs the smaller one is taken: a usual name for images, for masks, and short."""
    named = not any(word in IMAGE_WORDS for word in re.findall('[a-z0-9]+', rule[0].lower()))
    words = re.findall('[a-z]+', rule[1].lower())
    place = min((MASK_WORDS.index(word) for word in words if word in MASK_WORDS), default=len(MASK_WORDS))
    return named, place, len(rule[1]), rule[1]
