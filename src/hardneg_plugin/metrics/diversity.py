"""How much generated reports differ: word overlap can look fine while every study gets the same report."""

from collections import Counter
from collections.abc import Sequence
from itertools import chain, pairwise

FEW_STUDIES = 20
"""With fewer studies, equal reports mean nothing."""
COLLAPSED_SHARE = 0.02
"""The smallest share of distinct reports that passes without a warning."""


def diversity(generated: Sequence[str]) -> dict[str, float]:
    """How much N >= 1 generated reports vary; words are separated by whitespace.

    Returns:
        "unique_share", the share of distinct reports; "distinct-1" and "distinct-2", the shares of distinct words and word pairs
        among all, 0 if there are none; each in [0, 1]. "length", the mean number of words.

    Source: distinct-n after Li et al., "A Diversity-Promoting Objective Function for Neural Conversation Models", 2016.

    >>> diversity(["the heart is normal .", "the heart is normal ."])
    {'unique_share': 0.5, 'distinct-1': 0.5, 'distinct-2': 0.5, 'length': 5.0}
    """
    texts = [tuple(text.split()) for text in generated]
    words = list(chain.from_iterable(texts))
    pairs = list(chain.from_iterable(pairwise(text) for text in texts))
    return {
        "unique_share": len(set(texts)) / len(texts),
        "distinct-1": len(set(words)) / max(1, len(words)),
        "distinct-2": len(set(pairs)) / max(1, len(pairs)),
        "length": len(words) / len(texts),
    }


def collapse_warning(generated: Sequence[str]) -> str | None:
    """A warning that a model writes the same few reports for all studies; None if it does not.

    The limit is fewer than max(2, 2 % of N) distinct reports for N >= 20 studies.
    """
    counts = Counter(" ".join(text.split()) for text in generated)
    if len(generated) < FEW_STUDIES or len(counts) >= max(2.0, COLLAPSED_SHARE * len(generated)):
        return None
    commonest, times = counts.most_common(1)[0]
    excerpt = commonest if len(commonest) <= 80 else commonest[:80].rsplit(" ", 1)[0] + " ..."
    reports = "one report" if len(counts) == 1 else f"{len(counts)} different reports"
    return (
        f"The model wrote {reports} for {len(generated)} studies; {times} got {excerpt!r}. Scores of word overlap can "
        "look fine nevertheless. Early in training this is normal; later, check that the images reach the decoder, and lower "
        "the learning rate."
    )
