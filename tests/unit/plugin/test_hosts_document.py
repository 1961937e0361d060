"""Every block of docs/HOSTS.md runs, and does what the text says. Recipes of published generators: test_published_hosts.py."""

import math
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from hardneg_plugin import HardNegativeObjective, plug_in
from hardneg_plugin.objectives import EditMargin, Weights
from hardneg_plugin.objectives.schedule import Constant
from hardneg_plugin.plugin.feature_paths import FeaturePaths, recorded

sys.path.append(str(Path(__file__).parent))
import hosts_document
import plugged_hosts
import published_hosts
from hosts_document import run
from plugged_hosts import PLACES, loader, trainer

TESTED_HERE = {
    "Plug into your module",
    "Lightning",
    "Hugging Face's Trainer",
    "accelerate, or a loop by hand",
    "Find the places",
    "Features",
    "Manual optimisation",
    "Few studies per device",
    "Reports read with other images",
    "Checkpoints",
}


class ReturnsFeatures(plugged_hosts.Captioner):
    """A host that returns pooled features of width 16."""

    def __init__(self):
        super().__init__(width=16)

    def training_step(self, batch, batch_idx):
        patches = self.encoder(batch["images"]).mean(1)
        words = self.decoder["norm"](self.decoder["words"](batch["tokens"])).mean(1)
        return {"loss": (patches - words).square().mean(), "pooled": patches, "words": words}


def objective(**options):
    return HardNegativeObjective(
        **{"image_width": 16, "report_width": 16, "width": 8, "schedule": Constant(hardness=0.5), **options}
    )


def logged(run):
    return run.callback_metrics["train/alignment_loss"].item()


def test_every_block_has_its_test():
    of_recipes = set(hosts_document.blocks()) - TESTED_HERE
    assert set(hosts_document.blocks()) >= TESTED_HERE
    recipes = (hosts_document.DOCS / "RECIPES.md").read_text()
    assert all(f"## {heading}\n" in recipes for heading in of_recipes)


def test_the_objective_and_both_ways_of_lightning(tmp_path):
    (names,) = [run("Plug into your module")]
    fitted = trainer(tmp_path, max_epochs=1)
    model = plugged_hosts.Captioner(width=16)
    run("Lightning", 0, model=model, objective=names["objective"], trainer=fitted, loader=loader())
    assert logged(fitted) > 0
    assert type(model).__name__ == "HardNegativeCaptioner"

    again = trainer(tmp_path, max_epochs=1)
    subclassed = run("Lightning", 1, Captioner=ReturnsFeatures, objective=objective())["model"]
    again.fit(subclassed, loader())
    assert logged(again) > 0


def test_the_trainer_trains_and_another_is_mixed_in(tmp_path):
    pytest.importorskip("trl", reason="TRL is not installed")
    from transformers import TrainingArguments

    torch.manual_seed(1)
    args = TrainingArguments(
        output_dir=str(tmp_path),
        per_device_train_batch_size=4,
        max_steps=2,
        save_steps=2,
        logging_steps=1,
        use_cpu=True,
        report_to=[],
        disable_tqdm=True,
    )
    batch = published_hosts.llava_batch(published_hosts.studies())
    own = objective(image_width=24, report_width=24)
    before = own.log_scales.clone()
    names = run(
        "Hugging Face's Trainer",
        model=published_hosts.Llava().model,
        args=args,
        train_dataset=[{name: column[i] for name, column in batch.items()} for i in range(8)],
        objective=own,
    )
    assert not torch.equal(own.log_scales, before)
    saved = torch.load(tmp_path / "checkpoint-2" / "hard_negatives.pt")
    assert torch.equal(saved["log_scales"], own.log_scales)
    assert names["HardNegativeSFTTrainer"].compute_loss is names["HardNegativeTrainer"].compute_loss


def test_describe_lists_the_places_that_the_document_plugs_in(capsys):
    run("Find the places", model=plugged_hosts.Captioner(width=16), batch=next(iter(loader())))
    printed = capsys.readouterr().out
    kinds = {line.split()[0]: line for line in printed.splitlines()}
    for where in PLACES.values():
        expected = {"batch.mask": "mask", "batch.id": "identities", "batch.tokens": "ids"}.get(where, "per position")
        assert expected in kinds[where]


