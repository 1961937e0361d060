"""What a model does with each study, against each study by itself and plain loops."""

import math
from collections import Counter
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

from hardneg_plugin import HardNegativeObjective
from hardneg_plugin.backbones.decoding import Decoding
from hardneg_plugin.backbones.huggingface import HuggingFaceDecoder
from hardneg_plugin.backbones.transformer import TransformerDecoder
from hardneg_plugin.backbones.visual import VisualExtractor
from hardneg_plugin.data.collate import StudyCollator
from hardneg_plugin.data.phantom import PhantomStudies
from hardneg_plugin.data.tokenizer import WordTokenizer
from hardneg_plugin.evaluation.inspection import inspect_split
from hardneg_plugin.functional.hardening import Arc, Ascent, Projection, Released, Segment, harden_ascent
from hardneg_plugin.models.hard_negative_generator import HardNegativeReportGenerator
from hardneg_plugin.models.report_generator import ReportGenerator
from hardneg_plugin.neighbours.groups import groups_of
from hardneg_plugin.objectives import PairEmbeddings
from hardneg_plugin.objectives.alternating import Alternating

STUDIES = PhantomStudies(train=9, val=1, test=1, size=64, normal_share=0.5).split("train")
TOKENIZER = WordTokenizer.from_reports(STUDIES.reports, min_count=1)
DECODING = Decoding(max_length=8, beam_size=2)
GROUPS = groups_of(STUDIES.reports, STUDIES.patients, STUDIES.labels)


def samples():
    """Every third study has but one view."""
    return [
        {**STUDIES[i], "images": STUDIES[i]["images"][:1] if i % 3 == 0 else STUDIES[i]["images"]}
        for i in range(len(STUDIES))
    ]


def batches(size):
    collate = StudyCollator(TOKENIZER, 40)
    return [collate(samples()[start : start + size]) for start in range(0, len(STUDIES), size)]


REFERENCES = {batch["ids"][0]: batch["references"][0] for batch in batches(1)}


def generator(kind=ReportGenerator, **more):
    torch.manual_seed(0)
    return kind(
        **{
            "visual": VisualExtractor("resnet10t", options={"channels": [8, 8, 16, 16], "stem_width": 8}),
            "backbone": partial(TransformerDecoder, width=32, heads=2, layers=2),
            "tokenizer": TOKENIZER,
            "optimizer": torch.optim.AdamW,
            "decoding": DECODING,
            **more,
        }
    )


def plugged(**options):
    objective = partial(HardNegativeObjective, width=8, **options)
    return generator(HardNegativeReportGenerator, hard_negatives=objective)


def inspect(model, size=4, decoding=DECODING, groups=GROUPS, hardness=0.5):
    """All studies, in order."""
    settings = {"decoding": decoding, "groups": groups, "hardness": hardness}
    found = inspect_split(model, batches(size), references=REFERENCES, **settings)
    assert list(found) == list(STUDIES.ids)
    return list(found.values())


def embeddings(model):
    """Of each study by itself, as recall at validation embeds it."""
    model.eval()
    rows = []
    with torch.no_grad():
        for batch in batches(1):
            features = model.visual(batch["images"], batch["view_mask"])
            states = model.decoder.word_embedding.weight[batch["tokens"][0, 1:]]  # no padding: one study
            pairs = PairEmbeddings(images=features.pooled, reports=states.mean(0, keepdim=True))
            rows.append(torch.cat(model.hard_negatives.project(pairs)))
    return torch.stack(rows).unbind(1)


def nearest_by_loops(similarity, groups=GROUPS):
    """The most similar study that shares no group."""
    found = []
    for i in range(len(similarity)):
        allowed = [
            j for j in range(len(similarity)) if i != j and all(g[i] != g[j] or g[i] == -1 for g in groups.values())
        ]
        found.append(max(allowed, key=lambda j: similarity[i][j], default=None))
    return found


def test_words_and_attention_are_those_of_writing_each_study_by_itself():
    model = generator()
    model.image_size = 64
    views = [list(sample["images"]) for sample in samples()]
    alone = model.generate(views, batch_size=1, attention=True)
    found = inspect(model)
    assert [each.text for each in found] == [report.text for report in alone]
    assert len({each.text for each in found}) > 1
    for each, report, study in zip(found, alone, views, strict=True):
        assert each.words == report.text.split()
        assert each.attention.shape == (len(each.words), len(study), 2, 2) == tuple(report.attention.shape)
        for word, own in zip(each.attention, report.attention.numpy(), strict=True):
            assert np.abs(word - 255 * own / own.max()).max() <= 0.51
            assert word.max() == 255


@pytest.mark.parametrize("how", [Arc(), Arc(margin=0.1), Ascent(), Segment(), Projection()], ids=repr)
def test_similarities_are_those_of_the_objective_and_its_hardening(how):
    model = plugged(hardening=how)
    images, reports = embeddings(model)
    nearest = nearest_by_loops(reports @ reports.T)
    for i, each in enumerate(inspect(model)):
        z, u, n = images[i], reports[i], reports[nearest[i]]
        assert each.hard_negative == STUDIES.ids[nearest[i]]
        hardened = how(z[None], u[None], n[None], 0.5)[0]
        expected = [float(z @ x) for x in (u, n, hardened)]
        found = [each.similarities.positive, each.similarities.hard, each.similarities.hardened]
        assert found == pytest.approx(expected, abs=1e-5)


