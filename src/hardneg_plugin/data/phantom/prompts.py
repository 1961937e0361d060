"""Sentences that state a finding and sentences that deny it, in the words of phantom reports."""

from collections.abc import Mapping, Sequence
from typing import TypeVar

import numpy as np
from numpy.random import Generator

from hardneg_plugin.data.phantom.findings import ATTRIBUTES
from hardneg_plugin.data.phantom.grammar import PHRASES, written

WORDINGS = 12
"""Sentences of either kind per finding; all values of an attribute occur equally often in them, give or take one."""

DENIALS = (
    "no {name}",
    "there is no {name}",
    "no {name} is seen",
    "no {name} is identified",
    "{name} is not seen",
    "no evidence of {name}",
)
"""How reports deny a finding; prompts deny every finding so, also those whose absence reports never mention."""

T = TypeVar("T")


def zero_shot_prompts() -> Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]]:
    """By finding, in the order of `ATTRIBUTES`: `WORDINGS` sentences that state it and as many that deny it.

    Sentences that state a finding give all of its attributes, as reports do. Values and phrases are spread evenly over them,
    so that their average leans to no side, size or place. The same at every call.

    >>> zero_shot_prompts()["pneumothorax"][1][:2]
    ('No pneumothorax.', 'There is no pneumothorax.')
    """
    rng = np.random.default_rng(0)
    prompts = {}
    for name in ATTRIBUTES:
        denials = [DENIALS[index % len(DENIALS)].format(name=name) for index in range(WORDINGS)]
        prompts[name] = tuple(map(_sentence, _statements(name, rng))), tuple(map(_sentence, denials))
    return prompts


def _statements(name: str, rng: Generator) -> list[str]:
    values = {key: [written(key, value) for value in _spread(among, rng)] for key, among in ATTRIBUTES[name].items()}
    return [
        phrase.format(**{key: words[index] for key, words in values.items()})
        for index, phrase in enumerate(_spread(PHRASES[name], rng))
    ]


def _spread(among: Sequence[T], rng: Generator) -> list[T]:
    """`WORDINGS` items in random order, each equally often, give or take one."""
    return [among[index] for index in rng.permutation(np.arange(WORDINGS) % len(among))]


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:] + "."
