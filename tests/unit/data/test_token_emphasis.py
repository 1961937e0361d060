"""The emphasis of tokens against plain loops, and on its way into a batch."""

import json
import math
import pickle
from functools import partial

import numpy as np
import pytest
import torch

from hardneg_plugin.data.datamodule import StudyDataModule
from hardneg_plugin.data.neighbour_batches import nearest_studies
from hardneg_plugin.data.paired import PairedNegatives
from hardneg_plugin.data.phantom import PhantomStudies
from hardneg_plugin.data.token_emphasis import FindingWords, InverseDocumentFrequency, LackedByOthers
from hardneg_plugin.data.tokenizer import WordTokenizer
from hardneg_plugin.errors import UserError

SOURCE = PhantomStudies(train=24, val=4, test=1, size=32, regime="clinic")
STUDIES = SOURCE.split("train")
TOKENIZER = WordTokenizer.from_reports(STUDIES.reports, min_count=2)
TOKENS = [TOKENIZER.encode(report) for report in STUDIES.reports]


def match(one, other):
    texts = [" ".join(TOKENIZER.clean(STUDIES.reports[i]).split()) for i in (one, other)]
    return one == other or texts[0] == texts[1] or STUDIES.labels[one] == STUDIES.labels[other]


def test_rarity_is_the_plain_loop():
    emphasise = InverseDocumentFrequency().fitted(SOURCE, TOKENIZER)
    for index, tokens in enumerate(TOKENS):
        having = [sum(token in other for other in TOKENS) for token in tokens]
        expected = [math.log(24 / count) / math.log(24) for count in having]
        np.testing.assert_allclose(emphasise(index, 0, tokens), expected, atol=1e-6)
        assert emphasise(index, 0, tokens)[[0, -1]].tolist() == [0, 0]


def test_one_report_has_no_rare_tokens():
    source = PhantomStudies(train=1, val=1, test=1, size=32)
    tokenizer = WordTokenizer.from_reports(source.split("train").reports, min_count=1)
    tokens = tokenizer.encode(source.split("train").reports[0])
    assert not InverseDocumentFrequency().fitted(source, tokenizer)(0, 0, tokens).any()


@pytest.mark.parametrize("ratio", [1.0, 5.0])
def test_finding_words_are_the_plain_loop(ratio):
    sentences = [one.strip() for report in STUDIES.reports for one in TOKENIZER.clean(report).split(" .")]
    stating = [set(one.split()) for one in sentences if one and SOURCE.read_findings(one)]
    others = [set(one.split()) for one in sentences if one and not SOURCE.read_findings(one)]
    known = {*TOKENIZER.vocabulary}

    def share(word, of):
        of = [{one if one in known else "<unk>" for one in words} for words in of]
        return sum(word in words for words in of) / len(of)

    emphasise = FindingWords(ratio).fitted(SOURCE, TOKENIZER)
    emphasised = set()
    for token, word in enumerate(TOKENIZER.vocabulary, start=1):
        states, leaves = share(word, stating), share(word, others)
        expected = states > ratio * leaves
        assert emphasise(0, 0, [0, token, 0]).tolist() == [0, float(expected), 0], word
        if expected:
            emphasised.add(word)
    assert 0 < len(emphasised) < len(known) / 2
    assert not emphasised & {".", "no", "normal"}


class Unread:
    """A source without findings."""

    def __init__(self, reader):
        self.read_findings = reader

    def split(self, name):
        return SOURCE.split(name)


@pytest.mark.parametrize(("reader", "told"), [(None, "has no reader"), (lambda text: frozenset(), "read none in")])
def test_findings_that_cannot_be_read_are_told(reader, told):
    with pytest.raises(UserError, match=told):
        FindingWords().fitted(Unread(reader), TOKENIZER)


def lacked(tokens, others):
    return [sum(token not in TOKENS[other] for other in others) / len(others) for token in tokens]


