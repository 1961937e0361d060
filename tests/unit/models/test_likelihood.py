"""Reports read with other images: by the generators, and in the loss of a training step."""

from functools import partial

import pytest
import torch

from hardneg_plugin import HardNegativeObjective
from hardneg_plugin.backbones.decoding import Decoding
from hardneg_plugin.backbones.r2gen import R2Gen
from hardneg_plugin.backbones.r2gencmn import R2GenCMN
from hardneg_plugin.backbones.transformer import TransformerDecoder
from hardneg_plugin.backbones.visual import VisualExtractor
from hardneg_plugin.backbones.visual_features import VisualFeatures
from hardneg_plugin.data.collate import StudyCollator
from hardneg_plugin.data.edited import ReportEdits
from hardneg_plugin.data.phantom import PhantomEdits, PhantomStudies
from hardneg_plugin.data.tokenizer import WordTokenizer
from hardneg_plugin.errors import UserError
from hardneg_plugin.functional.likelihood import likelihood_margin, token_losses
from hardneg_plugin.models.hard_negative_generator import HardNegativeReportGenerator
from hardneg_plugin.models.other_images import other_images
from hardneg_plugin.objectives import ByEmphasis, ByImage, ByText, EditMargin, LikelihoodMargin, Paired, Weights
from hardneg_plugin.objectives.likelihood.negative_images import MEAN_IMAGE, NegativeImages
from hardneg_plugin.objectives.schedule import Constant, TrainingProgress

STUDIES = PhantomStudies(train=12, val=1, test=1, size=32).split("train")
TOKENIZER = WordTokenizer.from_reports(STUDIES.reports, min_count=1)
SMALL = {"width": 32, "heads": 2, "layers": 1, "dropout": 0.0, "patch_dropout": 0.0}
BACKBONES = {
    "transformer": partial(TransformerDecoder, **SMALL),
    "r2gen": partial(R2Gen, **SMALL),
    "r2gencmn": partial(R2GenCMN, **SMALL, memory_size=8, topk=4),
}


def generator(backbone="transformer", *, warmup=0.0, **options):
    torch.manual_seed(0)
    model = HardNegativeReportGenerator(
        visual=VisualExtractor("resnet10t", options={"channels": [8, 8, 16, 16], "stem_width": 8}),
        backbone=BACKBONES[backbone],
        tokenizer=TOKENIZER,
        optimizer=partial(torch.optim.AdamW, lr=1e-3),
        decoding=Decoding(max_length=8),
        hard_negatives=partial(HardNegativeObjective, width=8, schedule=Constant(warmup=warmup), **options),
    )
    model.log = lambda *args, **kwargs: None
    model._progress = lambda: TrainingProgress(step=5, fraction=0.5)
    return model


@pytest.fixture
def batch():
    return StudyCollator(TOKENIZER, 40)([STUDIES[i] for i in range(6)])


@pytest.fixture
def edited_batch():
    studies = ReportEdits(PhantomEdits(), changes=3).beside(STUDIES)
    return StudyCollator(TOKENIZER, 40)([studies[i] for i in range(6)])


def per_study(model, batch, images, report):
    """The loss of one report with the image of one study, by a forward of these two alone."""
    alone = {name: value[[images]] for name, value in batch.items() if name in ("images", "view_mask")}
    visual = model.encode_images(alone)
    tokens = batch["tokens"][[report]]
    log_probs = model.decoder.log_probs(visual.context, tokens, patch_mask=visual.context_mask)
    total = 0.0
    for t in range(1, int(batch["token_mask"][report].sum())):
        total -= log_probs[0, t - 1, tokens[0, t]]
    return float(total)


