"""A study with a feature that is not finite, or of length zero: everything else is as if it had not come."""

from functools import partial

import pytest
import torch

from hardneg_plugin import HardNegativeObjective, PairEmbeddings
from hardneg_plugin.functional.hardening import Arc, Ascent, Projection, Released, Segment
from hardneg_plugin.functional.likelihood import TokenLosses
from hardneg_plugin.grounding import Grounding, Learned
from hardneg_plugin.knowledge import ChestXray
from hardneg_plugin.objectives import (
    Absolute,
    Alternating,
    Bank,
    ByImage,
    ByText,
    EditMargin,
    GroundedKnowledgeObjective,
    Hinge,
    InBatch,
    LikelihoodMargin,
    Paired,
    Queue,
    RelationEnhancedObjective,
    ReleasedAlignment,
    Triplet,
)
from hardneg_plugin.objectives.gk_mvlp import pair_matching
from hardneg_plugin.objectives.schedule import Constant, TrainingProgress
from hardneg_plugin.objectives.usable_studies import usable_studies, without_unusable

PROMPTS = len(ChestXray().prompts)
SIZES = {"image_width": 6, "report_width": 5, "width": 4}
IN_BATCHES = [7, 6, 8, 5, 7, 6]
ithn = partial(HardNegativeObjective, schedule=Constant(hardness=0.5), separation=Hinge(margin=-0.5), **SIZES)
grounded = partial(GroundedKnowledgeObjective, knowledge=ChestXray(), heads=1, schedule=Constant(hardness=0.5), **SIZES)
ROWS = {
    "in_batch": lambda: ithn(negatives=InBatch(k=2)),
    "without heads": lambda: HardNegativeObjective(schedule=Constant(hardness=0.5)),
    "queue": lambda: ithn(negatives=Queue(size=12, k=2)),
    "small queue": lambda: ithn(negatives=Queue(size=4)),
    "bank": lambda: ithn(negatives=Bank(k=2)),
    "table": lambda: ithn(
        negatives=Bank(table={f"study {n}": [f"study {n + 1}", f"study {n + 2}"] for n in range(20)})
    ),
    "paired": lambda: ithn(negatives=Paired(k=2)),
    "segment": lambda: ithn(hardening=Segment()),
    "projection": lambda: ithn(hardening=Projection()),
    "ascent": lambda: ithn(hardening=Ascent()),
    "none": lambda: ithn(hardening=None),
    "alternating": lambda: ithn(hardening=Alternating(margin=0.02), negatives=InBatch(k=2)),
    "triplet": lambda: ithn(alignment=Triplet(), hardening=Arc()),
    "released": lambda: ithn(alignment=ReleasedAlignment(), hardening=Released(), separation=Absolute()),
    "reclf": lambda: RelationEnhancedObjective(
        word_region_width=4, chunk=2, schedule=Constant(hardness=0.5), negatives=InBatch(k=2), **SIZES
    ),
    "reclf, paired": lambda: RelationEnhancedObjective(
        word_region_width=4, schedule=Constant(hardness=0.5), negatives=Paired(k=2), **SIZES
    ),
    "gk_mvlp": lambda: grounded(grounding=partial(Grounding, width=4, heads=2, regions=partial(Learned, count=2))),
    "gk_mvlp, entities": lambda: grounded(entity_width=3),
}
FEATURES = ["images", "reports", "regions", "words", "entities"]
BAD = {
    "NaN in the image": ("images", torch.nan),
    "inf in the report": ("reports", torch.inf),
    "a report of zeros": ("reports", None),
    "an image whose length overflows": ("images", 1e30),
}
BAD_PARTS = {
    "NaN in a region": ("regions", torch.nan),
    "-inf in a word": ("words", -torch.inf),
    "NaN in an entity": ("entities", torch.nan),
}


def features_of(numbers, step, width, has_paired):
    """Features of studies by number, the same whoever else is in the batch."""
    random = [torch.Generator().manual_seed(1000 * step + number) for number in numbers]
    report_width = 6 if width is None else 5
    shapes = {"images": (6,), "reports": (report_width,), "regions": (4, 6), "words": (3, 5), "entities": (PROMPTS, 3)}
    values = {name: [torch.randn(shape, generator=r) for r in random] for name, shape in shapes.items()}
    given = {name: torch.stack(rows).requires_grad_() for name, rows in values.items()}
    given["facts"] = torch.tensor([[(n + q) % 3 - 1 for q in range(PROMPTS)] for n in numbers])
    given["ids"] = [f"study {n}" for n in numbers]
    if has_paired:
        given["negatives"] = features_of([(n + j + 1) % 20 for n in numbers for j in (0, 1)], step, width, False)
    return given