def test_alternating_is_shown_by_one_ascent_and_no_hardening_by_none():
    model = plugged(hardening=Alternating(step_size=0.2, steps=2, margin=0.05))
    images, reports = embeddings(model)
    nearest = nearest_by_loops(reports @ reports.T)
    hardened = harden_ascent(images, reports, reports[nearest], hardness=0.9, steps=2, step_size=0.2, margin=0.05)
    found = [each.similarities.hardened for each in inspect(model, hardness=0.9)]
    assert found == pytest.approx((images * hardened).sum(-1).tolist(), abs=1e-5)
    assert len(model.hard_negatives.hardening.bank) == 0
    assert {each.similarities.hardened for each in inspect(plugged(hardening=None))} == {None}


def test_released_hardening_takes_the_split_as_its_batch():
    model = plugged(hardening=Released())
    images, reports = embeddings(model)
    hardened = Released()(images, reports, reports[nearest_by_loops(reports @ reports.T)], 0.5)
    found = [each.similarities.hardened for each in inspect(model, size=2)]
    assert found == pytest.approx((images * hardened).sum(-1).tolist(), abs=1e-4)


def test_the_hard_negatives_of_a_bare_host_are_the_nearest_by_the_words_of_their_reports():
    texts = [batch["references"][0].replace(".", " ").split() for batch in batches(1)]
    seen = Counter(word for text in texts for word in set(text))
    rows = []
    for text in texts:
        weights = {
            word: (1 + math.log(count)) * (1 + math.log((1 + len(texts)) / (1 + seen[word])))
            for word, count in Counter(text).items()
        }
        norm = math.sqrt(sum(weight**2 for weight in weights.values()))
        rows.append({word: weight / norm for word, weight in weights.items()})
    similarity = [[sum(a[word] * b.get(word, 0) for word in a) for b in rows] for a in rows]
    found = inspect(generator())
    assert [each.hard_negative for each in found] == [STUDIES.ids[j] for j in nearest_by_loops(similarity)]
    assert {each.similarities for each in found} == {None}


@pytest.mark.parametrize("make", [generator, plugged], ids=["host", "hard_negatives"])
def test_a_study_that_matches_all_others_has_no_hard_negative(make):
    groups = {"patient": np.array([0] * 8 + [1])}
    found = inspect(make(), groups=groups)
    assert [each.hard_negative for each in found[:8]] == [STUDIES.ids[8]] * 8
    everything = inspect(make(), groups={"patient": np.zeros(9, dtype=np.int64)})
    assert {(each.hard_negative, each.similarities) for each in everything} == {(None, None)}


@pytest.mark.parametrize("make", [generator, plugged], ids=["host", "hard_negatives"])
def test_only_what_is_shown_is_generated_and_comes_out_as_of_the_whole_split(make, monkeypatch):
    model = make()
    whole = dict(zip(STUDIES.ids, inspect(model), strict=True))
    decode, decoded, embedded = model.decoder.decode, [], []
    monkeypatch.setattr(
        model.decoder, "decode", lambda *args, **more: decoded.append(len(args[0])) or decode(*args, **more)
    )
    rows, collate = [7, 2, 5], StudyCollator(TOKENIZER, 40)

    def others():
        for row in sorted(set(range(len(STUDIES))) - set(rows)):
            embedded.append(row)
            yield collate([samples()[row]])

    found = inspect_split(
        model,
        [collate([samples()[row] for row in rows])],
        others(),
        references=REFERENCES,
        groups=GROUPS,
        decoding=DECODING,
        hardness=0.5,
    )
    assert list(found) == [STUDIES.ids[row] for row in rows]
    assert decoded == [3]
    assert embedded == ([] if make is generator else [0, 1, 3, 4, 6, 8])
    for study, own in found.items():
        expected = whole[study]
        assert (own.text, own.hard_negative) == (expected.text, expected.hard_negative)
        np.testing.assert_array_equal(own.attention, expected.attention)
        if make is plugged:
            assert vars(own.similarities) == pytest.approx(vars(expected.similarities), abs=1e-6)


def test_mode_and_random_state_stay_what_they_were():
    model = plugged().train()
    model.visual.eval()
    modes = {name: module.training for name, module in model.named_modules()}
    state = torch.get_rng_state()
    inspect(model, decoding=replace(DECODING, sample=True))
    assert torch.equal(torch.get_rng_state(), state)
    assert {name: module.training for name, module in model.named_modules()} == modes
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_decoder_may_keep_its_attention_to_itself(monkeypatch):
    model = generator()
    expected = [each.text for each in inspect(model)]
    monkeypatch.setattr(TransformerDecoder, "attention_maps", lambda *_, **__: torch.stack(None))
    found = inspect(model)
    assert [each.text for each in found] == expected
    assert {each.attention for each in found} == {None}


def test_a_decoder_of_another_library():
    config = {"model_type": "gpt2", "n_embd": 8, "n_layer": 1, "n_head": 2, "n_positions": 60}
    model = generator(backbone=partial(HuggingFaceDecoder, config=config))
    found = inspect(model, decoding=replace(DECODING, sample=True))  # untrained, a search ends at once
    assert [each.attention.shape for each in found] == [
        (len(each.words), 1 if i % 3 == 0 else 2, 2, 2) for i, each in enumerate(found)
    ]
    assert sum(len(each.words) for each in found) > 9
