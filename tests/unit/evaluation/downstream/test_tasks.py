"""Each task on a few phantom studies: what it adds up against direct calls, and the same questions for every model."""

from copy import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from hardneg_plugin.data.phantom import PhantomKnowledge, PhantomStudies
from hardneg_plugin.data.phantom.findings import ATTRIBUTES
from hardneg_plugin.errors import UserError
from hardneg_plugin.evaluation.downstream import phantom_tasks, tasks
from hardneg_plugin.evaluation.downstream.finding_maps import entity_names
from hardneg_plugin.evaluation.downstream.frozen_features import EncodedSplit, FrozenFeatures
from hardneg_plugin.evaluation.downstream.head_training import HeadTraining
from hardneg_plugin.evaluation.downstream.linear_probe import LabelledFeatures, linear_probe
from hardneg_plugin.evaluation.downstream.localisation import box_iou, chance_levels, choose_threshold, pointing_game
from hardneg_plugin.evaluation.downstream.phantom_tasks import questions_of
from hardneg_plugin.evaluation.downstream.segmentation import (
    SegmentationSplit,
    dice,
    mean_dice,
    predict_masks,
    train_segmentation,
)
from hardneg_plugin.evaluation.downstream.zero_shot import auroc, zero_shot_scores
from hardneg_plugin.metrics.retrieval import retrieval_ranks
from hardneg_plugin.metrics.task_scores import task_card

KNOWLEDGE = PhantomKnowledge()
NAMES = list(ATTRIBUTES)
SOURCE = PhantomStudies(train=32, val=30, test=30, size=32)
GRID = (4, 4)


def as_seen(studies, seed=0) -> EncodedSplit:
    """A split of which a model sees something, whatever it is."""
    count, generator = len(studies), torch.Generator().manual_seed(seed)

    def draw(*shape) -> Tensor:
        return torch.randn(count, *shape, generator=generator)

    images = draw(8)
    return EncodedSplit(
        studies,
        FrozenFeatures(
            ids=list(studies.ids),
            references=list(studies.reports),
            pooled=draw(6),
            patches=draw(2 * 16, 6),
            patch_mask=torch.ones(count, 2 * 16, dtype=torch.bool),
            grid=GRID,
            images=images,
            reports=images + 1.5 * draw(8),
            maps=draw(2 * 16, len(NAMES)),
        ),
    )


@pytest.fixture(scope="module")
def splits():
    return {name: as_seen(SOURCE.split(name), seed) for seed, name in enumerate(("train", "val", "test"))}


@pytest.fixture
def foreign(splits):
    """The same of a data set of which only reports are known."""

    class Others:
        ids, reports = SOURCE.split("test").ids, SOURCE.split("test").reports
        patients, labels = SOURCE.split("test").patients, [None] * 30

        def __len__(self):
            return 30

    return replace(splits["test"], studies=Others())


def marks_of(split):
    """(row, finding, box, mask) on the frontal view."""
    for row in range(len(split.studies)):
        for mark in split.studies.marks(row):
            if mark.view == "frontal":
                yield row, NAMES.index(mark.finding.name), mark.box, mark.mask


def test_entities_are_those_that_labels_scores_and_sentences_are_of(splits):
    assert entity_names(KNOWLEDGE) == NAMES == list(KNOWLEDGE.wordings())
    labels = splits["test"].labels(KNOWLEDGE)
    truth = [[name in {found.name for found in study} for name in NAMES] for study in SOURCE.split("test").findings]
    assert labels.tolist() == [[int(has) for has in of_study] for of_study in truth]


def test_retrieval_is_recall(splits, foreign):
    for split in (splits["test"], foreign):
        result = tasks.retrieval(split)
        values, encoded = task_card(result.rows).values, split.features
        texts = torch.tensor([encoded.references.index(text) for text in encoded.references])
        ranks = retrieval_ranks(encoded.images, encoded.reports, texts)
        for k in (1, 5, 10):
            assert values[f"R@{k}"] == pytest.approx((ranks <= k).float().mean().item())
        assert [row["id"] for row in result.rows] == list(split.studies.ids)
        assert {"r2i_R@1", "peers_R@1", "peers_r2i_R@5"} <= values.keys()


def test_retrieval_takes_reports_that_read_the_same_for_one(splits):
    split = splits["test"]
    same = replace(split, features=replace(split.features, references=["the same ."] * 30))
    assert task_card(tasks.retrieval(same).rows).values["R@1"] == 1


