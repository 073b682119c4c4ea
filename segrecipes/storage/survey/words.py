"""The words by which people call masks and images."""

import re
from pathlib import PurePosixPath

# Words of folders' and files' names. The earlier of two is taken where both kinds of masks are there.
MASK_WORDS = (
    'mask', 'masks', 'label', 'labels', 'annotation', 'annotations', 'annot', 'anno', 'ann', 'segmentationclass',
    'segmentationclassaug', 'segmentation', 'segmentations', 'seg', 'segs', 'gt', 'gts', 'groundtruth', 'truth',
    'gtfine', 'labelids', 'labeltrainids', 'lbl', 'target', 'targets', 'manual',
)  # fmt: skip
IMAGE_WORDS = (
    'image', 'images', 'img', 'imgs', 'jpegimages', 'photo', 'photos', 'picture', 'pictures', 'rgb', 'leftimg8bit',
    'sat', 'im', 'input', 'inputs', 'frame', 'frames',
)  # fmt: skip
MASK_ENDS = ('L', 'P')  # CamVid's, in capitals, and only where a name ends

_WORD = '|'.join(sorted((*MASK_WORDS, *IMAGE_WORDS), key=len, reverse=True))
_HEAD = re.compile(rf'(?i)(?:{_WORD})(?:[_\-. ]|(?=\d))')
_TAIL = re.compile(rf'[_\-. ](?:(?i:{_WORD})\d?|{"|".join(MASK_ENDS)})$')
TOKEN = re.compile(r'leftImg8bit|[A-Za-z]+?(?=annot(?![A-Za-z]))|[A-Za-z]+|\d+|.')


def around(stem: str) -> tuple[list[str], str]:
    """The words of either kind that a name begins and ends with, and what is left."""
    if re.fullmatch(f'(?i){_WORD}', stem):
        return [stem], ''
    head = _HEAD.match(stem)
    words = [head[0].rstrip('_-. ')] if head else []
    stem = stem[head.end() :] if head else stem
    while tail := _TAIL.search(stem):
        words.append(tail[0][1:].rstrip('0123456789'))
        stem = stem[: tail.start()]
    return words, stem


def is_mask_name(stem: str) -> bool:
    return any(word.lower() in MASK_WORDS or word in MASK_ENDS for word in around(stem)[0])


def is_mask_folder(folder: str) -> bool:
    return any(word in MASK_WORDS for word in TOKEN.findall(folder.lower()))


def core(name: str) -> str:
    """Of a path what its picture's image and mask are both called."""
    return around(PurePosixPath(name).stem)[1]
