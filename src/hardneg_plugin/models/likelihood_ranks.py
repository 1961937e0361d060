"""How high studies rank by the likelihood of their reports: own image against those of peers, own report against theirs.

From teacher-forced passes only, so that neither decoding nor the words that all reports share come in between.
"""

from collections.abc import Sequence
from typing import NamedTuple, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from hardneg_plugin.backbones.decoder import ReportDecoder, evaluating
from hardneg_plugin.backbones.visual import VisualFeatures
from hardneg_plugin.data.studies import Batch
from hardneg_plugin.distributed import rank, world_size
from hardneg_plugin.functional.likelihood import token_losses
from hardneg_plugin.metrics.peers import Peers

Value = TypeVar("Value")

TIE = 1e-3
"""Log-likelihoods this close, in nats over a report, are equal: those of equal images differ by rounding."""


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

    def compute(self, decoder: ReportDecoder, device: torch.device) -> dict[str, dict[str, float]]:
        """By study its ranks among its peers, and forget all studies; a collective call.

        "likelihood_rank" is that of its reference among those of its peers, with its image; "likelihood_r2i_rank" that of its image
        among those of its peers, with its reference. 1 is the likeliest; ties count against the study. One without peers has none.

        Args:
            decoder: reads 31 reports of each study.
            device: that it is on.
        """
        studies, self._studies = _of_all_ranks(self._studies), {}
        if not studies:
            return {}
        kept = list(studies.values())
        peers = Peers.of(*([getattr(one, name) for one in kept] for name in ("reference", "patient", "labels"))).index
        found = {}
        with evaluating(decoder), torch.no_grad():
            for row in range(rank(), len(kept), world_size()):
                others = [kept[peer] for peer in peers[row] if peer >= 0]
                if others:
                    found[list(studies)[row]] = _ranks(decoder, kept[row], others, device)
        return _of_all_ranks(found)


def _ranks(decoder: ReportDecoder, own: _Kept, others: Sequence[_Kept], device: torch.device) -> dict[str, float]:
    def losses(images: Sequence[_Kept], reports: Sequence[_Kept]) -> Tensor:
        count = len(others) + 1
        patches = pad_sequence([one.patches.float() for one in images], batch_first=True).to(device)
        lengths = torch.tensor([len(one.patches) for one in images], device=device)
        mask = torch.arange(patches.shape[1], device=device) < lengths[:, None]
        tokens = pad_sequence([one.tokens for one in reports], batch_first=True).to(device)
        token_lengths = torch.tensor([len(one.tokens) for one in reports], device=device)
        token_mask = torch.arange(tokens.shape[1], device=device) < token_lengths[:, None]
        patches, mask = patches.expand(count, -1, -1), mask.expand(count, -1)
        tokens, token_mask = tokens.expand(count, -1), token_mask.expand(count, -1)
        log_probs = decoder.log_probs(patches, tokens, patch_mask=None if bool(mask.all()) else mask)
        return token_losses(log_probs, tokens, token_mask).of_reports

    def place(all_losses: Tensor) -> float:
        return 1.0 + float((all_losses[1:] <= all_losses[0] + TIE).sum())

    return {
        "likelihood_rank": place(losses([own], [own, *others])),
        "likelihood_r2i_rank": place(losses([own, *others], [own])),
    }


def _of_all_ranks(found: dict[str, Value]) -> dict[str, Value]:
    """The entries of all ranks, the first of each key, sorted by key."""
    gathered = [found]
    if world_size() > 1:
        gathered = [{} for _ in range(world_size())]
        dist.all_gather_object(gathered, found)
    first = {key: value for one in reversed(gathered) for key, value in one.items()}
    return dict(sorted(first.items()))