def test_recall_by_scores_of_pairs_stands_beside(splits):
    split = splits["test"]
    cosines = normalize(split.features.images, dim=-1) @ normalize(split.features.reports, dim=-1).T
    plain, same = (task_card(tasks.retrieval(split, scores).rows).values for scores in (None, 30 * cosines))
    assert same == {**plain, **{f"pair_{name}": value for name, value in plain.items()}}
    own = torch.eye(30)
    by_pair = task_card(tasks.retrieval(split, own).rows).values
    assert {by_pair[f"pair_{name}"] for name in plain} == {1.0}
    assert {name: by_pair[name] for name in plain} == plain


def test_zero_shot_by_scores_of_pairs_stands_beside(splits):
    generator = torch.Generator().manual_seed(3)
    present, absent = (torch.randn(len(NAMES), 3, 8, generator=generator) for _ in range(2))
    labels = splits["test"].labels(KNOWLEDGE)
    rows = tasks.zero_shot(splits["test"], KNOWLEDGE, present, absent, pair_scores=labels.float()).rows
    (plain,) = task_card(tasks.zero_shot(splits["test"], KNOWLEDGE, present, absent).rows).values.items()
    assert task_card(rows).values == {**dict([plain]), "pair_zero_shot_AUROC": 1.0}


def test_zero_shot_is_the_mean_area_of_the_findings(splits, foreign):
    generator = torch.Generator().manual_seed(3)
    present, absent = (torch.randn(len(NAMES), 3, 8, generator=generator) for _ in range(2))
    scores = zero_shot_scores(splits["test"].features.images, present, absent)
    expected = auroc(scores, splits["test"].labels(KNOWLEDGE) == 1).nanmean()
    for split in (splits["test"], foreign):
        result = tasks.zero_shot(split, KNOWLEDGE, present, absent)
        assert task_card(result.rows).values == {"zero_shot_AUROC": pytest.approx(expected.item())}


def test_what_a_report_leaves_open_is_not_judged(splits):
    class Doubtful(PhantomKnowledge):
        def facts(self, report):
            facts = super().facts(report)
            return [-1, *facts[1:]] if "small" in report else facts

    generator = torch.Generator().manual_seed(3)
    present, absent = (torch.randn(len(NAMES), 3, 8, generator=generator) for _ in range(2))
    rows = tasks.zero_shot(splits["test"], Doubtful(), present, absent).rows
    for row, report in zip(rows, splits["test"].studies.reports, strict=True):
        assert (NAMES[0] in row["rankings"]["zero_shot_AUROC"]) == ("small" not in report)


class _Few(PhantomKnowledge):
    """Of three findings: a probe takes its time."""

    kept = tuple(row for row, prompt in enumerate(PhantomKnowledge().prompts) if prompt.entity in NAMES[:3])
    prompts = tuple(PhantomKnowledge().prompts[row] for row in kept)

    def facts(self, report):
        return [KNOWLEDGE.facts(report)[row] for row in self.kept]


def test_probes_are_those_of_direct_calls(splits):
    train, val, test = splits.values()
    of_val, result = tasks.probe(train, val, [val, test], _Few(), (0.5, 1.0), 1)
    parts = [LabelledFeatures(split.features.pooled, split.labels(_Few()) == 1) for split in splits.values()]
    values = task_card(result.rows).values
    for name, probe in zip(
        ("probe_50%_AUROC", "probe_100%_AUROC"), linear_probe(*parts, shares=(0.5, 1.0), seed=1), strict=True
    ):
        assert values[name] == pytest.approx(probe.auroc.nanmean().item())
        assert result.settings[name] == {"studies": probe.studies}
    assert len(set(values.values())) == len(values) == 2
    assert [of_val] == tasks.probe(train, val, [val], _Few(), (0.5, 1.0), 1)


def test_localisation_is_the_mean_over_findings_of_the_first_view(splits):
    result = phantom_tasks.localisation(splits["val"], splits["test"], KNOWLEDGE)

    def first_view(split):
        rows, findings, boxes, _ = zip(*marks_of(split), strict=True)
        maps = [split.features.maps[row, :16, f].reshape(GRID) for row, f in zip(rows, findings, strict=True)]
        return torch.stack(maps), torch.tensor(boxes), findings

    maps, boxes, findings = first_view(splits["test"])
    val_maps, val_boxes, _ = first_view(splits["val"])
    threshold = choose_threshold(val_maps, val_boxes, (32, 32))
    assert result.settings == {"threshold": threshold}

    def by_finding(values):
        of = {f: [v for v, g in zip(values.tolist(), findings, strict=True) if f == g] for f in findings}
        return np.mean([np.mean(some) for some in of.values()])

    hits, overlaps = pointing_game(maps, boxes, (32, 32)), box_iou(maps, boxes, (32, 32), threshold)
    assert task_card(result.rows).values == {
        "pointing_game": pytest.approx(by_finding(hits)),
        "IoU": pytest.approx(by_finding(overlaps)),
    }
    chance = pytest.approx(by_finding(chance_levels(boxes, (32, 32))))
    assert result.baselines == {"pointing_game": chance, "IoU": chance}


