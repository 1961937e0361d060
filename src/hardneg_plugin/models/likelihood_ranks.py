"""How high studies rank by the likelihood of their reports: own image against those of peers, own report against theirs.

From teacher-forced passes only, so that neither decoding nor the words that all reports share come in between.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from hardneg_plugin.backbones.decoder import ReportDecoder, evaluating
from hardneg_plugin.backbones.visual_features import VisualFeatures
from hardneg_plugin.data.studies import Batch
from hardneg_plugin.distributed import of_all_ranks, rank, world_size
from hardneg_plugin.functional.likelihood import token_losses
from hardneg_plugin.metrics.peers import Peers

Value = TypeVar("Value")

TIE = 1e-3
"""Log-likelihoods this close, in nats over a report, are equal: those of equal images differ by rounding."""

MEMORY = 2**28
"""Bytes of log-probabilities of one pass; a pass has at least one study with its peers."""


class _Kept(NamedTuple):
    """One study; tensors on the CPU."""

    reference: str
    patient: str | None
    labels: str | None
    patches: Tensor  # (P, D)
    tokens: Tensor  # (T,)


class LikelihoodRanks:
    """The studies of a split as they pass, with their image features, and their ranks among peers at the end.

    It keeps the features that the decoder reads, `P * D` numbers a study, in memory of the CPU.

    >>> ranks = LikelihoodRanks()
    >>> ranks.compute(decoder=None, device=torch.device("cpu"))  # of no studies
    {}
    """

    def __init__(self) -> None:
        self._studies: dict[str, _Kept] = {}

    def keep(self, batch: Batch, visual: VisualFeatures) -> None:
        """Keep B studies.

        Args:
            batch: of the studies.
            visual: their features.
        """
        masks = visual.context_mask
        for row, study in enumerate(batch["ids"]):
            patches = visual.context[row] if masks is None else visual.context[row][masks[row]]
            self._studies.setdefault(
                study,
                _Kept(
                    batch["references"][row],
                    batch["patients"][row],
                    batch["labels"][row],
                    patches.detach().cpu(),
                    batch["tokens"][row][batch["token_mask"][row]].cpu(),
                ),
            )

    def compute(
        self, decoder: ReportDecoder, device: torch.device, *, track: Callable[[Sequence[int]], Iterable[int]] = iter
    ) -> dict[str, dict[str, float]]:
        """By study its ranks among its peers, and forget all studies; a collective call.

        "likelihood_rank" is that of its reference among those of its peers, with its image; "likelihood_r2i_rank" that of its image
        among those of its peers, with its reference. 1 is the likeliest; ties count against the study. One without peers has none.

        Args:
            decoder: reads 31 reports of each study.
            device: that it is on.
            track: iterates over the passes of this process, and may show how many are done.
        """
        studies, self._studies = _merged(self._studies), {}
        if not studies:
            return {}
        kept = list(studies.values())
        peers = Peers.of(*([getattr(one, name) for one in kept] for name in ("reference", "patient", "labels"))).index
        cases = [
            (study, [kept[row], *(kept[peer] for peer in peers[row] if peer >= 0)])
            for row, study in enumerate(studies)
            if row % world_size() == rank() and peers[row].max(initial=-1) >= 0
        ]
        at_once = _studies_at_once(decoder, kept, most=max((len(group) for _, group in cases), default=1))
        found: dict[str, dict[str, float]] = {}
        with evaluating(decoder), torch.no_grad():
            for first in track(range(0, len(cases), at_once)):
                names, groups = zip(*cases[first : first + at_once], strict=True)
                found |= zip(names, _ranks(decoder, groups, device), strict=True)
        return _merged(found)


def _studies_at_once(decoder: ReportDecoder, kept: Sequence[_Kept], most: int) -> int:
    """How many studies share a pass: their log-probabilities fit in `MEMORY`.

    Args:
        decoder: has `vocab_size`.
        kept: all studies.
        most: images of a study and its peers.
    """
    tokens = max(len(one.tokens) for one in kept)
    return max(1, MEMORY // (4 * (2 * most - 1) * tokens * (decoder.vocab_size + 1)))


def _ranks(decoder: ReportDecoder, groups: Sequence[Sequence[_Kept]], device: torch.device) -> list[dict[str, float]]:
    """The ranks of the first study of each group, among all of its group."""
    members = list({id(one): one for group in groups for one in group}.values())
    place = {id(one): index for index, one in enumerate(members)}
    patches = pad_sequence([one.patches.float() for one in members], batch_first=True).to(device)
    lengths = torch.tensor([len(one.patches) for one in members], device=device)
    mask = torch.arange(patches.shape[1], device=device) < lengths[:, None]
    tokens = pad_sequence([one.tokens for one in members], batch_first=True).to(device)
    token_lengths = torch.tensor([len(one.tokens) for one in members], device=device)
    token_mask = torch.arange(tokens.shape[1], device=device) < token_lengths[:, None]

    images, reports = [], []
    for group in groups:
        own, *peers = (place[id(one)] for one in group)
        images += [own] * len(group) + peers
        reports += [own, *peers] + [own] * len(peers)
    image, report = torch.tensor(images, device=device), torch.tensor(reports, device=device)
    log_probs = decoder.log_probs_of_pairs(
        patches, tokens, image, report, patch_mask=None if bool(mask.all()) else mask
    )
    losses = token_losses(log_probs, tokens[report], token_mask[report]).of_reports
    placed = []
    for of_group, group in zip(losses.cpu().split([2 * len(group) - 1 for group in groups]), groups, strict=True):
        not_later = of_group[1:] <= of_group[0] + TIE
        of_reports, of_images = not_later.split(len(group) - 1)
        placed.append(
            {
                "likelihood_rank": 1.0 + float(of_reports.sum()),
                "likelihood_r2i_rank": 1.0 + float(of_images.sum()),
            }
        )
    return placed


def _merged(found: dict[str, Value]) -> dict[str, Value]:
    """The entries of all ranks, the first of each key, sorted by key."""
    first = {key: value for one in reversed(of_all_ranks(found)) for key, value in one.items()}
    return dict(sorted(first.items()))
