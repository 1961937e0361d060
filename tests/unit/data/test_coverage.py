"""Shares of unknown words and of references that are cut, against counts by hand."""

import pytest
from tokenizers import Tokenizer as Backend
from tokenizers import models, pre_tokenizers

from hardneg_plugin.data.coverage import coverage
from hardneg_plugin.data.phantom import PhantomStudies
from hardneg_plugin.data.tokenizer import HuggingFaceTokenizer, WordTokenizer


@pytest.mark.parametrize("max_length", [2, 20, 45, 200])
def test_against_words_counted_one_by_one(max_length):
    studies = PhantomStudies(80, 30, 1, size=32)
    tokenizer = WordTokenizer.from_reports(studies.split("train").reports, min_count=5)
    reports = studies.split("val").reports
    words = [tokenizer.clean(report).split() for report in reports]
    known = set(tokenizer.vocabulary)
    unknown = sum(word not in known for of_report in words for word in of_report)
    assert unknown > 0
    found = coverage(reports, tokenizer, max_length)
    assert found.unknown == pytest.approx(unknown / sum(map(len, words)))
    assert found.cut == sum(len(of_report) + 2 > max_length for of_report in words) / 30
    assert found.reports == 30


def test_of_many_reports_every_nth_is_read():
    tokenizer = WordTokenizer.from_reports(["no effusion ."], min_count=1)
    reports = ["no effusion ."] * 3 + ["no mass ."] * 4
    assert coverage(reports, tokenizer, 10, limit=2) == coverage(reports[::4], tokenizer, 10)
    assert coverage(reports, tokenizer, 10, limit=7).reports == 7


def test_a_tokenizer_of_word_pieces_has_no_unknown_words():
    backend = Backend(models.WordLevel({"no": 0, "effusion": 1, "?": 2}, unk_token="?"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    assert coverage(["no effusion", "no"], HuggingFaceTokenizer(backend), 3) == (None, 0.5, 2)