def test_a_model_that_looks_into_every_box_wins_the_pointing_game(splits):
    split = splits["test"]
    maps = torch.zeros(30, 32 * 32, len(NAMES))
    for row, finding, (y0, x0, y1, x1), _ in marks_of(split):
        maps[row, (y0 + y1) // 2 * 32 + (x0 + x1) // 2, finding] += 1
    ideal = replace(split, features=replace(split.features, maps=maps, grid=(32, 32)))
    assert task_card(phantom_tasks.localisation(ideal, ideal, KNOWLEDGE).rows).values["pointing_game"] == 1


def test_segmentation_is_the_dice_of_a_decoder_trained_on_the_first_studies(splits):
    how = HeadTraining(epochs=1, batch_size=8, seed=3)
    studies = [splits[name] for name in ("train", "val")]
    of_val, result = phantom_tasks.segmentation(
        *studies, [splits["val"], splits["test"]], how, studies=12, width=4, device="cpu"
    )
    assert [of_val] == phantom_tasks.segmentation(*studies, [splits["val"]], how, studies=12, width=4, device="cpu")

    def outlined(split, count):
        masks = torch.zeros(count, len(NAMES), 32, 32, dtype=torch.bool)
        for row, finding, _, mask in marks_of(split):
            if row < count:
                masks[row, finding] |= torch.from_numpy(mask)
        return SegmentationSplit(split.features.patches[:count, :16].mT.reshape(count, 6, *GRID), masks)

    train, val, test = (outlined(split, count) for split, count in zip(splits.values(), (12, 30, 30), strict=True))
    fitted = train_segmentation(train, val, training=how, width=4)
    found = predict_masks(fitted.head, test.patches)
    values = task_card(result.rows).values
    assert values["Dice"] == pytest.approx(mean_dice(dice(found, test.masks)))
    assert result.settings == {"epoch": fitted.epoch, "studies": 12}
    absent = ~test.masks.flatten(2).any(-1)
    alarms = [found.flatten(2).any(-1)[absent[:, f], f].float().mean().item() for f in range(len(NAMES))]
    assert values["false_alarms"] == pytest.approx(np.mean(alarms))
    few = as_seen(PhantomStudies(train=4, size=32, normal_share=0.0).split("train"))
    (result,) = phantom_tasks.segmentation(few, few, [few], how, studies=1000, width=4, device="cpu")
    assert result.settings["studies"] == 4


def questions(splits, seed=1):
    return {name: questions_of(split, seed) for name, split in splits.items()}


def embedded_questions(asked):
    texts = sorted({question.text for split in asked.values() for of_study in split for question in of_study})
    return dict(zip(texts, torch.eye(len(texts)), strict=True))


def answered(splits, asked, how, judged=("test",)):
    train, val, *others = (splits[name] for name in ("train", "val", *judged))
    return phantom_tasks.vqa(train, val, others, embedded_questions(asked), how, seed=1, device="cpu")


def test_questions_are_the_same_for_every_model_and_others_under_another_seed(splits):
    other = as_seen(SOURCE.split("test"), seed=7)
    assert questions_of(other, 1) == questions_of(splits["test"], 1)
    assert questions_of(other, 2) != questions_of(splits["test"], 1)


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("name", ["train", "test"])
def test_presence_is_asked_about_whatever_the_seeds_of_studies_and_task(name, seed):
    """The other study of a question is no copy of the study itself."""
    source = PhantomStudies(train=30, val=30, test=30, size=32, seed=0)
    asked = questions_of(as_seen(source.split(name)), seed)
    answers = [q.answer for of_study in asked for q in of_study if q.kind == "presence"]
    assert min(answers.count("yes"), answers.count("no")) >= 10


def test_no_two_splits_draw_the_same_other_studies():
    val, test = SOURCE.split("val"), copy(SOURCE.split("test"))
    test.findings = val.findings
    assert questions_of(EncodedSplit(test, None), 1) != questions_of(EncodedSplit(val, None), 1)


def test_presence_is_balanced_for_another_share_of_normal_studies():
    split = PhantomStudies(train=400, val=1, test=1, size=32, normal_share=0.95).split("train")
    asked = questions_of(EncodedSplit(split, None), 1)
    answers = [q.answer for of_study in asked for q in of_study if q.kind == "presence"]
    assert 0.3 < answers.count("yes") / len(answers) < 0.7


def test_answers_are_counted_by_kind_and_studies_keep_their_own(splits):
    asked = questions(splits)
    how = HeadTraining(epochs=1, seed=1)
    (result,) = answered(splits, asked, how)
    values = task_card(result.rows).values
    kinds = {question.kind for of_study in asked["test"] for question in of_study}
    assert values.keys() == {"vqa", *(f"vqa_{kind}" for kind in kinds)}
    assert values["vqa"] == pytest.approx(np.mean([values[f"vqa_{kind}"] for kind in kinds]))
    for row, of_study in zip(result.rows, asked["test"], strict=True):
        counted = {kind: count for kind, (_, count) in row["means"].get("vqa", {}).items()}
        assert counted == {kind: sum(q.kind == kind for q in of_study) for kind in {q.kind for q in of_study}}
    of_val, again = answered(splits, asked, how, ("val", "test"))
    assert again == result
    assert [of_val] == answered(splits, asked, how, ("val",))
    assert [row["id"] for row in of_val.rows] == list(splits["val"].studies.ids)


def test_who_answers_without_looking_knows_the_commonest_answer_to_each_question_and_no_other(splits):
    asked = questions(splits)
    (result,) = answered(splits, asked, HeadTraining(epochs=1))
    train = [question for of_study in asked["train"] for question in of_study]
    right = {}
    for question in (question for of_study in asked["test"] for question in of_study):
        answers = sorted(other.answer for other in train if other.text == question.text)
        blind = max(dict.fromkeys(answers), key=answers.count) if answers else None
        right.setdefault(question.kind, []).append(blind == question.answer)
    expected = {f"vqa_{kind}": np.mean(some) for kind, some in right.items()}
    assert result.baselines == pytest.approx({**expected, "vqa": np.mean(list(expected.values()))})


def test_an_answer_unheard_of_is_right_for_nobody(splits):
    """Neither question nor answer is in training: both are unknown, and that is no agreement."""
    known = set()
    asked = questions(splits)
    for of_study in asked["train"]:
        known |= {question.text for question in of_study}
    few = {**splits, "train": as_seen(PhantomStudies(train=6, size=32).split("train"))}
    trained = {question.answer for of_study in questions(few)["train"] for question in of_study}
    strange = [q for of_study in asked["test"] for q in of_study if q.answer not in trained]
    assert strange
    (result,) = answered(few, asked, HeadTraining(epochs=1))
    texts = {question.text for of_study in questions(few)["train"] for question in of_study}
    for kind in {question.kind for question in strange}:
        of_kind = [q for of_study in asked["test"] for q in of_study if q.kind == kind]
        could = sum(q.answer in trained and q.text in texts for q in of_kind) / len(of_kind)
        assert result.baselines[f"vqa_{kind}"] <= could


def test_what_a_task_needs_is_said(splits, foreign):
    bare = replace(splits["test"], features=replace(splits["test"].features, images=None, reports=None))
    with pytest.raises(UserError, match="bare host: train with model=hard_negatives or model=pretrain"):
        tasks.retrieval(bare)
    for call in (
        lambda: phantom_tasks.localisation(foreign, foreign, KNOWLEDGE),
        lambda: phantom_tasks.segmentation(
            foreign, foreign, [foreign], HeadTraining(), studies=1, width=4, device="cpu"
        ),
        lambda: phantom_tasks.vqa(foreign, foreign, [foreign], {}, HeadTraining(), seed=0, device="cpu"),
    ):
        with pytest.raises(UserError, match="only data=phantom has"):
            call()
    empty = as_seen(PhantomStudies(train=4, size=32, normal_share=1.0).split("train"))
    with pytest.raises(UserError, match="expected findings in each split, but one has none"):
        phantom_tasks.localisation(empty, empty, KNOWLEDGE)
    silent = as_seen(PhantomStudies(train=1, size=32, normal_share=1.0).split("train"))
    with pytest.raises(UserError, match="expected questions about each split, but one has none"):
        phantom_tasks.vqa(silent, silent, [silent], {}, HeadTraining(), seed=0, device="cpu")