@pytest.mark.parametrize("backbone", BACKBONES)
@torch.no_grad()
def test_reports_with_other_images_are_as_if_the_images_had_been_swapped(backbone, batch):
    model = generator(backbone).eval()
    outputs = model._teacher_forced(batch)
    order = torch.tensor([3, 3, 0, 5, 1, 2])
    read = model.token_losses(batch, outputs, order).of_reports
    expected = torch.tensor([per_study(model, batch, int(order[i]), i) for i in range(6)])
    torch.testing.assert_close(read, expected, atol=1e-4, rtol=1e-5)
    own = model.token_losses(batch, outputs, torch.arange(6))
    torch.testing.assert_close(own.losses, outputs["token_losses"].losses, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_an_image_moved_all_the_way_is_the_own_one_and_half_way_is_their_mean(batch):
    model = generator().eval()
    outputs = model._teacher_forced(batch)
    order = torch.tensor([3, 3, 0, 5, 1, 2])
    whole = model.token_losses(batch, outputs, order, torch.ones(6))
    torch.testing.assert_close(whole.losses, outputs["token_losses"].losses, atol=1e-5, rtol=1e-5)
    half = model.token_losses(batch, outputs, order, torch.full((6,), 0.5))
    patches = outputs["visual"].context
    between = {**outputs, "visual": outputs["visual"]._replace(patches=(patches + patches[order]) / 2)}
    torch.testing.assert_close(half.losses, model.token_losses(batch, between, torch.arange(6)).losses)


@torch.no_grad()
def test_the_mean_image_is_one_for_all(batch):
    model = generator().eval()
    outputs = model._teacher_forced(batch)
    read = model.token_losses(batch, outputs, torch.full((6,), MEAN_IMAGE))
    patches = outputs["visual"].context
    same = {**outputs, "visual": outputs["visual"]._replace(patches=patches.mean(0).expand_as(patches))}
    torch.testing.assert_close(read.losses, model.token_losses(batch, same, torch.arange(6)).losses)


@torch.no_grad()
def test_the_mean_image_leaves_images_that_are_not_finite_out():
    visual = VisualFeatures(torch.randn(3, 4, 5), torch.ones(3, 4, dtype=torch.bool), torch.ones(3, 5), (2, 2))
    visual.patches[1, 2, 0] = torch.nan
    mean, mask = other_images(visual, torch.full((3,), MEAN_IMAGE))
    torch.testing.assert_close(mean, ((visual.context[0] + visual.context[2]) / 2).expand_as(mean))
    assert mask.all()
    visual.patches[1, 2, 0] = 0.0
    torch.testing.assert_close(other_images(visual, torch.full((3,), MEAN_IMAGE))[0][0], visual.context.mean(0))


@torch.no_grad()
def test_the_mean_image_leaves_padded_views_out():
    samples = [STUDIES[i] for i in range(4)]
    samples[1] = {**samples[1], "images": samples[1]["images"][:1]}
    samples[3] = {**samples[3], "images": samples[3]["images"][:1]}
    batch = StudyCollator(TOKENIZER, 40)(samples)
    model = generator().eval()
    outputs = model._teacher_forced(batch)
    patches, mask = outputs["visual"].context, outputs["visual"].context_mask
    assert mask.any(0).all()
    assert not mask.all()
    mean = torch.zeros_like(patches[0])
    for place in range(len(mean)):
        having = [patches[i, place] for i in range(4) if mask[i, place]]
        mean[place] = sum(having) / len(having)
    log_probs = model.decoder.log_probs(mean.expand_as(patches), batch["tokens"])
    read = model.token_losses(batch, outputs, torch.full((4,), MEAN_IMAGE))
    torch.testing.assert_close(read.losses, token_losses(log_probs, batch["tokens"], batch["token_mask"]).losses)


@pytest.fixture
def paired_batch():
    """Four studies with two paired ones each, of one or two views; the last has one, and is filled up with itself."""
    samples = [STUDIES[i] for i in range(4)]
    for sample, row in zip(samples, ([4, 5], [6, 7], [8, 9], [10, 3]), strict=True):
        sample["negatives"] = [{**STUDIES[i], "images": STUDIES[i]["images"][: 1 + i % 2]} for i in row]
    return StudyCollator(TOKENIZER, 40)([{**sample, "images": sample["images"][:1]} for sample in samples])


def test_tokens_weighed_by_paired_images_are_the_plain_loop(paired_batch):
    weights = ByImage(choice="paired", k=2)
    model = generator(token_weights=weights, negatives=Paired(k=2), weights=Weights(alignment=0.0)).eval()
    loss = model.training_step(paired_batch, 0)["loss"]
    with torch.no_grad():
        own = model._teacher_forced(paired_batch)["token_losses"]
        paired = model.encode_images(paired_batch["negatives"])
        top = below = 0.0
        for i in range(4):
            tokens = paired_batch["tokens"][[i]]
            differences = []
            for j in range(2):
                if i == 3 and j == 1:
                    continue
                row = slice(2 * i + j, 2 * i + j + 1)
                log_probs = model.decoder.log_probs(paired.context[row], tokens, patch_mask=paired.context_mask[row])
                other = token_losses(log_probs, tokens, paired_batch["token_mask"][[i]])
                differences.append((own.losses[i] - other.losses[0]).abs())
            for t in range(int(own.mask[i].sum())):
                weight = 1 + 2 * min(sum(float(one[t]) for one in differences) / len(differences), 3.0)
                top, below = top + weight * float(own.losses[i, t]), below + weight
    assert loss.item() == pytest.approx(top / below, rel=1e-4)
    loss.backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_the_margin_to_a_paired_image_reaches_its_encoder(paired_batch):
    options = {"likelihood_margin": LikelihoodMargin(choice="paired", beta=0.2), "negatives": Paired(k=2)}
    model = generator(weights=Weights(report=0.0, alignment=0.0, likelihood=1.0), **options).eval()
    loss = model.training_step(paired_batch, 0)["loss"]
    loss.backward()
    assert sum(float(p.grad.abs().sum()) for p in model.visual.parameters() if p.grad is not None) > 0
    with torch.no_grad():
        own = model._teacher_forced(paired_batch)["token_losses"].of_reports
        paired = model.encode_images(paired_batch["negatives"])
        tokens, mask = paired_batch["tokens"], paired_batch["token_mask"]
        losses = []
        for i in range(4):
            row = slice(2 * i, 2 * i + 1)
            log_probs = model.decoder.log_probs(paired.context[row], tokens[[i]], patch_mask=paired.context_mask[row])
            ahead = token_losses(log_probs, tokens[[i]], mask[[i]]).of_reports - own[[i]]
            losses.append(torch.log1p(torch.exp(-0.2 * ahead)))
    assert loss.item() == pytest.approx(float(torch.cat(losses).mean()), rel=1e-4)


def test_paired_images_that_are_not_there_are_told(batch, paired_batch):
    with pytest.raises(
        UserError, match="expected a batch with 1 paired studies per study, but got 0: choose negatives=paired"
    ):
        generator(token_weights=ByImage(choice="paired")).training_step(batch, 0)
    with pytest.raises(UserError, match="with 3 paired studies per study, but got 2"):
        generator(token_weights=ByImage(choice="paired", k=3)).training_step(paired_batch, 0)
    for make in (lambda: ByText(choice="paired"), lambda: LikelihoodMargin(side="both", choice="paired")):
        with pytest.raises(UserError, match="choice"):
            make()


@pytest.mark.parametrize("weights", [ByImage(scale=0.0), ByText(scale=0.0)])
def test_weights_of_one_are_the_step_without_them(weights, batch):
    steps = []
    for token_weights in (None, weights):
        model = generator(token_weights=token_weights)
        loss = model.training_step(batch, 0)["loss"]
        loss.backward()
        steps.append((loss.detach(), [p.grad for p in model.parameters() if p.grad is not None]))
    (loss, gradients), (weighed, weighed_gradients) = steps
    torch.testing.assert_close(loss, weighed)
    torch.testing.assert_close(gradients, weighed_gradients, atol=1e-6, rtol=1e-4)


def test_the_loss_of_weighed_tokens_is_the_plain_loop(batch):
    model = generator(token_weights=ByImage(choice="nearest"), weights=Weights(alignment=0.0)).eval()
    logs = {}
    model.log = lambda name, value, **kwargs: logs.setdefault(name, float(value))
    loss = model.training_step(batch, 0)["loss"]
    with torch.no_grad():
        outputs = model._teacher_forced(batch)
        own, mask = outputs["token_losses"].losses, outputs["token_losses"].mask
        pairs = model.embed(batch, outputs)
        index = nearest(model, pairs)
        other = model.token_losses(batch, outputs, index).losses
    top = below = 0.0
    for i in range(6):
        for t in range(int(mask[i].sum())):
            weight = 1 + 2 * min(abs(float(own[i, t] - other[i, t])), 3.0)
            top, below = top + weight * float(own[i, t]), below + weight
    assert loss.item() == pytest.approx(top / below, rel=1e-5)
    assert logs["train/token_weight"] == pytest.approx(below / int(mask.sum()), rel=1e-5)
    assert logs["train/report_loss"] == pytest.approx(float(own[mask].mean()), rel=1e-5)


def test_the_loss_of_emphasised_tokens_is_the_plain_loop(batch):
    batch["emphasis"] = torch.rand(batch["tokens"].shape, generator=torch.Generator().manual_seed(1))
    model = generator(token_weights=ByEmphasis(scale=3.0), weights=Weights(alignment=0.0)).eval()
    logs = {}
    model.log = lambda name, value, **kwargs: logs.setdefault(name, float(value))
    loss = model.training_step(batch, 0)["loss"]
    with torch.no_grad():
        own = model._teacher_forced(batch)["token_losses"]
    top = below = 0.0
    for i in range(6):
        for t in range(1, int(batch["token_mask"][i].sum())):  # the first token is given
            weight = 1 + 3 * float(batch["emphasis"][i, t])
            top, below = top + weight * float(own.losses[i, t - 1]), below + weight
    assert loss.item() == pytest.approx(top / below, rel=1e-5)
    assert logs["train/token_weight"] == pytest.approx(below / int(own.mask.sum()), rel=1e-5)
    assert logs["train/token_loss"] == pytest.approx(float(own.losses[own.mask].mean()), rel=1e-5)


def test_a_batch_without_emphasis_is_told(batch):
    with pytest.raises(UserError, match=r"TokenLosses\(emphasis=\(B, T\)\)"):
        generator(token_weights=ByEmphasis()).training_step(batch, 0)


def nearest(model, pairs):
    """By the cosine of report embeddings, the nearest other report that does not match."""
    _, reports = model.hard_negatives.project(pairs)
    keys = pairs.match_keys.columns
    chosen = []
    for i in range(len(reports)):
        others = [
            j
            for j in range(len(reports))
            if j != i and not any(keys[i, m] == keys[j, m] != -1 for m in range(keys.shape[1]))
        ]
        chosen.append(max(others, key=lambda j, i=i: float(reports[i] @ reports[j])))
    return torch.tensor(chosen)


@pytest.mark.parametrize("side", ["image", "report", "both"])
def test_the_margin_is_the_plain_loop(side, batch):
    margin = LikelihoodMargin(side=side, beta=0.2, margin=1.0)
    model = generator(likelihood_margin=margin, weights=Weights(alignment=0.0, likelihood=0.5)).eval()
    loss = model.training_step(batch, 0)["loss"]
    with torch.no_grad():
        outputs = model._teacher_forced(batch)
        index = nearest(model, model.embed(batch, outputs))
        own = outputs["token_losses"].of_reports
        other = model.token_losses(batch, outputs, index).of_reports
        one = torch.ones(1, 1, dtype=torch.bool)
        losses = []
        for i in range(6):
            of_image = likelihood_margin(own[i : i + 1], other[i : i + 1, None], one, beta=0.2, margin=1.0)
            of_report = likelihood_margin(own[index[i]][None], other[i : i + 1, None], one, beta=0.2, margin=1.0)
            losses.append({"image": of_image, "report": of_report, "both": (of_image + of_report) / 2}[side])
    assert loss.item() == pytest.approx(outputs["loss"].item() + 0.5 * float(torch.cat(losses).mean()), rel=1e-5)


@pytest.mark.parametrize(("hardness", "changes"), [(0.0, 3), (0.5, 2), (0.9, 1)])
def test_the_margin_over_edits_is_the_plain_loop(hardness, changes, edited_batch):
    batch = edited_batch
    batch["edited_mask"][4] = False  # a report without a copy
    margin = EditMargin(beta=0.7, margin=1.0)
    model = generator(edit_margin=margin, weights=Weights(alignment=0.0, likelihood=0.5)).eval()
    model.hard_negatives.schedule = Constant(hardness=hardness, cap=1.0)
    logs = {}
    model.log = lambda name, value, **kwargs: logs.setdefault(name, float(value))
    loss = model.training_step(batch, 0)["loss"]
    copies = {
        **batch,
        "tokens": batch["edited_tokens"][:, changes - 1],
        "token_mask": batch["edited_mask"][:, changes - 1],
    }
    ahead = []
    for i in (0, 1, 2, 3, 5):
        with torch.no_grad():
            ahead.append(per_study(model, copies, i, i) - per_study(model, batch, i, i))
    losses = torch.nn.functional.softplus(1.0 - 0.7 * torch.tensor(ahead))
    report_loss = model._teacher_forced(batch)["loss"].item()
    assert loss.item() == pytest.approx(report_loss + 0.5 * float(losses.sum()) / 6, rel=1e-4)
    assert logs["train/edit_ahead"] == pytest.approx(sum(ahead) / 5, rel=1e-3, abs=1e-3)
    assert logs["train/edit_changes"] == changes
    assert logs["train/edits_found"] == pytest.approx(5 / 6)


@pytest.mark.parametrize("changes", [1, 4])
def test_a_batch_without_such_copies_says_what_to_set(changes, batch, edited_batch):
    model = generator(edit_margin=EditMargin(changes=changes))
    model.hard_negatives.schedule = Constant(hardness=0.0)
    given = batch if changes == 1 else edited_batch
    with pytest.raises(UserError, match=f"{changes} changed findings.*data.datamodule.edits"):
        model.training_step(given, 0)


@pytest.mark.parametrize(
    "terms",
    [
        {"token_weights": ByImage()},
        {"likelihood_margin": LikelihoodMargin(k=2)},
        {"edit_margin": EditMargin(changes=2)},
    ],
)
def test_gradients_reach_the_encoder_and_the_decoder(terms, edited_batch):
    model = generator(weights=Weights(alignment=0.0, report=float("token_weights" in terms)), **terms)
    model.training_step(edited_batch, 0)["loss"].backward()
    for part in (model.visual, model.decoder):
        assert sum(float(p.grad.abs().sum()) for p in part.parameters() if p.grad is not None) > 0


def test_a_hardened_image_comes_nearer_only_as_far_as_the_report_stays_less_likely(batch):
    model = generator(token_weights=ByImage(hardened=True, margin=0.0)).eval()
    outputs = model._teacher_forced(batch)
    own = outputs["token_losses"]
    read = partial(model.token_losses, batch, outputs)
    order = torch.tensor([3, 3, 0, 5, 1, 2])
    weights = model.hard_negatives.token_weights
    for hardness in (0.3, 0.9):
        losses, moved = weights._read(own, read, order, hardness)
        for i in range(6):
            plain, hard = (read(order, way).of_reports[i].item() for way in (None, torch.full((6,), hardness)))
            allowed = hard >= own.of_reports[i].item()
            assert float(moved[i]) == pytest.approx(hardness if allowed else 0.0)
            total = losses[i].where(own.mask[i], 0).sum().item()
            assert total == pytest.approx(hard if allowed else plain, rel=1e-5)
    torch.testing.assert_close(weights._read(own, read, order, 0.0)[0], read(order).losses)


def test_nothing_is_read_again_in_the_warm_up(batch):
    model = generator(warmup=0.9, token_weights=ByImage())
    model.token_losses = lambda *args: pytest.fail("read in the warm-up")
    model.training_step(batch, 0)["loss"].backward()


def test_random_negatives_never_match_and_are_drawn_anew_at_each_step(batch):
    model = generator()
    pairs = model.embed(batch, model._teacher_forced(batch))
    drawn = []
    for step in (1, 1, 2):
        embedded = model.hard_negatives._embed(pairs, TrainingProgress(step=step, fraction=0.5))
        index, valid = NegativeImages("random", k=2)(embedded)
        drawn.append(index)
        assert not embedded.is_match.gather(1, index)[valid].any()
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


def test_one_study_has_no_negative_and_a_plain_loss():
    batch = StudyCollator(TOKENIZER, 40)([STUDIES[0]])
    model = generator(token_weights=ByImage(), likelihood_margin=LikelihoodMargin(), weights=Weights(alignment=0.0))
    model.eval()
    loss = model.training_step(batch, 0)["loss"]
    loss.backward()
    assert loss.item() == pytest.approx(model._teacher_forced(batch)["loss"].item(), rel=1e-5)
