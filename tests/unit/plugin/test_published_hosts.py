"""Generators as they are published are plugged into by the recipes of docs/RECIPES.md."""

import logging
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as lightning
import pytest
import pytorch_lightning
import torch
from transformers.models.llava.modeling_llava import LlavaModel

from hardneg_plugin import Feature, HardNegativeObjective, describe, plug_in
from hardneg_plugin.objectives import Weights
from hardneg_plugin.objectives.schedule import Constant

sys.path.append(str(Path(__file__).parent))
import hosts_document
import published_hosts as hosts
from published_hosts import NO_LABEL, WIDTH


@dataclass(frozen=True)
class Recipe:
    heading: str
    host: Callable[[], Any]
    batch: Callable[[Any], Any]
    by_hand: Callable[[Any, Any], tuple[Any, Any]]
    """The mean features of a host and a batch, images and reports, in loops."""
    widths: tuple[int, int] = (WIDTH, WIDTH)
    arguments: dict[str, Any] = field(default_factory=dict)
    """What `load_from_checkpoint` takes, also without the plug-in."""
    paths: tuple[str, str] = ("", "")
    """What the heading's paths are to be replaced by, and with."""

    def plug_in(self, model, weight, chunks=1):
        """Run the recipe of the document on a model."""
        objective = HardNegativeObjective(
            schedule=Constant(hardness=0.5),
            weights=Weights(alignment=weight, separation=0.0),
            image_width=self.widths[0],
            report_width=self.widths[1],
            width=8,
        )
        (recipe,) = hosts_document.blocks()[self.heading]
        plug = partial(plug_in, chunks=chunks)
        names = {"model": model, "objective": objective, "plug_in": plug, "Feature": Feature}
        exec(recipe.replace(*self.paths) if self.paths[0] else recipe, names)


def mean(table, ids):
    """The mean row of a table, one look-up after the other."""
    return sum(table.weight[word] for word in ids) / len(ids)


def r2gengpt(host, batch):
    views = [host.visual_encoder(view).last_hidden_state for view in batch["image"]]
    images = host.llama_proj((views[0] + views[1]) / 2).mean(1)
    ids = [host.llama_tokenizer(f"{text} [EOS]", add_special_tokens=False).input_ids for text in batch["input_text"]]
    return images, [mean(host.embed_tokens, words) for words in ids]


def cvt2distilgpt2(host, batch):
    images = []
    for views in batch["encoder_images"]:
        patches = [patch for view in views for patch in host.encoder.stage(view[None])[0].flatten(1).T]
        images.append(sum(host.encoder_projection.projection(patch) for patch in patches) / len(patches))
    counted = zip(batch["decoder_input_ids"], batch["decoder_attention_mask"].bool(), strict=True)
    words = host.decoder.encoder_decoder["decoder"].transformer.wte
    return images, [mean(words, ids[mask]) for ids, mask in counted]


def cxrmate(host, batch):
    encoder, table = host.encoder_decoder.encoder, host.encoder_decoder.decoder.bert.embeddings
    images, reports = [], []
    for views in batch["images"]:
        there = [view for view in views if view[0, 0, 0] != 0]
        patches = [patch for view in there for patch in encoder.stage(view[None])[0].flatten(1).T]
        images.append(sum(encoder.projection_head(patch) for patch in patches) / len(patches))
    for first, second in zip(batch["findings"], batch["impression"], strict=True):
        ids = host.tokenizer(f"[BOS] {first} [SEP] {second}", add_special_tokens=False).input_ids
        types = [int(position >= ids.index(host.tokenizer.sep_token_id)) for position in range(len(ids))]
        summed = [
            table.word_embeddings.weight[word]
            + table.position_embeddings.weight[position]
            + table.token_type_embeddings.weight[kind]
            for position, (word, kind) in enumerate(zip(ids, types, strict=True))
        ]
        reports.append(sum(table.LayerNorm(word) for word in summed) / len(ids))
    return images, reports


def llava(host, batch):
    model = next(module for module in host.modules() if isinstance(module, LlavaModel))
    hidden = model.vision_tower(batch["pixel_values"], output_hidden_states=True).hidden_states[-2]
    patches = model.multi_modal_projector(hidden)[:, 1:]  # the first is no patch
    words = model.language_model.embed_tokens
    return patches.mean(1), [mean(words, labels[labels != NO_LABEL]) for labels in batch["labels"]]


def original_llava(host, batch):
    parts = host.model
    patches = parts["vision_tower"](batch["images"]).flatten(2).mean(2)
    return parts["mm_projector"](patches), [
        mean(parts["embed_tokens"], labels[labels != NO_LABEL]) for labels in batch["labels"]
    ]


def show_and_tell(host, batch):
    images, words, mask = batch
    fed = zip(words[:, :-1], mask[:, :-1].bool(), strict=True)
    return host.cnn(images).mean((2, 3)), [mean(host.embedding, ids[counted]) for ids, counted in fed]