def pairs_of(host, batch, **places):
    """The features of one step of a host, without dropout."""
    features = FeaturePaths(**places)
    host.eval()
    with recorded(features.modules(host)) as calls:
        outputs = host.training_step(batch, 0)
    return features.pairs(host, batch, outputs, calls)


@pytest.mark.filterwarnings("ignore:You are trying to")  # log without a trainer
def test_each_feature_is_what_the_text_says_of_it():
    views_once, views_kept, fourth, last, behind_a_prefix, masked = range(6)
    torch.manual_seed(1)
    studies = published_hosts.studies()
    batch = published_hosts.r2gengpt_batch(studies)
    host = published_hosts.R2GenGPT(published_hosts.r2gengpt_arguments())
    texts = [f"{text} [EOS]" for text in batch["input_text"]]
    lengths = [len(text.split()) for text in texts]
    mask = torch.tensor([[position < length for position in range(11)] for length in lengths])
    states = []
    host.llama_model.model.norm.register_forward_hook(lambda module, arguments, output: states.append(output))

    def pairs(number, name, other, **places):
        feature = run("Features", number)[name]
        return pairs_of(host, batch, **{name: feature, **other}, **places)

    views = [host.eval().visual_encoder(view).last_hidden_state for view in batch["image"]]
    once = pairs(views_once, "images", {"reports": "llama_proj"})
    torch.testing.assert_close(once.regions, (views[0] + views[1]) / 2)
    kept = pairs(views_kept, "images", {"reports": "llama_proj"})
    torch.testing.assert_close(kept.regions, torch.cat(views, dim=1))

    for number in (fourth, last):
        found = pairs(number, "reports", {"images": "llama_proj"}, report_mask=lambda batch, outputs: mask)
        for row, text in zip(found.reports, texts, strict=True):
            ids = host.llama_tokenizer(text, add_special_tokens=False).input_ids
            torch.testing.assert_close(row, sum(host.embed_tokens.weight[word] for word in ids) / len(ids))

    found = pairs(behind_a_prefix, "reports", {"images": "llama_proj"}, report_mask=lambda batch, outputs: mask)
    assert states[-1].shape[1] > mask.shape[1]
    for row, of_a_study, length in zip(found.reports, states[-1], lengths, strict=True):
        torch.testing.assert_close(row, of_a_study[-11:][:length].mean(0))

    batch, host = published_hosts.cxrmate_batch(studies), published_hosts.CXRMate()
    found = pairs(masked, "images", {"reports": "encoder_decoder.decoder.bert.embeddings"})
    encoded = host.encoder_decoder.encoder(batch["images"]).last_hidden_state
    for number, (row, patches) in enumerate(zip(found.images, encoded, strict=True)):
        torch.testing.assert_close(row, patches[: len(patches) // (1 + number % 2)].mean(0))


def test_the_loop_by_hand_trains_host_and_objective():
    before = hosts_document.Loop().state_dict()
    after = hosts_document.loop_by_hand(batch_size=8)
    assert not torch.equal(after["encoder.weight"], before["encoder.weight"])
    assert not torch.equal(after["objective.log_scales"], objective().log_scales)


@pytest.mark.slow
def test_two_processes_loop_as_one_with_all_their_studies(tmp_path):
    alone = hosts_document.loop_by_hand(batch_size=8)
    for together in hosts_document.loop_in_two_processes(tmp_path):
        assert together.keys() == alone.keys()
        for name, value in alone.items():
            torch.testing.assert_close(together[name], value, rtol=1e-5, atol=1e-6, msg=name)


def test_manual_optimisation_trains_the_objective(tmp_path):
    make = run("Manual optimisation", Captioner=ReturnsFeatures)["ManualCaptioner"]
    model, fitted = make(hard_negatives=objective()), trainer(tmp_path, max_epochs=1)
    before = objective().log_scales.clone()
    fitted.fit(model, loader())
    assert logged(fitted) > 0
    assert not torch.equal(model.hard_negatives.log_scales, before)


def test_a_queue_finds_negatives_for_one_study_at_a_time(tmp_path):
    model, fitted = plugged_hosts.Captioner(width=16), trainer(tmp_path, max_epochs=1)
    plug_in(model, run("Few studies per device")["objective"], **PLACES)
    fitted.fit(model, loader(batch_size=1))
    assert fitted.callback_metrics["train/negatives_found"] == 1


def test_the_hosts_weights_load_into_the_bare_class(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = plug_in(plugged_hosts.Captioner(width=16), objective(), **PLACES)
    run("Checkpoints", model=model, torch=torch)
    plugged_hosts.Captioner(width=16).load_state_dict(torch.load("host.pt"))


class Reads(plugged_hosts.Captioner):
    """A host that predicts each token from the one before and the mean patch."""

    def __init__(self):
        super().__init__(width=16, dropout=0.0)
        torch.manual_seed(4)
        self.embed_tokens, self.out = torch.nn.Embedding(9, 16), torch.nn.Linear(16, 9)

    def decoder_of(self, tokens, patches):
        return self.out(self.embed_tokens(tokens) + patches.mean(1, keepdim=True))

    def training_step(self, batch, batch_idx):
        patches = self.encoder(batch["images"])
        logits = self.decoder_of(batch["tokens"], patches)
        loss = torch.nn.functional.cross_entropy(logits[:, :-1].transpose(1, 2), batch["labels"][:, 1:])
        return {"loss": loss, "logits": logits, "patches": patches}


def test_both_ways_to_read_reports_with_other_images_are_one():
    by_method = run("Reports read with other images", 0)["token_losses"]
    model, batch = Reads(), next(iter(loader()))
    batch["labels"] = batch["tokens"].masked_fill(~batch["mask"], -100)
    run("Reports read with other images", 1, model=model, objective=objective(), batch=batch)
    outputs = model._host_step(batch, 0)
    order = torch.tensor([3, 0, 0, 1])
    vars(model)["decoder"] = model.decoder_of  # as the method of the document calls it
    found = model.token_losses(batch, outputs, order)
    expected = by_method(model, batch, outputs, order)
    torch.testing.assert_close(found.losses, expected.losses)
    assert torch.equal(found.mask, batch["mask"][:, 1:])
    assert not torch.allclose(found.losses, model.token_losses(batch, outputs).losses)


def test_a_host_reads_edited_copies_by_a_method():
    reports = ["Small left effusion.", "Clear."] * 2
    names = run("Reports read with other images", 2, reports=reports, rng=np.random.default_rng(0))
    assert [copy is None for copy in names["copies"]] == [False, True] * 2
    by_images = run("Reports read with other images", 0)["token_losses"]

    class WithEdits(Reads):
        token_losses, edited_token_losses = by_images, names["edited_token_losses"]

    batch = next(iter(loader()))
    batch["labels"] = batch["tokens"].masked_fill(~batch["mask"], -100)
    batch["tokens_of_1_edits"] = (batch["tokens"] + torch.tensor([0, 0, 0, 1, 0, 0])) % 9
    has_copy = torch.tensor([True, False, True, False])
    batch["labels_of_1_edits"] = batch["tokens_of_1_edits"].masked_fill(~(batch["mask"] & has_copy[:, None]), -100)
    margin = EditMargin(changes=1)
    model = plug_in(WithEdits(), objective(edit_margin=margin, weights=Weights(alignment=0.0)), **PLACES)
    outputs = model._host_step(batch, 0)
    vars(model)["decoder"] = model.decoder_of
    losses, logs = margin(model.token_losses(batch, outputs), partial(model._read_reports, batch, outputs), 0.5)
    assert logs["edits_found"] == 0.5
    assert (losses[~has_copy] == 0).all()
    for i in (0, 2):
        ahead = 0.0
        for tokens, sign in ((batch["tokens_of_1_edits"], 1), (batch["tokens"], -1)):
            log_probs = model.decoder_of(tokens, outputs["patches"]).log_softmax(-1)
            for t in range(1, int(batch["mask"][i].sum())):
                ahead -= sign * log_probs[i, t - 1, tokens[i, t]].item()
        assert losses[i].item() == pytest.approx(math.log1p(math.exp(-ahead)), rel=1e-4)
