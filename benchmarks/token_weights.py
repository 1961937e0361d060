"""Mean weights of tokens by text, on the training reports of the built-in clinic: what the scales of conf/token_weights/ are from.

Also how much of each emphasis lies on sentences that state a finding. Nearness within a batch of `by_text` is that of TF-IDF here;
in training it is that of the model's report embeddings.

    python benchmarks/token_weights.py
"""

import re

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.utils.rnn import pad_sequence

from hardneg_plugin.data.phantom import PhantomStudies
from hardneg_plugin.data.token_emphasis import Emphasise, FindingWords, InverseDocumentFrequency, LackedByOthers
from hardneg_plugin.data.tokenizer import WordTokenizer
from hardneg_plugin.functional.hard_negatives import most_similar
from hardneg_plugin.functional.likelihood import weights_by_text
from hardneg_plugin.functional.match_keys import MatchKeys
from hardneg_plugin.neighbours.embedders import TfidfEmbedder

SOURCE = PhantomStudies(train=4000, val=1, test=1, regime="clinic", cache=False)
STUDIES = SOURCE.split("train")
TOKENIZER = WordTokenizer.from_reports(STUDIES.reports)
TOKENS = [TOKENIZER.encode(report)[:64] for report in STUDIES.reports]


def by_text(*, nearest: bool, k: int = 4, scale: float = 6.0) -> NDArray[np.float32]:
    """Weights of all tokens of one epoch, by reports of their batch of 16."""
    embeddings = torch.from_numpy(TfidfEmbedder()(STUDIES.reports).toarray())
    keys = MatchKeys.of(
        len(STUDIES),
        study_ids=STUDIES.ids,
        texts=[TOKENIZER.clean(text) for text in STUDIES.reports],
        labels=STUDIES.labels,
    ).columns
    random = torch.Generator().manual_seed(0)
    found = []
    for batch in torch.randperm(len(STUDIES), generator=random).split(16):
        rows = [torch.tensor(TOKENS[index][1:]) for index in batch.tolist()]
        mask = pad_sequence([torch.ones_like(row) for row in rows], batch_first=True).bool()
        own = keys[batch]
        is_match = ((own[:, None] == own) & (own != -1)).any(-1)
        similarity = embeddings[batch] @ embeddings[batch].T
        if not nearest:
            similarity = torch.rand(similarity.shape, generator=random)
        index, valid = most_similar(similarity, is_match, k=k)
        weights = weights_by_text(pad_sequence(rows, batch_first=True), mask, index, valid, scale=scale)
        found.append(weights[mask].numpy())
    return np.concatenate(found)


def emphasised(emphasise: Emphasise) -> NDArray[np.float32]:
    """The emphasis of all tokens."""
    return np.concatenate([emphasise(index, 0, tokens)[1:] for index, tokens in enumerate(TOKENS)])


def state_findings() -> NDArray[np.bool_]:
    """Whether each token is one of a sentence that states a finding; the end of a report is not."""
    found: list[bool] = []
    for report, tokens in zip(STUDIES.reports, TOKENS, strict=True):
        flags = [
            bool(SOURCE.read_findings(sentence))
            for sentence in re.split(r"(?<=\.)\s", TOKENIZER.clean(report))
            for _ in sentence.split()
        ]
        found += [*flags, False][: len(tokens) - 1]
    return np.array(found)


def main() -> None:
    """Print one line for each choice."""
    in_findings = state_findings()
    print(f"{in_findings.mean():.0%} of the tokens lie in sentences that state a finding")
    target = by_text(nearest=True).mean()
    print(f"{'by_text, nearest':<28} mean weight {target:.2f}")
    print(f"{'by_text, random':<28} mean weight {by_text(nearest=False).mean():.2f}")
    for name, emphasis, scale in (
        ("by_training_reports", LackedByOthers(), 6.0),
        ("by_training_reports, random", LackedByOthers("random"), 6.0),
        ("by_frequency", InverseDocumentFrequency(), 17.0),
        ("finding_words", FindingWords(), 6.0),
    ):
        values = emphasised(emphasis.fitted(SOURCE, TOKENIZER))
        print(
            f"{name:<28} mean weight {1 + scale * values.mean():.2f}, emphasised {(values > 0).mean():.0%} of the tokens, "
            f"scale for the mean of by_text {(target - 1) / values.mean():.1f}, "
            f"{values[in_findings].sum() / values.sum():.0%} of it in sentences that state a finding"
        )


if __name__ == "__main__":
    main()
