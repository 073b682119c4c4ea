from pathlib import PurePosixPath

import pytest

from segrecipes.storage.survey.pairing import best_rule
from segrecipes.storage.survey.rule import apply, rule_between
from segrecipes.storage.survey.words import core, is_mask_folder, is_mask_name

ANY = r'\.\w+$'


@pytest.mark.parametrize(
    ('image', 'mask', 'pattern', 'replacement'),
    [
        ('images/train/a_1.jpg', 'masks/train/a_1.png', '^images/(.+)', r'masks/\1.png'),
        ('train/images/1.jpg', 'train/masks/1.png', '^(.+)/images/(.+)', r'\1/masks/\2.png'),
        ('imgs/a.jpg', 'annotations/a.png', '^imgs/(.+)', r'annotations/\1.png'),
        ('train/001.png', 'trainannot/001.png', '^([^/]+)/([^/]+)', r'\1annot/\2.png'),
        ('train_images/a.jpg', 'train_masks/a.png', '^(.+)_images/(.+)', r'\1_masks/\2.png'),
        ('train/a.jpg', 'train_labels/a_L.png', '^([^/]+)/([^/]+)', r'\1_labels/\2_L.png'),
        ('a/a_2.tif', 'a/a_2_mask.tif', '^(.+)', r'\1_mask.tif'),
        ('a.jpg', 'a-seg.gif', '^(.+)', r'\1-seg.gif'),
        ('1.jpg', 'masks/1.png', '^(.+)', r'masks/\1.png'),
        ('x/1.jpg', 'x/masks/1.png', '^([^/]+)/([^/]+)', r'\1/masks/\2.png'),
        ('x/image.png', 'x/mask.png', '^(.+)/image', r'\1/mask.png'),
        ('img_001.png', 'mask_001.png', '^img_(.+)', r'mask_\1.png'),
        ('image001.png', 'label001.png', '^image(.+)', r'label\1.png'),
        ('a/sat/1_sat.jpg', 'a/1_mask.png', '^(.+)/sat/(.+)_sat', r'\1/\2_mask.png'),
        ('leftImg8bit/train/ulm/ulm_0_1_leftImg8bit.png', 'gtFine/train/ulm/ulm_0_1_gtFine_labelIds.png',
         '^leftImg8bit/(.+)_leftImg8bit', r'gtFine/\1_gtFine_labelIds.png'),
    ],
)  # fmt: skip
def test_rule_between(image: str, mask: str, pattern: str, replacement: str) -> None:
    rule = rule_between(image, mask)
    assert rule == (pattern + ANY, replacement)
    assert core(image) == core(mask)
    assert apply(rule, [image], {mask}) == {image: mask}
    assert is_mask_folder(str(PurePosixPath(mask).parent)) or is_mask_name(PurePosixPath(mask).stem)
    assert not is_mask_folder(str(PurePosixPath(image).parent)) and not is_mask_name(PurePosixPath(image).stem)


def test_the_usual_names_are_taken_of_two_that_would_do() -> None:
    images = [f'{folder}/{n}.png' for folder in ('JPEGImages', 'SegmentationObject') for n in range(9)]
    masks = [f'{folder}/{n}.png' for folder in ('labels', 'SegmentationClass') for n in range(9)]
    [pairing] = best_rule(images, masks, 'so')
    assert pairing.mask == (rf'^JPEGImages/(.+){ANY}', r'labels/\1.png')
    assert pairing.others[rf'^JPEGImages/(.+){ANY} → SegmentationClass/\1.png'] == 9
    [pairing] = best_rule(images, [*masks[1:9], *masks[9:]], 'so')  # more pairs count for more than names
    assert pairing.mask == (rf'^JPEGImages/(.+){ANY}', r'SegmentationClass/\1.png')
    assert best_rule(images, ['masks/x.png'], 'so') == []
