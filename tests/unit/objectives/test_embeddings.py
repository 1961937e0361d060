"""What a host gives: each field is checked by itself, and what is right is taken as it is."""

import pytest
import torch

from hardneg_plugin import PairEmbeddings
from hardneg_plugin.functional.match_keys import MatchKeys

GIVEN = {"images": torch.ones(3, 4), "reports": torch.ones(3, 5)}
PARTS = {
    "regions": torch.ones(3, 6, 4),
    "region_mask": torch.ones(3, 6, dtype=torch.bool),
    "words": torch.ones(3, 7, 5),
    "word_mask": torch.ones(3, 7, dtype=torch.bool),
    "entities": torch.ones(3, 2, 8),
    "facts": torch.ones(3, 2),
    "negatives": PairEmbeddings(images=torch.ones(6, 4), reports=torch.ones(6, 5)),
}


def test_all_fields_together_and_each_alone():
    assert torch.equal(PairEmbeddings(**GIVEN, **PARTS).words, PARTS["words"])
    for name, value in PARTS.items():
        if not name.endswith("mask"):
            assert getattr(PairEmbeddings(**GIVEN, **{name: value}), name) is value


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"images": torch.ones(3, 6, 4)}, r"`images` \(B, D_i\).*got \(3, 6, 4\) and \(3, 5\). Pool over"),
        ({"images": torch.ones(3)}, r"got \(3,\) and \(3, 5\)"),
        ({"reports": torch.ones(3, 6, 5)}, r"got \(3, 4\) and \(3, 6, 5\)"),
        ({"reports": torch.ones(2, 5)}, r"got \(3, 4\) and \(2, 5\)"),
        ({"regions": torch.ones(3, 4)}, r"`regions` \(3, parts, width\), but got \(3, 4\)"),
        ({"regions": torch.ones(2, 6, 4)}, r"`regions` \(3, parts, width\), but got \(2, 6, 4\)"),
        ({"words": torch.ones(3, 5)}, r"`words` \(3, parts, width\), but got \(3, 5\)"),
        ({"words": torch.ones(4, 7, 5)}, r"`words` \(3, parts, width\), but got \(4, 7, 5\)"),
        ({"region_mask": torch.ones(3, 6)}, r"no mask without `regions`, but got \(3, 6\)"),
        ({"word_mask": torch.ones(3, 7)}, r"no mask without `words`, but got \(3, 7\)"),
        (
            {"regions": PARTS["regions"], "region_mask": torch.ones(3, 7)},
            r"`region_mask` \(3, 6\), but got \(3, 7\)",
        ),
        ({"words": PARTS["words"], "word_mask": torch.ones(3, 7, 1)}, r"`word_mask` \(3, 7\), but got \(3, 7, 1\)"),
        ({"entities": torch.ones(2, 2, 8)}, r"`entities` of 3 studies, but got \(2, 2, 8\)"),
        ({"facts": torch.ones(4, 2)}, r"`facts` of 3 studies, but got \(4, 2\)"),
        ({"negatives": PairEmbeddings(torch.ones(4, 4), torch.ones(4, 5))}, r"each of 3 studies, but got 4 rows"),
        ({"match_keys": MatchKeys.of(2)}, r"`match_keys` of 3 studies, but got 2"),
        ({"match_keys": MatchKeys.of(3), "labels": ["a", "b", "c"]}, r"either `match_keys` or .* got both"),
    ],
)
def test_each_field_is_checked_by_itself(fields, message):
    with pytest.raises(ValueError, match=message):
        PairEmbeddings(**{**GIVEN, **fields})


def test_a_batch_without_studies_has_no_paired_ones():
    none = {"images": torch.ones(0, 4), "reports": torch.ones(0, 5)}
    assert len(PairEmbeddings(**none).match_keys) == 0
    with pytest.raises(ValueError, match=r"K rows for each of 0 studies, but got 6 rows"):
        PairEmbeddings(**none, negatives=PARTS["negatives"])
