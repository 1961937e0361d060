"""RECLF's objective: reports and images aligned by what their words find in the image's regions, and how that is related."""

import torch
from torch import Tensor

from hardneg_plugin.errors import UserError
from hardneg_plugin.functional.losses import info_nce_of_logits
from hardneg_plugin.objectives.batch import EmbeddedBatch, HardNegatives
from hardneg_plugin.objectives.embeddings import PairEmbeddings
from hardneg_plugin.objectives.local_features import LocalFeatures, PartHeads
from hardneg_plugin.objectives.objective import HardNegativeObjective
from hardneg_plugin.objectives.reclf.relations import WordRegionScorer


class RelationEnhancedObjective(HardNegativeObjective):
    """`HardNegativeObjective` and contrasts of pairs by local matchings (RECLF, IEEE TMI 2025, arXiv 2401.10501; reconstructed).

    Each word looks for its region; how they differ is a matching. Matchings that belong together inform each other (semantic
    relations), and those of important words count for more (importance relations). Each read-out gives every report a score with
    every image, which are contrasted both ways; matches are left out. Hard negatives whose words and regions are there, of the
    batch or carried by it (`Paired`), are further columns; those of a queue or a bank, and hardened ones, exist as whole embeddings
    only, and count in the global contrast.

    Needs `PairEmbeddings.regions` and `.words`.

    Args:
        image_width, report_width: of the region and word features, and of the pooled ones.
        width: D, of the embeddings.
        word_region_width: S, of the matchings; a quarter of `width` is usual, and a step's time grows with it.
        attention_scale: τ1: how sharply a word looks.
        score_scale: τ3: factor of the scores in the contrast.
        rounds: of semantic reasoning; 0: without semantic relations.
        weigh_words: with importance relations. Without both, the mean of the matchings is scored.
        local_weight: of the local contrasts beside the global one, each.
        negative_weight: of a hard negative's further column, from 0.
        chunk: reports at a time; memory grows with it (`WordRegionScorer.all_pairs`). Several chunks are computed twice.
            Pairs with what the batch carries, 2 K of each study, are kept beside it.
        options: of `HardNegativeObjective`.

    Under DDP regions and words of all ranks are gathered; the rest is as there.

    Raises:
        UserError: a number is out of its range.
    """

    def __init__(
        self,
        *,
        image_width: int,
        report_width: int,
        width: int,
        word_region_width: int = 64,
        attention_scale: float = 4.0,
        score_scale: float = 10.0,
        rounds: int = 3,
        weigh_words: bool = True,
        local_weight: float = 1.0,
        negative_weight: float = 1.0,
        chunk: int = 4,
        **options: object,
    ) -> None:
        for name, value, least in (
            ("word_region_width", word_region_width, 1),
            ("rounds", rounds, 0),
            ("chunk", chunk, 1),
            ("local_weight", local_weight, 0),
            ("negative_weight", negative_weight, 0),
        ):
            if value < least:
                raise UserError(f"objective=reclf: expected {name} from {least}, but got {value}.")
        if attention_scale <= 0 or score_scale <= 0:
            raise UserError(
                "objective=reclf: expected attention_scale and score_scale above 0, "
                f"but got {attention_scale} and {score_scale}."
            )
        super().__init__(image_width=image_width, report_width=report_width, width=width, **options)  # type: ignore[arg-type]
        with torch.random.fork_rng(devices=[]):  # as of the other heads
            self.parts = PartHeads(image_width, report_width, width)
            self.scores = WordRegionScorer(
                width, word_region_width, attention_scale=attention_scale, rounds=rounds, weigh=weigh_words
            )
        self.score_scale, self.local_weight, self.negative_weight = score_scale, local_weight, negative_weight
        self.chunk = chunk

    def pair_scores(self, images: Tensor, regions: LocalFeatures, reports: Tensor, words: LocalFeatures) -> Tensor:
        """How well each of M reports fits each of N images: the logits of all contrasts, summed as the loss weighs them.

        Args:
            images: `(N, D)` of unit length, as of `project`.
            regions: theirs, as of `parts`.
            reports: `(M, D)` of unit length.
            words: theirs.

        Returns:
            `(M, N)` float32.
        """
        with torch.autocast(images.device.type, enabled=False):
            local = self.scores.all_pairs(words, regions, self.chunk).sum(0)
            scales = self._scales_of_this_step()
            whole = (scales[0] if len(scales) else self.score_scale) * reports @ images.T
            return whole + self.local_weight * self.score_scale * local

    def _align(
        self, pairs: PairEmbeddings, batch: EmbeddedBatch, negatives: HardNegatives, hardened: Tensor | None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        whole, logs = super()._align(pairs, batch, negatives, hardened)
        local = torch.stack(self._contrasts(pairs, batch, negatives))
        return whole + self.local_weight * local.sum(0), {
            **logs,
            "global_loss": whole.detach().mean(),
            "local_loss": local.detach().mean(),
        }

    def _contrasts(self, pairs: PairEmbeddings, batch: EmbeddedBatch, negatives: HardNegatives) -> list[Tensor]:
        words, regions = self.parts(pairs)
        own = batch.shards.local
        if len(batch.shards.sizes) == 1:
            scores = self.scores.all_pairs(words, regions, self.chunk)
            to_report, to_image = scores.transpose(1, 2), scores
        else:
            to_report = self.scores.all_pairs(words.gathered(batch.shards), regions, self.chunk).transpose(1, 2)
            to_image = self.scores.all_pairs(words, regions.gathered(batch.shards), self.chunk)
        if negatives is batch.paired and pairs.negatives is not None:
            hard = self._scores_of_paired(pairs.negatives, words, regions)
            counts = negatives.valid
        else:
            places = negatives.places.clamp_min(0).expand(len(to_report), -1, -1)
            hard = (to_report.gather(2, places), to_image.gather(2, places))
            counts = negatives.valid & (negatives.places >= 0)
        weight = self.negative_weight * counts.to(to_report.dtype)
        losses = []
        for read in range(len(to_report)):
            both = [
                info_nce_of_logits(
                    self.score_scale * scores[read],
                    first=own.start,
                    is_match=batch.is_match,
                    hard=self.score_scale * of_hard[read],
                    hard_weight=weight,
                )
                for scores, of_hard in zip((to_report, to_image), hard, strict=True)
            ]
            losses.append((both[0] + both[1]) / 2)
        return losses

    def _scores_of_paired(
        self, carried: PairEmbeddings, words: LocalFeatures, regions: LocalFeatures
    ) -> tuple[Tensor, Tensor]:
        """Of each own image with the K reports that its study carries, and of each own report with their images: `(R, B, K)`."""
        studies = len(words.features)
        their_words, their_regions = (
            LocalFeatures(*(part.unflatten(0, (studies, -1)) for part in parts)) for parts in self.parts(carried)
        )
        own_words, own_regions = (LocalFeatures(*(part[:, None] for part in parts)) for parts in (words, regions))
        return self.scores(their_words, own_regions), self.scores(own_words, their_regions)
