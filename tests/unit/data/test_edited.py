from typing import Any

import numpy as np
import pytest
import torch

from hardneg_plugin.data.collate import StudyCollator
from hardneg_plugin.data.datamodule import StudyDataModule
from hardneg_plugin.data.edited import ReportEdits
from hardneg_plugin.data.phantom import PhantomEdits, PhantomStudies
from hardneg_plugin.data.tokenizer import WordTokenizer
from hardneg_plugin.errors import UserError
from hardneg_plugin.knowledge.edits import EditedReport

SOURCE = PhantomStudies(train=12, val=2, test=2, size=32)


class Drawn:
    """An editor that writes what it was given and drew; it offers at most two changes, and none for "fixed"."""

    def __call__(self, report, n, rng):
        if n > 2 or report == "fixed":
            return None
        return EditedReport(f"{report} {n} {rng.integers(2**40)}", ())


class Keyed:
    ids, reports = ["a", "b"], ["one", "fixed"]

    def __len__(self):
        return 2

    def __getitem__(self, key):
        return {"report": self.reports[key[0] if isinstance(key, tuple) else key], "key": key}


def test_copies_follow_from_index_and_seed_alone():
    studies = ReportEdits(Drawn()).beside(Keyed())
    assert (len(studies), studies.ids, studies.reports) == (2, Keyed.ids, Keyed.reports)
    assert studies[0, 7] == studies[0, 7]
    assert studies[0, 7]["key"] == (0, 7)
    assert studies[0]["edited"] == studies[0]["edited"]
    assert len({studies[0, seed]["edited"][0] for seed in range(30)}) == 30


def test_a_report_that_offers_fewer_changes_has_as_many_as_it_offers():
    studies = ReportEdits(Drawn(), changes=4).beside(Keyed())
    one, two, *rest = studies[0, 7]["edited"]
    assert (one.split()[1], two.split()[1], rest) == ("1", "2", [two, two])
    assert studies[1, 7]["edited"] == [None] * 4


def test_batches_hold_the_copies_and_mask_those_that_are_none():
    tokenizer = WordTokenizer((".", "<unk>", "clear", "heart", "lungs", "normal"))
    image = torch.ones(1, 1, 4, 4, dtype=torch.uint8)
    edited = (["heart clear.", "lungs normal. heart clear."], [None, None], ["heart normal. lungs.", None])
    samples = [
        {
            "id": str(i),
            "images": image,
            "report": "heart normal. lungs clear.",
            "patient": None,
            "labels": None,
            "edited": copies,
        }
        for i, copies in enumerate(edited)
    ]
    batch = StudyCollator(tokenizer, max_length=8)(samples)
    assert batch["edited_tokens"].shape == batch["edited_mask"].shape == (3, 2, 8)
    assert batch["edited_tokens"][0, 0].tolist() == [0, 4, 3, 1, 0, 0, 0, 0]
    assert batch["edited_mask"][0, 0].tolist() == [True] * 5 + [False] * 3
    assert batch["edited_mask"].any(-1).tolist() == [[True, True], [False, False], [True, False]]
    # cut before the first word that differs: the copy of the third study is its report
    cut = StudyCollator(tokenizer, max_length=5)(samples)
    assert cut["edited_mask"].any(-1).tolist() == [[True, True], [False, False], [False, False]]


@pytest.mark.slow
def test_batches_do_not_depend_on_workers_and_differ_between_epochs():
    def epoch(number, workers):
        data = StudyDataModule(
            SOURCE,
            WordTokenizer.from_reports,
            batch_size=5,
            max_length=64,
            num_workers=workers,
            edits=ReportEdits(PhantomEdits()),
        )
        loader: Any = data.train_dataloader()
        loader.sampler.set_epoch(number)
        return [batch["edited_tokens"] for batch in loader]

    alone, with_workers, later = epoch(1, 0), epoch(1, 2), epoch(2, 0)
    assert all(torch.equal(a, b) for a, b in zip(alone, with_workers, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(alone, later, strict=True))


def test_evaluation_has_no_copies():
    data = StudyDataModule(
        SOURCE, WordTokenizer.from_reports, batch_size=2, max_length=64, edits=ReportEdits(PhantomEdits())
    )
    assert "edited_tokens" in next(iter(data.train_dataloader()))
    assert "edited_tokens" not in next(iter(data.val_dataloader()))


def test_wrong_number():
    with pytest.raises(UserError, match="changes: expected a positive"):
        ReportEdits(PhantomEdits(), changes=0)


def test_copies_of_the_built_in_studies_are_edits_of_their_reports():
    studies = ReportEdits(PhantomEdits()).beside(SOURCE.split("train"))
    edit, found = PhantomEdits(), 0
    for index in range(12):
        copies = studies[index, 3]["edited"]
        random = np.random.default_rng((3, index, 1))
        for n, copy in enumerate(copies, 1):
            edited = edit(SOURCE.split("train").reports[index], n, random)
            if edited is not None:
                assert copy == edited.text
                found += 1
    assert found > 12
