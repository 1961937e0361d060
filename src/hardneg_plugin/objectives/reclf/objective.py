"""The objective of RECLF: reports and images aligned by words that attend to regions, and by relations between these words."""

from functools import partial

import torch
from torch import Tensor

from hardneg_plugin.errors import require_count, require_number
from hardneg_plugin.functional.losses import info_nce_of_logits
from hardneg_plugin.objectives.batch import EmbeddedBatch, HardNegatives
from hardneg_plugin.objectives.embeddings import PairEmbeddings
from hardneg_plugin.objectives.local_features import LocalFeatures, PartHeads
from hardneg_plugin.objectives.objective import HardNegativeObjective
from hardneg_plugin.objectives.reclf.relations import WordRegionScorer


class RelationEnhancedObjective(HardNegativeObjective):
    """`HardNegativeObjective` with contrasts of words and regions (RECLF, IEEE TMI 2025, arXiv 2401.10501; reconstructed).

    Each word attends to the regions; a vector says how it differs from what it attends to. The vectors of words that belong
    together inform each other (semantic relations), and those of important words count more (importance relations). Each read-out
    scores every report with every image, and the scores are contrasted both ways. Hard negatives of the batch, or paired with it,
    are an extra column; those of a queue or a bank, and hardened ones, have no words and regions and count in the global contrast
    alone.

    Needs `PairEmbeddings.regions` and `.words`.

    Args:
        image_width: of region features and pooled image features.
        report_width: of word features and pooled report features.
        width: D, of the embeddings.
        word_region_width: S, of the word-region vectors, usually a quarter of `width`; the time of a step grows with it.
        attention_scale: τ1, > 0, of the words' attention.
        score_scale: τ3, > 0, the logit scale of the scores.
        rounds: of semantic reasoning, >= 0; 0: no semantic relations.
        weigh_words: with importance relations. Without both relations the mean of the vectors is scored.
        local_weight: of each local contrast beside the global one, >= 0.
        negative_weight: of the extra column, >= 0.
        chunk: reports at a time, a positive integer; memory grows with it (`WordRegionScorer.all_pairs`). Several chunks are
            computed twice. Pairs with paired studies, 2 K of each study, are computed at once.
        options: of `HardNegativeObjective`.

    Under DDP words and regions of all ranks are gathered.

    >>> from hardneg_plugin.objectives.schedule import TrainingProgress
    >>> objective = RelationEnhancedObjective(image_width=6, report_width=4, width=8, word_region_width=4)
    >>> pairs = PairEmbeddings(
    ...     images=torch.randn(3, 6), reports=torch.randn(3, 4), regions=torch.randn(3, 9, 6), words=torch.randn(3, 5, 4)
    ... )
    >>> sorted(objective(pairs, TrainingProgress(fraction=0.5)).logs)[:3]
    ['false_negative_share', 'global_loss', 'hardened_similarity']

    Raises:
        UserError: a number out of its range.
    """

    reads_parts = True

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
        require_count(word_region_width, "objective=reclf", "word_region_width >= 1")
        require_count(rounds, "objective=reclf", "rounds >= 0", least=0)
        require_count(chunk, "objective=reclf", "chunk >= 1")
        require_number(local_weight, "objective=reclf", "local_weight >= 0", least=0)
        require_number(negative_weight, "objective=reclf", "negative_weight >= 0", least=0)
        require_number(attention_scale, "objective=reclf", "attention_scale > 0", above=0)
        require_number(score_scale, "objective=reclf", "score_scale > 0", above=0)
        super().__init__(image_width=image_width, report_width=report_width, width=width, **options)  # type: ignore[arg-type]
        with torch.random.fork_rng(devices=[]):  # as of the other heads
            self.parts = PartHeads(image_width, report_width, width)
            self.scores = WordRegionScorer(
                width, word_region_width, attention_scale=attention_scale, rounds=rounds, weigh=weigh_words
            )
        self.score_scale, self.local_weight, self.negative_weight = score_scale, local_weight, negative_weight
        self.chunk = chunk

    def pair_scores(self, images: Tensor, regions: LocalFeatures, reports: Tensor, words: LocalFeatures) -> Tensor:
        """How well each of M reports fits each of N images: the logits of all contrasts, weighted as in the loss.

        Args:
            images: `(N, D)`, from `project`.
            regions: of the images, from `parts`.
            reports: `(M, D)`, from `project`.
            words: of the reports, from `parts`.

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
            "global_loss": batch.local_mean(whole),
            "local_loss": batch.local_mean(local.mean(0)),
        }

    def _contrasts(self, pairs: PairEmbeddings, batch: EmbeddedBatch, negatives: HardNegatives) -> list[Tensor]:
        words, regions = self.parts(pairs)
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
        scale, first = self.score_scale, batch.shards.local.start
        contrast = partial(info_nce_of_logits, first=first, is_match=batch.is_match, hard_weight=weight)
        return [
            (contrast(scale * reports, hard=scale * hard_reports) + contrast(scale * images, hard=scale * hard_images))
            / 2
            for reports, images, hard_reports, hard_images in zip(to_report, to_image, *hard, strict=True)
        ]

    def _scores_of_paired(
        self, paired: PairEmbeddings, words: LocalFeatures, regions: LocalFeatures
    ) -> tuple[Tensor, Tensor]:
        """Each local image with the K reports paired with it, and each local report with their images: `(R, B, K)` each."""
        studies = len(words.features)
        paired_words, paired_regions = (
            LocalFeatures(*(part.unflatten(0, (studies, -1)) for part in parts)) for parts in self.parts(paired)
        )
        words, regions = (LocalFeatures(*(part[:, None] for part in parts)) for parts in (words, regions))
        return self.scores(paired_words, regions), self.scores(words, paired_regions)
