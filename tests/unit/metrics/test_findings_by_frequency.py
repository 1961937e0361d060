"""F1 by the frequency of findings, and macro F1, against plain loops; under any weights of studies."""

import random

import numpy as np
import pytest

from hardneg_plugin.metrics.findings import findings_scores
from hardneg_plugin.metrics.findings_by_frequency import frequency_scores, thirds

KEYS = ["findings_F1_common", "findings_F1_medium", "findings_F1_rare", "findings_macro_F1"]
NAMES = "abcdefgh"


def drawn(count, seed):
    """Findings that are the rarer the later in the alphabet; "z" is only ever generated."""
    rng = random.Random(seed)

    def draw(names):
        return frozenset((name, rng.choice("xy")) for i, name in enumerate(names) if rng.random() < 0.6 / (1 + i))

    return [draw(NAMES + "z") for _ in range(count)], [draw(NAMES) for _ in range(count)]


def f1(generated, references, names):
    right = wrong = missed = 0
    for mine, theirs in zip(generated, references, strict=True):
        for name in names:
            is_stated, is_true = ([name in {one for one, _ in of}] for of in (mine, theirs))
            right += is_stated == is_true == [True]
            wrong += is_stated > is_true
            missed += is_stated < is_true
    return 2 * right / (2 * right + wrong + missed) if right + wrong + missed else 0.0


def oracle(generated, references, groups):
    scores = {f"findings_F1_{third}": f1(generated, references, names) for third, names in groups.items()}
    stated = sorted({name for of in references for name, _ in of})
    return {**scores, "findings_macro_F1": sum(f1(generated, references, [name]) for name in stated) / len(stated)}


@pytest.mark.parametrize("seed", range(5))
def test_scores_against_plain_loops(seed):
    generated, references = drawn(80, seed)
    groups = thirds(references)
    groups["rare"] = [*groups["rare"], "z"]
    card = frequency_scores(generated, references)
    assert list(card.values) == KEYS
    assert card.values == pytest.approx(oracle(generated, references, groups))
    assert card.intervals().keys() == card.values.keys()
    drawn_studies = np.random.default_rng(seed).integers(80, size=80)  # the thirds stay those of all studies
    weights = np.bincount(drawn_studies, minlength=80).astype(float)[None]
    resampled = {name: float(value) for name, (value,) in card.statistics[0].under(weights).items()}
    again = ([of[i] for i in drawn_studies] for of in (generated, references))
    assert resampled == pytest.approx(oracle(*again, groups=groups))


def test_thirds_hold_every_finding_of_the_references_once():
    _, references = drawn(200, 0)
    groups = thirds(references)
    assert [len(names) for names in groups.values()] == [3, 3, 2]
    assert sorted(name for names in groups.values() for name in names) == sorted(
        {name for of in references for name, _ in of}
    )
    share = {name: sum(name in dict(of) for of in references) for name in NAMES}
    assert min(share[name] for name in groups["common"]) >= max(share[name] for name in groups["medium"])
    assert min(share[name] for name in groups["medium"]) >= max(share[name] for name in groups["rare"])


def test_a_generator_that_states_only_what_is_common():
    references = [frozenset({("a", "")})] * 8 + [frozenset({("b", "")})] * 2 + [frozenset({("c", "")})]
    scores = frequency_scores([frozenset({("a", "")})] * 11, references).values
    assert [scores[key] for key in KEYS] == pytest.approx([16 / 19, 0, 0, 16 / 19 / 3])
    assert findings_scores([frozenset({("a", "")})] * 11, references).values["findings_F1"] == pytest.approx(16 / 22)


def test_without_findings_every_score_is_0():
    assert frequency_scores([frozenset()] * 2, [frozenset()] * 2).values == dict.fromkeys(KEYS, 0.0)
    false = frequency_scores([frozenset({("a", "")})], [frozenset()])
    assert false.values == dict.fromkeys(KEYS, 0.0)