def pairs_of(given):
    fields = {name: given[name] for name in [*FEATURES, "facts"]}
    negatives = pairs_of(given["negatives"]) if "negatives" in given else None
    return PairEmbeddings(study_ids=given["ids"], negatives=negatives, **fields)


def spoilt(given, row, feature, value):
    """The same features, one element of a row replaced, or the whole row by zeros."""
    with torch.no_grad():
        rows = given[feature][row]
        rows.zero_() if value is None else rows.view(-1)[1].fill_(value)
    return given


def outcome(objective, given, step, inputs):
    """Losses, logs, state, and gradients of parameters and features of one step; `inputs` names the rows that are compared."""
    objective.zero_grad()
    statements = torch.linspace(-1, 1, 2 * PROMPTS * 5).sin().view(2, PROMPTS, 5)
    extra = {"statements": statements} if objective.statement_texts else {}
    terms = objective(pairs_of(given), TrainingProgress(step=step, epoch=step // 2), **extra)
    (terms.alignment_loss + 0.3 * terms.separation_loss).backward()
    gradients = {name: p.grad.clone() for name, p in objective.named_parameters()}
    for name in FEATURES:
        if given[name].grad is not None:
            gradients[f"in/{name}"] = given[name].grad[inputs]
    logs = {name: value for name, value in terms.logs.items() if name != "non_finite_share"}
    buffers = {name: value for name, value in objective.state_dict().items() if not name.startswith("alignment")}
    return {
        "losses": [terms.alignment_loss.detach(), terms.separation_loss.detach()],
        "logs": logs,
        "gradients": gradients,
        "state": buffers,
        "share": terms.logs["non_finite_share"].item(),
    }


@pytest.fixture(autouse=True)
def _same_draws(monkeypatch):
    # pair matching draws for all studies of a batch at once
    monkeypatch.setattr(
        pair_matching, "_noise", lambda batch: torch.ones(2, len(batch.all_images), len(batch.all_images))
    )


def compare(make, feature, value):
    """Six steps with an unusable study in each, at another place each time, against the same steps without it."""
    torch.manual_seed(0)
    objective, without = make(), make()
    without.load_state_dict(objective.state_dict())
    width = None if not isinstance(objective.image_head, torch.nn.Linear) else 4
    found = 0.0
    for step, size in enumerate(IN_BATCHES):
        numbers = [(3 * step + i) % 20 for i in range(size)]
        row = (2 * step) % size
        others = [i for i in range(size) if i != row]
        has_paired = isinstance(objective.negatives, Paired)
        given = spoilt(features_of(numbers, step, width, has_paired), row, feature, value)
        got = outcome(objective, given, step, others)
        expected = outcome(
            without, features_of([numbers[i] for i in others], step, width, has_paired), step, slice(None)
        )
        assert got.pop("share") == pytest.approx(1 / size)
        assert expected.pop("share") == 0
        torch.testing.assert_close(got, expected, rtol=2e-4, atol=2e-6)
        for name in FEATURES:
            if given[name].grad is not None:
                assert (given[name].grad[row] == 0).all(), name
        found += got["logs"]["negatives_found"].item()
    assert found > 3


@pytest.mark.parametrize(
    ("source", "bad"),
    [(source, bad) for source in ROWS for bad in list(BAD)[:1] + list(BAD)[2:3]]
    + [(source, bad) for source in ("in_batch", "without heads", "queue", "released") for bad in list(BAD)[1::2]],
)
def test_all_others_are_as_if_it_had_not_come(source, bad):
    compare(ROWS[source], *BAD[bad])


@pytest.mark.parametrize(
    ("source", "bad"),
    [(source, bad) for source in ("reclf", "reclf, paired", "gk_mvlp") for bad in list(BAD_PARTS)[:2]]
    + [("gk_mvlp, entities", bad) for bad in BAD_PARTS],
)
def test_a_part_that_is_not_finite_makes_its_study_unusable(source, bad):
    compare(ROWS[source], *BAD_PARTS[bad])


@pytest.mark.parametrize("reads_parts", [True, False])
@pytest.mark.parametrize("feature", FEATURES)
def test_what_is_not_usable_is_zero_in_paired_studies_too(feature, reads_parts):
    given = features_of([1, 2, 3], 0, 4, True)
    spoilt(given, 1, feature, torch.nan)
    spoilt(given["negatives"], 4, feature, torch.inf)
    pairs = pairs_of(given)
    cleaned = without_unusable(pairs, reads_parts=reads_parts)
    is_read = reads_parts or feature in ("images", "reports")
    for found, before, row in ((cleaned, pairs, 1), (cleaned.negatives, pairs.negatives, 4)):
        is_usable = usable_studies(before, reads_parts=reads_parts).tolist()
        assert is_usable == [i != row or not is_read for i in range(len(before.images))]
        for name in FEATURES:
            is_cleaned = is_read and (reads_parts or name in ("images", "reports"))
            expected = getattr(before, name).detach().clone()
            if is_cleaned:
                expected[row] = 0
            torch.testing.assert_close(getattr(found, name), expected, equal_nan=True)


def test_an_objective_of_whole_images_does_not_look_at_parts():
    objective = ROWS["in_batch"]()
    got = outcome(objective, spoilt(features_of([1, 2, 3], 0, 4, False), 1, "regions", torch.nan), 0, slice(None))
    assert got["share"] == 0


def test_what_a_mask_leaves_out_may_be_anything():
    given = spoilt(features_of([1, 2, 3], 0, 4, False), 1, "words", torch.nan)
    mask = torch.ones(3, 3, dtype=torch.bool)
    mask[1, 0] = False
    pairs = PairEmbeddings(**{name: given[name] for name in ("images", "reports", "regions", "words")}, word_mask=mask)
    terms = ROWS["reclf"]()(pairs, TrainingProgress(fraction=0.5))
    terms.alignment_loss.backward()
    assert terms.logs["non_finite_share"] == 0
    assert terms.alignment_loss.isfinite()
    assert given["words"].grad.isfinite().all()


def test_a_paired_study_with_a_bad_feature_is_no_negative_and_its_study_stays():
    torch.manual_seed(0)
    objective = ithn(negatives=Paired(k=2), centred=False)
    given = features_of([1, 2, 3], 0, 4, True)
    spoilt(given["negatives"], 2, "images", torch.nan)  # the first of the second study
    terms = objective(pairs_of(given), TrainingProgress(fraction=0.5))
    terms.alignment_loss.backward()
    assert terms.logs["negatives_found"].item() == pytest.approx(5 / 6)
    assert terms.logs["non_finite_share"] == 0
    assert terms.alignment_loss.isfinite()
    assert all(p.grad.isfinite().all() for p in objective.parameters() if p.grad is not None)
    assert given["negatives"]["reports"].grad[[0, 1, 3, 4, 5]].abs().sum(1).min() > 0
    assert (given["negatives"]["reports"].grad[2] == 0).all()


@pytest.mark.parametrize("make", ROWS.values(), ids=ROWS)
def test_without_any_usable_study_loss_and_gradients_are_zero_and_nothing_is_remembered(make):
    torch.manual_seed(0)
    objective = make()
    before = {name: value.clone() for name, value in objective.state_dict().items() if isinstance(value, torch.Tensor)}
    width = None if not isinstance(objective.image_head, torch.nn.Linear) else 4
    given = features_of([1, 2, 3], 0, width, isinstance(objective.negatives, Paired))
    for row in range(3):
        spoilt(given, row, "images", torch.nan)
    got = outcome(objective, given, 0, slice(None))
    assert got["share"] == 1
    assert all(loss == 0 for loss in got["losses"])
    assert all((gradient == 0).all() for gradient in got["gradients"].values())
    assert all(value.isfinite() for value in got["logs"].values())
    for name, value in before.items():
        assert torch.equal(objective.state_dict()[name], value), name
    for name, state in got["state"].items():
        if name.endswith("_extra_state"):
            assert not len(state.get("keys", [])), name
            assert not state.get("pushed", 0), name


def test_an_empty_place_of_the_queue_is_no_negative():
    source = Queue(size=8)
    objective = HardNegativeObjective(negatives=source, schedule=Constant(hardness=0.5))
    objective(pairs_of(spoilt(features_of([1, 2], 0, None, False), 1, "images", torch.nan)), TrainingProgress())
    assert len(source.queue) == 2
    again = pairs_of(features_of([1], 1, None, False))  # its own earlier embedding is a match
    assert objective(again, TrainingProgress()).logs["negatives_found"] == 0


def test_a_study_that_was_left_out_enters_by_its_sound_row():
    """Of two rows of one study the first is remembered, unless it cannot be used."""
    source = Bank()
    objective = HardNegativeObjective(negatives=source, hardening=Alternating(), schedule=Constant(hardness=0.5))
    given = features_of([1, 1, 4], 0, None, False)
    spoilt(given, 0, "reports", torch.inf)
    objective(pairs_of(given), TrainingProgress())
    keys, _, images, _ = source.bank.entries()
    assert len(keys) == 2
    torch.testing.assert_close(images[0], torch.nn.functional.normalize(given["images"][1].detach(), dim=-1))


def test_a_statement_that_is_not_finite_leaves_its_prompt_out():
    losses = {}
    for fact, element in ((1, torch.nan), (-1, 0.5)):
        torch.manual_seed(0)
        objective = ROWS["gk_mvlp, entities"]()
        given = features_of([1, 2, 3, 4], 0, 4, False)
        given["facts"][:, 2] = fact
        statements = torch.randn(2, PROMPTS, 5)
        statements[1, 2, 0] = element
        statements.requires_grad_()
        terms = objective(pairs_of(given), TrainingProgress(fraction=0.5), statements=statements)
        terms.alignment_loss.backward()
        assert statements.grad.isfinite().all()
        losses[fact] = terms.logs["statement_loss"]
    torch.testing.assert_close(losses[1], losses[-1])


READ = {
    "by_image": {"token_weights": ByImage(k=2)},
    "by_image, relative": {"token_weights": ByImage(relative=True, choice="nearest")},
    "by_mean_image": {"token_weights": ByImage(choice="mean_image")},
    "by_text": {"token_weights": ByText(k=2)},
    "margin": {"likelihood_margin": LikelihoodMargin(side="both", k=2)},
    "margin, hinge": {"likelihood_margin": LikelihoodMargin(form="hinge", margin=3.0)},
    "margin, info_nce": {"likelihood_margin": LikelihoodMargin(form="info_nce", k=2)},
    "edits": {"edit_margin": EditMargin()},
}


@pytest.mark.parametrize("options", READ.values(), ids=READ)
def test_reports_are_read_as_if_it_had_not_come(options):
    """Token losses that depend on report and image alone; those of the unusable study are NaN, as a decoder would give."""

    def run(numbers, bad_row):
        torch.manual_seed(0)
        objective = ithn(**options)
        given = features_of(numbers, 0, 4, False)
        if bad_row is not None:
            spoilt(given, bad_row, "images", torch.nan)
        scores = torch.stack([torch.randn(5, generator=torch.Generator().manual_seed(n)).abs() for n in numbers])
        scores.requires_grad_()
        tokens = torch.tensor([[(n * t) % 4 + 1 for t in range(1, 6)] for n in numbers])

        def read(order=None, towards=None, *, changes=None):
            whose = torch.arange(len(numbers)) if order is None else order.clamp_min(0)
            shift = torch.tensor([0.3 * numbers[i] for i in whose.tolist()])
            if order is not None and (order < 0).any():
                shift = torch.full_like(shift, 0.7)
            losses = scores * (1 + shift[:, None].sin().abs())
            if bad_row is not None:
                is_bad = (whose == bad_row) | (torch.arange(len(numbers)) == bad_row)
                losses = losses.masked_fill(is_bad[:, None], torch.nan)
            edited = (tokens + (changes or 0)) % 5 + 1 if changes else tokens
            return TokenLosses(losses, torch.ones_like(tokens, dtype=torch.bool), edited)

        terms = objective(pairs_of(given), TrainingProgress(fraction=0.5), read=read)
        if terms.likelihood_loss is not None:
            terms.likelihood_loss.backward()
        keep = [i for i in range(len(numbers)) if i != bad_row]
        own = read()
        weights = None
        if objective.token_weights is not None:
            batch = objective._embed(pairs_of(given), TrainingProgress(fraction=0.5))
            weights = objective.token_weights(batch, own, read, 0.5)[0]
            assert weights.isfinite().all()
            weights = weights[keep]
        gradient = None if scores.grad is None else scores.grad[keep]
        loss = None if terms.likelihood_loss is None else terms.likelihood_loss.detach()
        logs = {k: v for k, v in terms.logs.items() if k.startswith(("likelihood", "margin", "edit_a", "edit_v"))}
        return {"loss": loss, "gradient": gradient, "weights": weights, "logs": logs}

    got, expected = run([3, 4, 9, 6, 7], 2), run([3, 4, 6, 7], None)
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-6)
