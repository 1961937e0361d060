"""The parts of the generator: loss, parameter groups, features for the alignment, vocabulary in checkpoints."""

import sys
from functools import partial
from pathlib import Path
from typing import get_args

import pytest
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

sys.path.append(str(Path(__file__).parents[1]))
from forked_ranks import on_ranks

from hardneg_plugin import HardNegativeObjective
from hardneg_plugin.backbones.causal_lm import CausalLMDecoder
from hardneg_plugin.backbones.decoding import Decoding
from hardneg_plugin.backbones.transformer import TransformerDecoder
from hardneg_plugin.backbones.visual import VisualExtractor
from hardneg_plugin.data.collate import StudyCollator
from hardneg_plugin.data.phantom import PhantomKnowledge, PhantomStudies
from hardneg_plugin.data.tokenizer import WordTokenizer, check_vocabulary
from hardneg_plugin.distributed import mean_over_ranks
from hardneg_plugin.errors import UserError
from hardneg_plugin.functional.likelihood import token_losses
from hardneg_plugin.grounding import Boxes, Cells, Grounding
from hardneg_plugin.models.hard_negative_generator import HardNegativeReportGenerator, ReportFeature
from hardneg_plugin.models.report_generator import ReportGenerator
from hardneg_plugin.objectives import ByEmphasis, GroundedKnowledgeObjective, Weights
from hardneg_plugin.objectives.schedule import TrainingProgress
from hardneg_plugin.runs.checkpoint import load_weights

STUDIES = PhantomStudies(train=12, val=1, test=1, size=32).split("train")
TOKENIZER = WordTokenizer.from_reports(STUDIES.reports, min_count=1)


def arguments(**more):
    return {
        "visual": VisualExtractor("resnet10t", options={"channels": [8, 8, 16, 16], "stem_width": 8}),
        "backbone": partial(TransformerDecoder, width=32, heads=2, layers=1),
        "tokenizer": TOKENIZER,
        "optimizer": partial(torch.optim.AdamW, lr=1e-3, weight_decay=0.1),
        "decoding": Decoding(max_length=8),
        **more,
    }


def plugged(**more):
    return HardNegativeReportGenerator(**arguments(hard_negatives=partial(HardNegativeObjective, width=8), **more))


KNOWLEDGE = PhantomKnowledge()
BOXED = PhantomStudies(train=12, val=1, test=1, size=32, boxes=True).split("train")


def grounded(regions=None, **more):
    grounding = partial(Grounding, knowledge=KNOWLEDGE, width=8, heads=2, regions=regions or Cells(1, 1))
    objective = partial(GroundedKnowledgeObjective, width=8, knowledge=KNOWLEDGE, entity_width=8)
    torch.manual_seed(0)
    return HardNegativeReportGenerator(**arguments(hard_negatives=objective, grounding=grounding, **more))


def known(studies=BOXED):
    return StudyCollator(TOKENIZER, 40, KNOWLEDGE)([studies[i] for i in range(4)])


@pytest.fixture
def batch():
    return StudyCollator(TOKENIZER, 40)([STUDIES[i] for i in range(4)])


def test_token_losses_are_those_of_words_and_end_without_padding():
    tokens = torch.tensor([[0, 3, 1, 0, 0], [0, 2, 0, 0, 0]])
    mask = torch.tensor([[1, 1, 1, 1, 0], [1, 1, 1, 0, 0]]).bool()
    log_probs = torch.randn(2, 4, 5).log_softmax(-1)
    picked = [log_probs[0, 0, 3], log_probs[0, 1, 1], log_probs[0, 2, 0], log_probs[1, 0, 2], log_probs[1, 1, 0]]
    read = token_losses(log_probs, tokens, mask)
    assert read.mask.sum(1).tolist() == [3, 2]
    torch.testing.assert_close(read.losses[read.mask], -torch.stack(picked))
    torch.testing.assert_close(read.of_reports, torch.stack([-sum(picked[:3]), -sum(picked[3:])]))


