"""How much generated reports differ: word overlap can look fine while one report is written for every study."""

from collections import Counter
from collections.abc import Sequence
from itertools import chain, pairwise

FEW_STUDIES = 20
"""Below this many studies, equal reports are no sign of anything."""
COLLAPSED_SHARE = 0.02
"""Of all reports; the fewest distinct ones that pass without a warning."""


def diversity(generated: Sequence[str]) -> dict[str, float]:
    """How varied N >= 1 texts are, by words that whitespace separates.

    Returns:
        "unique_share", distinct texts over texts; "distinct-1" and "distinct-2", distinct words and word pairs over all
        of them in all texts, 0 where there are none; each in [0, 1]. "length", the mean number of words.

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
    """In words, that a model writes hardly more than one report; None where it does not.

    Told where N >= 20 texts hold fewer than max(2, 2 % of N) distinct ones.
    """
    counts = Counter(" ".join(text.split()) for text in generated)
    if len(generated) < FEW_STUDIES or len(counts) >= max(2.0, COLLAPSED_SHARE * len(generated)):
        return None
    commonest, times = counts.most_common(1)[0]
    excerpt = commonest if len(commonest) <= 80 else commonest[:80].rsplit(" ", 1)[0] + " ..."
    reports = "one report" if len(counts) == 1 else f"{len(counts)} different reports"
    return (
        f"The model wrote {reports} for {len(generated)} studies; {times} got {excerpt!r}. Scores of word overlap can "
        "look fine all the same. Early in training this passes; if it stays, see whether the images reach the decoder, "
        "and lower the learning rate."
    )