@pytest.mark.parametrize("of_table", [False, True])
def test_tokens_lacked_by_the_nearest_reports_are_the_plain_loop(of_table, tmp_path):
    nearest = nearest_studies(STUDIES, 3, None, "")
    table = None
    if of_table:
        table = tmp_path / "table.json"
        nearest = [[(index + step) % 24 for step in (5, 7, 11)] for index in range(24)]
        names = {STUDIES.ids[index]: [STUDIES.ids[other] for other in row] for index, row in enumerate(nearest)}
        table.write_text(json.dumps(names))
    emphasise = LackedByOthers(k=3, table=table).fitted(SOURCE, TOKENIZER)
    for index, (tokens, row) in enumerate(zip(TOKENS, nearest, strict=True)):
        assert of_table or (row and not any(match(index, other) for other in row))
        np.testing.assert_allclose(emphasise(index, 0, tokens), lacked(tokens, row), atol=1e-6)
        assert (emphasise(index, 0, tokens) == emphasise(index, 1, tokens)).all()


def test_random_reports_follow_from_the_seed_and_never_match():
    emphasise = LackedByOthers("random", k=2).fitted(SOURCE, TOKENIZER)
    assert isinstance(emphasise, partial)
    _, others = emphasise.args
    for index, tokens in enumerate(TOKENS):
        drawn = [others(index, seed) for seed in range(200)]
        assert all(len(set(row)) == 2 and not any(match(index, other) for other in row) for row in drawn)
        assert {other for row in drawn for other in row} == {o for o in range(24) if not match(index, o)}
        assert others(index, 3) == drawn[3]
        np.testing.assert_allclose(emphasise(index, 3, tokens), lacked(tokens, drawn[3]), atol=1e-6)


def test_without_another_report_nothing_is_emphasised():
    source = PhantomStudies(train=3, val=1, test=1, size=32, normal_share=1.0)
    tokens = TOKENIZER.encode(source.split("train").reports[0])
    for choice in ("nearest", "random"):
        assert not LackedByOthers(choice).fitted(source, TOKENIZER)(0, 0, tokens).any()


@pytest.mark.parametrize(
    "emphasis", [InverseDocumentFrequency(), FindingWords(), LackedByOthers(), LackedByOthers("random")], ids=repr
)
def test_spawned_workers_get_the_same(emphasis):
    emphasise = emphasis.fitted(SOURCE, TOKENIZER)
    sent = pickle.loads(pickle.dumps(emphasise))
    assert all((sent(i, 5, tokens) == emphasise(i, 5, tokens)).all() for i, tokens in enumerate(TOKENS))


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: FindingWords(0.0), "data.emphasis.ratio"),
        (lambda: LackedByOthers("hardest"), "data.emphasis.choice"),
        (lambda: LackedByOthers(k=0), "data.emphasis.k"),
        (lambda: LackedByOthers("random", table="x.json"), "data.emphasis.table"),
    ],
)
def test_wrong_settings_are_told(make, told):
    with pytest.raises(UserError, match=told):
        make()


def test_each_token_of_a_training_batch_has_its_emphasis(tmp_path):
    table = tmp_path / "table.json"
    table.write_text(json.dumps({name: [STUDIES.ids[(i + 1) % 24]] for i, name in enumerate(STUDIES.ids)}))

    def data(**options):
        return StudyDataModule(SOURCE, lambda reports: TOKENIZER, batch_size=8, max_length=12, **options)

    rarity = InverseDocumentFrequency().fitted(SOURCE, TOKENIZER)
    emphasised, plain = (
        data(emphasis=one, paired=PairedNegatives(table)) for one in (InverseDocumentFrequency(), None)
    )
    for batch, same in zip(emphasised.train_dataloader(), plain.train_dataloader(), strict=True):
        assert batch["ids"] == same["ids"]
        assert torch.equal(batch["images"], same["images"])
        assert "emphasis" not in same
        assert "emphasis" not in batch["negatives"]
        assert batch["emphasis"].shape == batch["tokens"].shape
        for row, tokens, mask in zip(batch["emphasis"], batch["tokens"], batch["token_mask"], strict=True):
            assert row[mask].tolist() == rarity(0, 0, tokens[mask].tolist()).tolist()
            assert not row[~mask].any()
    assert "emphasis" not in next(iter(emphasised.val_dataloader()))