ARGUMENTS, ARGUMENTS_WITH_LORA = hosts.r2gengpt_arguments(), hosts.r2gengpt_arguments(lora=True)
RECIPES = [
    Recipe(
        "R2GenGPT",
        lambda: hosts.R2GenGPT(ARGUMENTS),
        hosts.r2gengpt_batch,
        r2gengpt,
        arguments={"args": ARGUMENTS},
    ),
    Recipe(
        "R2GenGPT",
        lambda: hosts.R2GenGPT(ARGUMENTS_WITH_LORA),
        hosts.r2gengpt_batch,
        r2gengpt,
        arguments={"args": ARGUMENTS_WITH_LORA},
    ),
    Recipe("CvT2DistilGPT2", lambda: hosts.CvT2DistilGPT2(0.01, 0.02), hosts.cvt2distilgpt2_batch, cvt2distilgpt2),
    Recipe("CXRMate", hosts.CXRMate, hosts.cxrmate_batch, cxrmate),
    Recipe("LLaVA in transformers", hosts.Llava, hosts.llava_batch, llava, widths=(24, 24)),
    Recipe(
        "LLaVA in transformers",
        lambda: hosts.Llava(lora=True),
        hosts.llava_batch,
        llava,
        widths=(24, 24),
        paths=("model.model.", "model.base_model.model.model."),
    ),
    Recipe("LLaVA's own code", hosts.OriginalLlava, hosts.original_llava_batch, original_llava, widths=(24, 24)),
    Recipe("Show and tell", hosts.ShowAndTell, hosts.show_and_tell_batch, show_and_tell, widths=(12, WIDTH)),
]
each = pytest.mark.parametrize(
    "recipe",
    RECIPES,
    ids=[
        "R2GenGPT",
        "R2GenGPT-lora",
        "CvT2DistilGPT2",
        "CXRMate",
        "Llava",
        "Llava-lora",
        "OriginalLlava",
        "ShowAndTell",
    ],
)


def watching(model, **methods):
    """A callback of the model's own Lightning."""
    of = lightning if isinstance(model, lightning.LightningModule) else pytorch_lightning
    return type("Watching", (of.Callback,), methods)()


def fit(recipe, folder, weight, steps, chunks=1, **methods):
    """Train for some steps from a fixed seed, and return model and trainer; without a weight the bare host."""
    torch.manual_seed(3)
    model = recipe.host()
    if weight is not None:
        recipe.plug_in(model, weight, chunks)
    of = lightning if isinstance(model, lightning.LightningModule) else pytorch_lightning
    trainer = of.Trainer(
        max_epochs=steps,  # one batch each
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[watching(model, **methods)],
        default_root_dir=folder,
    )
    torch.manual_seed(4)
    trainer.fit(model, hosts.loader(recipe.batch))
    return model, trainer


def test_each_recipe_is_tested_and_short():
    documented = re.findall(r"^## (.+)$", (hosts_document.DOCS / "RECIPES.md").read_text(), re.M)
    assert documented == list(dict.fromkeys(recipe.heading for recipe in RECIPES))
    for heading in documented:
        (recipe,) = hosts_document.blocks()[heading]
        arguments = recipe.split("plug_in(")[1].splitlines()
        assert 5 <= len([line for line in arguments if re.match(r"    \w", line)]) <= 8, heading


@each
def test_at_weight_0_the_host_trains_bit_for_bit_as_without(tmp_path, recipe):
    def losses_of(weight):
        losses = []
        model, _ = fit(
            recipe,
            tmp_path,
            weight,
            steps=3,
            on_train_batch_end=lambda self, trainer, module, outputs, *_: losses.append(outputs["loss"].item()),
        )
        return losses, {k: v for k, v in model.state_dict().items() if not k.startswith("hard_negatives.")}

    own, weights = losses_of(None)
    plugged, again = losses_of(0.0)
    assert len(own) == 3
    assert len(set(own)) == 3
    assert plugged == own
    assert again.keys() == weights.keys()
    assert all(torch.equal(value, again[name]) for name, value in weights.items())


@each
@pytest.mark.parametrize("chunks", [1, 3])
def test_features_are_those_made_by_hand(tmp_path, recipe, chunks):
    expected, seen = [], []

    def without_dropout(self, trainer, module, batch, batch_idx):
        module.eval()
        expected.append(recipe.by_hand(module, batch))
        module.hard_negatives.register_forward_pre_hook(lambda objective, arguments: seen.append(arguments[0]))

    fit(recipe, tmp_path, 1.0, steps=1, chunks=chunks, on_train_batch_start=without_dropout)
    ((images, reports),), (pairs,) = expected, seen
    torch.testing.assert_close(pairs.images, torch.stack(list(images)))
    torch.testing.assert_close(pairs.reports, torch.stack(list(reports)))
    assert pairs.images.requires_grad
    assert len(pairs.images.unique(dim=0)) == len(pairs.reports.unique(dim=0)) == 8


def test_describe_lists_the_mask_that_an_encoder_returns():
    table = describe(hosts.CXRMate(), next(iter(hosts.loader(hosts.cxrmate_batch))))
    assert re.search(r"^encoder_decoder.encoder.attention_mask +1 +\(8, 8\) bool +no +mask$", table, re.M)


@each
def test_alignment_falls_and_the_bare_class_loads_the_checkpoint(tmp_path, recipe):
    losses = []
    model, trainer = fit(
        recipe,
        tmp_path,
        1.0,
        steps=25,
        on_train_batch_end=lambda self, trainer, *_: losses.append(
            trainer.callback_metrics["train/alignment_loss"].item()
        ),
    )
    assert sum(losses[-3:]) < 0.8 * sum(losses[:3]), losses
    trainer.save_checkpoint(tmp_path / "plugged.ckpt")
    bare = type(recipe.host()).load_from_checkpoint(tmp_path / "plugged.ckpt", **recipe.arguments)
    weights = model.state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in bare.state_dict().items())
    assert not any(name.startswith("hard_negatives") for name in bare.state_dict())


@pytest.fixture(autouse=True)
def _quiet():
    for name in ("lightning.pytorch", "pytorch_lightning"):
        logging.getLogger(name).setLevel(logging.ERROR)