def test_every_parameter_gets_a_gradient(batch):
    torch.manual_seed(0)
    for feature in get_args(ReportFeature):
        model = plugged(report_feature=feature)
        outputs = model._teacher_forced(batch)
        terms = model.hard_negatives(model.embed(batch, outputs), TrainingProgress(fraction=0.9, epoch=9, step=90))
        (outputs["loss"] + terms.alignment_loss + terms.separation_loss).backward()
        assert [name for name, p in model.named_parameters() if p.grad is None] == []


WEIGHTED = {"plain": {}, "in parts": {"chunks": 2}, "by emphasis": {"token_weights": ByEmphasis(scale=3.0)}}


@pytest.mark.parametrize("case", WEIGHTED)
def test_two_ranks_of_uneven_words_have_the_loss_and_gradient_of_one_process(case):
    """Also where the batch is run in parts, and where tokens weigh differently."""
    studies = [STUDIES[i] for i in range(8)]
    for sample in studies[:4]:
        sample["report"] = sample["report"][:20]  # few words on the first rank
    torch.manual_seed(0)
    more = dict(WEIGHTED[case])
    weights = Weights(report=1.0, alignment=0.5)
    objective = partial(HardNegativeObjective, width=8, weights=weights, token_weights=more.pop("token_weights", None))
    decoder = partial(TransformerDecoder, width=32, heads=2, layers=1, dropout=0.0)
    model = HardNegativeReportGenerator(**arguments(backbone=decoder, hard_negatives=objective, **more)).eval()
    model._progress = lambda: TrainingProgress(fraction=0.9, epoch=9, step=90)
    model._are_logs_read = lambda: True
    model.log = lambda *_, **__: None

    def step(samples):
        batch = StudyCollator(TOKENIZER, 40)(samples)
        if case == "by emphasis":
            batch["emphasis"] = (batch["tokens"] % 5) / 5
        model.on_train_batch_start(batch, 0)
        loss = model.training_step(batch, 0)["loss"]
        loss.backward()
        flat = torch.cat([p.grad.flatten() for p in model.parameters()])
        return mean_over_ranks(loss), mean_over_ranks(flat), batch["token_mask"].sum()

    of_ranks = on_ranks(lambda rank: step(studies[4 * rank : 4 * rank + 4]))
    assert 2 * of_ranks[0][2] < of_ranks[1][2]
    loss, gradient, _ = step(studies)
    for found in of_ranks:
        torch.testing.assert_close(found[0], loss.detach(), rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(found[1], gradient, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("feature", get_args(ReportFeature))
@pytest.mark.parametrize("regions", [Cells(1, 1), Boxes(8)], ids=["cells", "boxes"])
def test_every_parameter_of_a_grounded_generator_gets_a_gradient(regions, feature):
    model, batch = grounded(regions, report_feature=feature), known()
    outputs = model._teacher_forced(batch)
    statements, progress = model.embed_statements(batch, outputs), TrainingProgress(fraction=0.9, epoch=9, step=90)
    terms = model.hard_negatives(model.embed(batch, outputs), progress, statements)
    assert {"pair_matching_loss", "entity_loss", "statement_loss"} <= terms.logs.keys()
    (outputs["loss"] + terms.alignment_loss).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


def test_what_is_known_of_a_study_never_reaches_what_is_written():
    model, batch = grounded().eval(), known()
    before = model._teacher_forced(batch)["visual"].context
    written = model(batch["images"], batch["view_mask"])
    labels = {"facts": 1 - batch["facts"], "labels": ["other"] * 4, "references": ["other"] * 4}
    outputs = model._teacher_forced({**batch, **labels})
    assert torch.equal(outputs["visual"].context, before)
    assert model._texts(model._generate_tokens(outputs["visual"])) == written
    without = {name: value for name, value in batch.items() if name not in ("facts", "labels", "boxes")}
    assert torch.equal(model._teacher_forced(without)["visual"].context, before)


def test_the_decoder_reads_what_was_found_after_the_patches():
    model, batch = grounded().eval(), known()
    outputs, extracted = model._teacher_forced(batch), model.visual.extractor(batch["images"], batch["view_mask"])
    visual = outputs["visual"]
    torch.testing.assert_close(visual.patches, extracted.patches)
    torch.testing.assert_close(
        visual.context, torch.cat([extracted.patches, model.entity_projection(visual.entities)], dim=1)
    )
    states = model.decoder.states(visual.context, batch["tokens"])
    torch.testing.assert_close(outputs["states"], states)
    torch.nn.init.zeros_(model.entity_projection.weight)
    assert not torch.allclose(model._teacher_forced(batch)["states"], states)


def test_a_study_without_views_has_an_empty_context():
    model, batch = grounded().eval(), known()
    batch["view_mask"][0] = False
    mask = model._teacher_forced(batch)["visual"].context_mask
    assert mask.any(1).tolist() == [False, True, True, True]
    assert mask[1].all()


def test_attention_to_patches_leaves_out_the_entities():
    visual = grounded().eval().encode_images(known())
    attention = torch.rand(4, 3, visual.context.shape[1]).softmax(-1)
    maps = visual.on_patches(attention)
    count, (rows, columns) = visual.patches.shape[1], visual.grid
    assert maps.shape == (4, 3, count // (rows * columns), rows, columns)
    patches = attention[..., :count]
    torch.testing.assert_close(maps.flatten(2), patches / patches.sum(-1, keepdim=True))
    assert torch.equal(
        plugged().encode_images(known()).on_patches(patches), patches.reshape(maps.shape)
    )  # no entities: as it is


def test_boxes_say_where_to_look():
    boxed = PhantomStudies(train=4, val=1, test=1, size=96, boxes=True).split("train")  # with patches to choose from
    model, batch = grounded(Boxes(8)).eval(), known(boxed)
    moved = {**batch, "boxes": batch["boxes"].flip(0)}
    assert not torch.allclose(*(model._teacher_forced(b)["visual"].entities for b in (batch, moved)))
    assert grounded(Boxes(8)).eval()(batch["images"]) is not None  # an image by itself has no boxes


def test_statements_are_the_mean_of_their_words():
    model = grounded().eval()
    statements = model.embed_statements(known(), model._teacher_forced(known()))
    texts = model.hard_negatives.statement_texts
    for row in (0, 5, len(texts) - 1):
        tokens = torch.tensor([TOKENIZER.encode(texts[row])])
        torch.testing.assert_close(statements.flatten(0, 1)[row], model.encode_reports(tokens)[0].mean(0))


def test_text_only_features_do_not_see_the_image_and_decoder_states_do(batch):
    other = {**batch, "images": 255 - batch["images"]}
    for feature, sees_the_image in (
        ("decoder_states", True),
        ("text_only", False),
        ("word_embeddings", False),
    ):
        model = plugged(report_feature=feature).eval()
        reports = [model.embed(b, model._teacher_forced(b)).reports for b in (batch, other)]
        assert torch.equal(*reports) == (not sees_the_image)


@pytest.mark.parametrize("feature", get_args(ReportFeature))
def test_a_report_written_word_for_word_embeds_as_its_reference(feature):
    batch = StudyCollator(TOKENIZER, 200)([STUDIES[i] for i in range(4)])  # none is cut
    model = plugged(report_feature=feature).eval()
    with torch.no_grad():
        embedded = model._embeddings(batch, model.encode_images(batch), batch["tokens"][:, 1:])
        shorter = model._embeddings(batch, model.encode_images(batch), batch["tokens"][:, 1:5])
    torch.testing.assert_close(embedded.generated, embedded.references)
    assert not torch.allclose(shorter.generated, shorter.references)
    # one that was stopped at the greatest length has no end, as a reference that was cut
    cut = StudyCollator(TOKENIZER, 5)([STUDIES[i] for i in range(4)])
    with torch.no_grad():
        references = model._embeddings(cut, model.encode_images(cut), cut["tokens"][:, 1:]).references
    torch.testing.assert_close(shorter.generated, references)
    assert len(embedded.images) == 4


def test_match_keys_reach_the_objective(batch):
    model = plugged().eval()
    assert torch.equal(model.embed(batch, model._teacher_forced(batch)).match_keys.columns, batch["match_keys"])


def test_writes_a_report_per_study(batch):
    model = ReportGenerator(**arguments()).eval()
    reports = model(batch["images"], batch["view_mask"])
    assert len(reports) == 4
    assert all(len(report.split()) <= 8 and set(report.split()) <= set(TOKENIZER.vocabulary) for report in reports)


@pytest.mark.parametrize("make", [plugged, grounded])
def test_parameter_groups_cover_everything_once_and_spare_vectors_from_decay(make):
    model = make(visual_lr=1e-4)
    optimizer = model.configure_optimizers()
    held = [p for group in optimizer.param_groups for p in group["params"]]
    assert len(held) == len(set(map(id, held))) == len(list(model.parameters()))
    visual = {id(p) for p in model.visual.network.parameters()}
    for group in optimizer.param_groups:
        assert {p.ndim > 1 for p in group["params"]} == {group["weight_decay"] > 0}
        assert {id(p) in visual for p in group["params"]} == {group["lr"] == 1e-4}


def test_vocabulary_is_checked():
    other = WordTokenizer.from_reports(STUDIES.reports, min_count=3)
    check_vocabulary({"tokenizer": TOKENIZER.state()}, TOKENIZER)
    with pytest.raises(UserError, match=r"vocabulary of this data .* got one with another"):
        check_vocabulary({"tokenizer": other.state()}, TOKENIZER)
    with pytest.raises(UserError, match="got one without a vocabulary"):
        check_vocabulary({}, TOKENIZER)


def test_options_are_checked():
    with pytest.raises(UserError, match=r"report_feature.*both"):
        plugged(report_feature="both")


def test_the_bare_host_loads_what_the_plugged_in_model_learned():
    model = plugged()
    bare = {name: value for name, value in model.state_dict().items() if not name.startswith("hard_negatives.")}
    ReportGenerator(**arguments()).load_state_dict(bare)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_gradients_are_clipped_to_the_norm_asked_for_whatever_the_precision(precision):
    model = ReportGenerator(**arguments(optimizer=partial(torch.optim.AdamW, lr=1e-3, fused=precision != "32-true")))
    norms = []

    class Watch(pl.Callback):
        def on_train_batch_end(self, trainer, pl_module, *_):  # the gradients of the step just made
            gradients = [p.grad.flatten() for p in pl_module.parameters() if p.grad is not None]
            norms.append(torch.cat(gradients).norm().item())

    studies = [STUDIES[i] for i in range(8)]
    trainer = pl.Trainer(
        max_epochs=1,
        accelerator="cpu",
        precision=precision,
        gradient_clip_val=1e-2,
        callbacks=[Watch()],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(model, DataLoader(studies, batch_size=4, collate_fn=StudyCollator(TOKENIZER, 40)))
    assert norms == pytest.approx([1e-2, 1e-2], rel=1e-2)


def test_a_checkpoint_refuses_another_language_model_than_the_frozen_one_it_leaves_out(tmp_path):
    from transformers import AutoModelForCausalLM, LlamaConfig

    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = LlamaConfig(vocab_size=TOKENIZER.vocab_size, eos_token_id=1, **sizes)
    models = []
    for name in ("one", "other"):
        AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / name)
        backbone = partial(CausalLMDecoder, name_or_path=str(tmp_path / name), adapt="frozen")
        models.append(ReportGenerator(**arguments(backbone=backbone)))
    model, other = models
    checkpoint = {"state_dict": model.state_dict()}
    model.on_save_checkpoint(checkpoint)
    assert not [name for name in checkpoint["state_dict"] if name.startswith("decoder.model.")]
    load_weights(model, checkpoint, tmp_path / "last.ckpt")
    with pytest.raises(UserError, match=r"of '.*other' that training started from, but they are others") as error:
        load_weights(other, checkpoint, tmp_path / "last.ckpt")  # as resume does
    assert "\n" not in str(error.value)
    full = ReportGenerator(**arguments(backbone=partial(CausalLMDecoder, name_or_path=str(tmp_path / "one"))))
    with pytest.raises(UserError, match="Expected a pretrained language model with adapt=frozen or lora"):
        full.on_load_checkpoint(checkpoint)
