"""What is logged of the contrast of one step, against plain loops over studies and negatives."""

import pytest
import torch
import torch.nn.functional as F

from hardneg_plugin.distributed import Shards
from hardneg_plugin.functional.match_keys import MatchKeys
from hardneg_plugin.objectives import EmbeddedBatch
from hardneg_plugin.objectives.batch import HardNegatives
from hardneg_plugin.objectives.batch_logs import batch_logs
from hardneg_plugin.objectives.schedule import TrainingProgress


def unit(*shape, seed):
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


def logs_in_loops(batch, negatives, hardened):
    """By the definitions; `batch.is_match` is not asked."""
    images, reports, usable = batch.images, batch.reports, batch.usable.tolist()
    here = [i for i, counts in enumerate(usable) if counts]
    places = {i: batch.shards.local.start + i for i in here}
    pairs = [
        (places[i], j) for i in here for j in range(len(batch.all_images)) if batch.all_usable[j] and j != places[i]
    ]
    matches = [(i, j) for i, j in pairs if (batch.all_keys.columns[i] == batch.all_keys.columns[j]).any()]
    found = [(i, j) for i in here for j in range(negatives.valid.shape[1]) if negatives.valid[i, j]]

    def mean(values):
        return float(sum(values)) / max(len(values), 1)

    return {
        "hardness": 0.3,
        "positive_similarity": mean([images[i] @ reports[i] for i in here]),
        "negative_similarity": mean([images[i] @ negatives.reports[i, j] for i, j in found]),
        "hardened_similarity": mean([images[i] @ hardened[i, j] for i, j in found]),
        "negatives_found": len(found) / max(negatives.valid.shape[1] * len(here), 1),
        "false_negative_share": len(matches) / max(len(pairs), 1),
        "non_finite_share": mean([not counts for counts in batch.all_usable.tolist()]),
    }


@pytest.mark.parametrize(
    ("sizes", "rank", "unusable"),
    [
        ((5,), 0, []),
        ((5,), 0, [1]),
        ((2, 4), 1, [0, 3]),
        ((3, 2), 0, [4]),
        ((1, 1), 1, []),
        ((1, 1), 0, [0]),
        ((1,), 0, []),
        ((3,), 0, [0, 1, 2]),
    ],
    ids=str,
)
@pytest.mark.parametrize("k", [1, 3])
def test_every_scalar_is_what_its_name_says(sizes, rank, unusable, k):
    total, here = sum(sizes), sizes[rank]
    usable = torch.tensor([i not in unusable for i in range(total)])
    keys = MatchKeys.of(
        total, study_ids=[f"study {i}" for i in range(total)], texts=["a", "a", "b", "c", "b", "a"][:total]
    )
    keys = MatchKeys(keys.columns[:, [0, 2]])
    batch = EmbeddedBatch(
        unit(total, 4, seed=1).where(usable[:, None], 0),
        unit(total, 4, seed=2).where(usable[:, None], 0),
        keys,
        Shards(rank, sizes),
        TrainingProgress(),
        all_usable=usable,
    )
    valid = torch.arange(here * k).view(here, k) % 3 != 1
    negatives, hardened = HardNegatives(unit(here, k, 4, seed=3), None, valid), unit(here, k, 4, seed=4)
    logs = batch_logs(batch, negatives, hardened, 0.3)
    assert {name: value.item() for name, value in logs.items()} == pytest.approx(
        logs_in_loops(batch, negatives, hardened), abs=1e-6
    )
    without = batch_logs(batch, negatives, None, 0.3)
    assert set(logs) - set(without) == {"hardened_similarity"}
