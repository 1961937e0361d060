"""Samples of one study each into the batch that a model receives."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from hardneg_plugin.data.studies import Batch, Sample
from hardneg_plugin.data.tokenizer import Tokenizer
from hardneg_plugin.errors import UserError
from hardneg_plugin.functional.match_keys import match_key
from hardneg_plugin.knowledge import Knowledge


@dataclass(frozen=True)
class StudyCollator:
    """Tokenizes, pads views and tokens, and keys the studies for matching.

    A report longer than `max_length` loses its end token with its tail: a model must not learn to stop where a text
    was cut.

    Args:
        tokenizer: makes token ids of reports.
        max_length: tokens kept, including the leading and the closing 0; >= 2.
        knowledge: whose prompts each report is read for; None: no `facts` in the batch.

    Raises:
        UserError: `max_length` < 2.

    >>> from hardneg_plugin.data.phantom import PhantomStudies
    >>> from hardneg_plugin.data.tokenizer import WordTokenizer
    >>> studies = PhantomStudies(train=4, size=32).split("train")
    >>> collate = StudyCollator(WordTokenizer.from_reports(studies.reports, min_count=1), max_length=20)
    >>> batch = collate([studies[0], studies[1]])
    >>> batch["images"].shape, batch["tokens"].shape, batch["match_keys"].shape
    (torch.Size([2, 2, 1, 32, 32]), torch.Size([2, 20]), torch.Size([2, 4]))
    """

    tokenizer: Tokenizer
    max_length: int
    knowledge: Knowledge | None = None

    def __post_init__(self) -> None:
        if self.max_length < 2:
            raise UserError(f"Expected `max_length` >= 2 (begin and one token), but got {self.max_length}.")

    def __call__(self, samples: Sequence[Sample]) -> Batch:
        """Batch B samples.

        `references` are the cleaned reports with single blanks. `cut_references` are the kept tokens decoded, with `<unk>` for
        rare words; published systems score against these. The batch has `negatives` and edited copies if the samples have.

        Raises:
            ValueError: images differ in height or width.
        """
        _check_sizes(samples)
        references = [" ".join(self.tokenizer.clean(sample["report"]).split()) for sample in samples]
        tokens = [self._tokens(sample["report"]) for sample in samples]
        keys = [
            [match_key(sample["id"]), match_key(sample["patient"]), match_key(text), match_key(sample["labels"])]
            for sample, text in zip(samples, references, strict=True)
        ]
        batch = Batch(
            ids=[sample["id"] for sample in samples],
            images=pad_sequence([sample["images"] for sample in samples], batch_first=True),
            view_mask=_mask([len(sample["images"]) for sample in samples]),
            tokens=pad_sequence(tokens, batch_first=True),
            token_mask=_mask([len(row) for row in tokens]),
            references=references,
            cut_references=[self.tokenizer.decode(row.tolist()) for row in tokens],
            patients=[sample["patient"] for sample in samples],
            labels=[sample["labels"] for sample in samples],
            match_keys=torch.tensor(keys),
        )
        if "edited" in samples[0]:
            batch["edited_tokens"], batch["edited_mask"] = self._edited(samples, tokens)
        if self.knowledge is not None:
            batch["facts"] = torch.tensor([self.knowledge.facts(sample["report"]) for sample in samples])
        if "boxes" in samples[0]:
            batch["boxes"] = pad_sequence(
                [sample["boxes"] for sample in samples], batch_first=True, padding_value=torch.nan
            )
        if "emphasis" in samples[0]:
            rows = [torch.from_numpy(sample["emphasis"][: self.max_length]) for sample in samples]
            batch["emphasis"] = pad_sequence(rows, batch_first=True)
        if negatives := [negative for sample in samples for negative in sample.get("negatives", ())]:
            batch["negatives"] = self(negatives)
        return batch

    def _tokens(self, text: str) -> Tensor:
        return torch.tensor(self.tokenizer.encode(text)[: self.max_length])

    def _edited(self, samples: Sequence[Sample], tokens: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Tokens and mask of the copies, each `(B, N, T)`."""
        rows, kept = [], []
        for sample, own in zip(samples, tokens, strict=True):
            copies = [own if text is None else self._tokens(text) for text in sample["edited"]]
            rows += copies
            # of a copy that differs behind the cut only, nothing is left
            kept += [not torch.equal(copy, own) for copy in copies]
        mask = _mask([len(row) for row in rows]) & torch.tensor(kept)[:, None]
        shape = (len(samples), -1, mask.shape[1])
        return pad_sequence(rows, batch_first=True).view(shape), mask.view(shape)


def _mask(lengths: list[int]) -> Tensor:
    return torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]


def _check_sizes(samples: Sequence[Sample]) -> None:
    first = samples[0]
    for sample in samples:
        if sample["images"].shape[1:] != first["images"].shape[1:]:
            shapes = tuple(first["images"].shape), tuple(sample["images"].shape)
            raise ValueError(
                f"Expected images (V, 1, H, W) of one size in a batch, but got {shapes[0]} for study {first['id']!r} "
                f"and {shapes[1]} for study {sample['id']!r}."
            )
