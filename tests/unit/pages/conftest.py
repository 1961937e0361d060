"""Made-up content: phantom studies, and variants that write about them what is partly that of another study."""

import math
from dataclasses import replace

import numpy as np
import pytest

from hardneg_plugin.comparison.comparison import Comparison, Contrast, SplitResult, VariantDifference, VariantResult
from hardneg_plugin.data.phantom import PhantomStudies
from hardneg_plugin.data.phantom.reading import read_findings
from hardneg_plugin.evaluation.inspected_study import FoundEntity, InspectedStudy, Reading, Similarities
from hardneg_plugin.knowledge import ABSENT, PRESENT, UNKNOWN
from hardneg_plugin.pages.content import Curve, PageContent, Score, StudyContent
from hardneg_plugin.pages.overview import overview_of

STEPS = range(0, 1000, 20)


def _told(found):
    name, attributes = found
    return " ".join([name, *(str(value) for _, value in attributes)])


def _findings(reference, generated):
    there, said = read_findings(reference), read_findings(generated)
    kinds = {"correct": there & said, "wrong": said - there, "missed": there - said}
    return [(_told(found), kind) for kind, those in kinds.items() for found in sorted(those, key=str)]


def _written(rng, reference, other, other_id, views):
    """The first sentences of the reference, then those of another report."""
    kept, others = reference.split(". "), other.split(". ")
    cut = int(rng.integers(len(kept)))
    text = ". ".join(kept[:cut] + others[cut:])
    words = text.split()
    rows, columns = 7, 7
    centres = rng.uniform(0, 6, (len(words), views, 2))
    places = np.stack(np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij"), -1)
    maps = np.exp(-((places - centres[:, :, None, None]) ** 2).sum(-1) / rng.uniform(0.6, 3, (len(words), 1, 1, 1)))
    maps *= rng.uniform(0.2, 1, (len(words), views, 1, 1))
    attention = np.round(255 * maps / maps.max(axis=(1, 2, 3), keepdims=True)).astype(np.uint8) if words else None
    own, hard = sorted(rng.uniform(0.1, 0.9, 2))[::-1]
    return InspectedStudy(
        text=text,
        attention=attention,
        findings=_findings(reference, text),
        scores={"BLEU-4": float(rng.uniform(0, 1)), "findings_attributes_F1": float(rng.integers(0, 5) / 4)},
        similarities=Similarities(own, hard, (own + hard) / 2),
        hard_negative=other_id,
    )


def _curves(rng, variant, hardened):
    def noisy(values, spread):
        return [(step, float(value + rng.normal(0, spread))) for step, value in zip(STEPS, values, strict=True)]

    progress = np.array(STEPS) / STEPS[-1]
    named = {"train/report_loss": 4 * np.exp(-4 * progress) + 0.6}
    if hardened:
        named |= {
            "train/alignment_loss": 3 * np.exp(-2 * progress) + 0.8,
            "train/hardness": progress,
            "train/negative_similarity": 0.6 - 0.3 * progress,
            "train/hardened_similarity": 0.6 - 0.1 * progress,
            "train/false_negative_share": 0.1 - 0.05 * progress,
        }
    curves = [Curve(variant, name, noisy(values, 0.02)) for name, values in named.items()]
    for name, top in {"val/report_loss": 1.2, "val/BLEU-4": 0.4, "val/findings_attributes_F1": 0.7}.items():
        values = noisy(top * (1 - np.exp(-3 * progress)), 0.01)[::5]
        curves.append(Curve(variant, name, values))
    return curves


def made_up(count=12, variants=("host", "arc"), size=64, seed=0):
    """The content of a page about the first studies of the phantom's test split."""
    rng = np.random.default_rng(seed)
    split = PhantomStudies(test=count + 1, size=size).split("test")
    studies = []
    for index in range(count):
        views = [view[0].numpy() for view in split[index]["images"]]
        reference, other = split.reports[index], (index + 1) % (count + 1)
        written = {
            variant: _written(rng, reference, split.reports[other], split.ids[other], len(views))
            for variant in variants
        }
        if "host" in written:
            written["host"] = replace(written["host"], similarities=None)
        studies.append(StudyContent(split.ids[index], views, reference, written))
    neighbour = StudyContent(
        split.ids[count], [view[0].numpy() for view in split[count]["images"]], split.reports[count], {}
    )
    names = ["BLEU-4", "METEOR", "CIDEr", "findings_attributes_F1", "specificity", "length"]
    scores = {}
    for variant in variants:
        values = {name: float(rng.uniform(0.2, 0.6)) for name in names} | {"length": 41.5}
        scores[variant] = {
            name: Score(value, value - 0.03, value + 0.03) if name != "length" else Score(value, None, None)
            for name, value in values.items()
        }
    return PageContent(
        title="Host and arc on the phantom, test split",
        notes=["Studies 1 to 12 of 400, spread evenly over findings_attributes_F1.", "Chosen by validation: arc."],
        variants=list(variants),
        studies=studies,
        neighbours=[neighbour],
        scores=scores,
        curves=[curve for variant in variants for curve in _curves(rng, variant, variant != "host")],
        configs={variant: f"model:\n  name: {variant}\n" + "  key: 1\n" * 30 for variant in variants},
    )


def _alignment_known(rng, study, cut=None):
    """The same study whose variant "words" reads its reference, up to a word, and whose "entities" finds some."""
    words, views = study.reference.split()[:cut], len(study.views)
    weights = rng.dirichlet(np.ones(len(words) + 1))[:-1].tolist()
    read = Reading(words, weights, rng.integers(0, 256, (len(words), views, 4, 4)).astype(np.uint8))
    entities = [
        FoundEntity(phrase, likely, fact, rng.integers(0, 256, (views, 3, 5)).astype(np.uint8))
        for phrase, likely, fact in (
            ("effusion", 0.97, PRESENT),
            ("left effusion", 0.81, UNKNOWN),
            ("nodule", 0.66, ABSENT),
            ("cardiomegaly", 0.58, None),
            ("right lower lobe consolidation with a name that is long", 0.0004, PRESENT),
        )
    ]
    written = dict(study.written)
    written["words"] = replace(written["words"], reading=read)
    written["entities"] = replace(written["entities"], entities=entities)
    return replace(study, written=written)


@pytest.fixture(scope="session")
def content():
    return made_up()


@pytest.fixture(scope="session")
def aligned():
    """What alignments know, of two of three variants; the second study's reference is cut, in the third nothing is found."""
    rng = np.random.default_rng(1)
    content = made_up(3, ("host", "words", "entities"))
    first, second, third = (
        _alignment_known(rng, study, cut) for study, cut in zip(content.studies, (None, 5, None), strict=True)
    )
    third.written["entities"] = replace(third.written["entities"], entities=[])
    return replace(content, studies=[first, second, third])


@pytest.fixture(scope="session")
def hostile():
    """A page in which every text tries to be something else, and in which numbers are not all numbers."""
    text = "</script><script>document.title='taken'</script> <!-- <b>&amp; \"'` {{ 7*7 }} {% x %} \u2028\u2029 \x00 \ud800 é"
    written = InspectedStudy(
        text=text,
        attention=np.full((len(text.split()), 1, 1, 2), 255, np.uint8),
        findings=[(text, "correct"), (text, "wrong"), (text, "missed")],
        scores={text: math.nan, "inf": math.inf},
        similarities=Similarities(math.nan, -math.inf, -1.0),
        hard_negative=text + "2",
    )
    image = np.zeros((5, 9), np.uint8)
    return PageContent(
        title=text,
        notes=[text],
        variants=[text],
        studies=[StudyContent(text, [image], text, {text: written})],
        neighbours=[StudyContent(text + "2", [], text, {})],
        scores={text: {text: Score(math.nan, -math.inf, None), "other": Score(0.5, math.nan, 1.0)}},
        curves=[Curve(text, text, [(0, math.nan), (1, math.inf), (2, 0.5)]), Curve(text, "val/none", [])],
        configs={text: text},
    )


def _difference(value, half, corrected):
    return VariantDifference(value, value - half, value + half, p_value=corrected / 4, corrected=corrected)


@pytest.fixture(scope="session")
def comparison():
    """Two variants against a host: one is better in one measure and worse in another, of the other nothing is found."""
    differences = {
        "arc": {"findings_F1": _difference(0.1, 0.04, 0.0079), "CIDEr": _difference(-0.2, 0.1, 0.03)},
        "mined": {"findings_F1": _difference(0.01, 0.03, 0.9), "CIDEr": _difference(0.0, 0.2, 1.0)},
    }
    scores = {
        "host": {"findings_F1": [0.5, 0.54], "CIDEr": [0.8, 0.9]},
        "arc": {"findings_F1": [0.6, 0.64], "CIDEr": [0.6, 0.7]},
        "mined": {"findings_F1": [0.51, 0.55], "CIDEr": [0.7, 1.0]},
    }
    intervals = {name: dict.fromkeys(("findings_F1", "CIDEr"), (0.4, 0.9)) for name in scores}
    split = SplitResult(120, "", intervals, differences, pairs=[Contrast("arc", "mined", differences["arc"])])
    return Comparison(
        baseline="host",
        seeds=[1, 2],
        measures=["findings_F1", "CIDEr"],
        resamples=2000,
        variants={
            name: VariantResult([], {"val": own, "test": own}, [10.0, 12.0], {"inference": 7}, {}, [1, 2])
            for name, own in scores.items()
        },
        splits={"val": split, "test": split},
        notes=["bank is left out."],
    )


@pytest.fixture(scope="session")
def compared(content, comparison):
    """The page of a comparison."""
    overview = overview_of(comparison)
    return replace(content, scores={}, notes=[], overview=overview, by_difference="findings_attributes_F1")
