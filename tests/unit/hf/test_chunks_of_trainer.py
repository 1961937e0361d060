"""A Trainer's step in chunks against the unsplit step."""

import gc
import sys
import warnings
import weakref
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from hardneg_plugin import HardNegativeObjective
from hardneg_plugin.errors import UserError
from hardneg_plugin.hf import HardNegativeTrainer
from hardneg_plugin.objectives import Queue

sys.path.append(str(Path(__file__).parent))
import tiny_generator as tiny
from tiny_sft import OF_TEXT, sft

TOKENS = {"chunk_weight": lambda batch, outputs: batch["labels"] != -100}


def gradients(trainer, batch, words=None):
    """Of one step, by name; and its loss."""
    trainer.current_gradient_accumulation_steps = 1
    loss = trainer.training_step(trainer.model, dict(batch), words)
    named = [*trainer.model.named_parameters(), *trainer.hard_negatives.named_parameters("objective")]
    return {"loss": loss, **{name: p.grad for name, p in named if p.grad is not None}}


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    assert any(value.abs().max() > 1e-3 for value in expected.values())
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("chunks", [2, 4])
@pytest.mark.parametrize(
    ("kind", "words", "plugged"), [(tiny.Generator, 37, {}), (tiny.MeanGenerator, None, TOKENS)], ids=["shares", "mean"]
)
def test_gradient_is_that_of_the_unsplit_step(kind, words, plugged, chunks, tmp_path):
    words = words and torch.tensor(words)
    whole, parts = (tiny.trainer(tmp_path, kind, plugged={"chunks": n, **plugged}) for n in (1, chunks))
    batch = whole.data_collator(tiny.studies(8))
    assert_same(gradients(parts, batch, words), gradients(whole, batch, words))
    assert parts._step_logs.sums.keys() == whole._step_logs.sums.keys()
    for name, value in whole._step_logs.sums.items():
        torch.testing.assert_close(parts._step_logs.sums[name], value, rtol=0, atol=1e-5)


def test_weight_is_the_number_of_studies_unless_given(tmp_path):
    trainer = tiny.trainer(tmp_path, tiny.MeanGenerator, plugged={"chunks": 2})
    batch = trainer.data_collator(tiny.studies(7))  # 4 and 3 studies
    trainer.model.eval()
    halves = [{k: v[part] for k, v in batch.items()} for part in (slice(0, 4), slice(4, 7))]
    losses = [trainer.compute_loss(trainer.model, half).item() for half in halves]
    gradients(trainer, batch)
    assert float(trainer._step_logs.sums["report_loss"]) == pytest.approx((4 * losses[0] + 3 * losses[1]) / 7)


@pytest.mark.parametrize("chunks", [2, 4])
def test_gradient_of_lora(chunks, tmp_path):
    peft = pytest.importorskip("peft", reason="peft is not installed")
    size = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}

    def trainer(chunks):
        torch.manual_seed(0)
        lora = peft.LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False, task_type="CAUSAL_LM")
        return HardNegativeTrainer(
            model=peft.get_peft_model(LlamaForCausalLM(LlamaConfig(vocab_size=40, **size)), lora),
            args=tiny.arguments(tmp_path),
            hard_negatives=HardNegativeObjective(image_width=16, report_width=16, width=4),
            images="model.layers.0",
            reports="model.norm",
            study_ids="batch.study",
            chunks=chunks,
        )

    ids = torch.randint(0, 40, (8, 6), generator=torch.Generator().manual_seed(3))
    batch = {"input_ids": ids, "labels": ids, "study": [f"s{i}" for i in range(8)]}
    for words in (None, torch.tensor(40)):  # reports of one length: each mean over tokens has the same weight
        expected = gradients(trainer(1), batch, words)
        assert any("lora" in name for name in expected)
        assert_same(gradients(trainer(chunks), batch, words), expected)


@pytest.mark.parametrize("kind", [tiny.Generator, tiny.MeanGenerator], ids=["shares", "mean"])
def test_accumulated_batches_train_as_without_chunks(kind, tmp_path):
    given = TOKENS if kind is tiny.MeanGenerator else {}
    whole, parts = (
        tiny.trainer(tmp_path, kind, gradient_accumulation_steps=2, plugged={"chunks": n, **given}) for n in (1, 2)
    )
    whole.train()
    parts.train()
    assert_same(tiny.weights(parts), tiny.weights(whole))


def test_sft_trainer_trains_as_without_chunks(tmp_path):
    for needed in ("trl", "peft", "datasets"):
        pytest.importorskip(needed, reason=f"{needed} is not installed")
    whole, parts = (sft(tmp_path, plugged={**OF_TEXT, "chunks": n}, optim="sgd") for n in (1, 2))
    before = {name: value.clone() for name, value in tiny.weights(whole).items()}
    whole.train()
    parts.train()
    assert_same(tiny.weights(parts), tiny.weights(whole))
    assert any(
        (value - before[name]).abs().max() > 1e-3 for name, value in tiny.weights(whole).items() if "lora" in name
    )


def test_what_is_computed_again_is_not_kept(tmp_path):
    trainer = tiny.trainer(tmp_path, plugged={"chunks": 4})
    trainer.hard_negatives = HardNegativeObjective(image_width=8, report_width=8, width=4, negatives=Queue(size=32))
    seen = []
    hook = trainer.model.image.register_forward_hook(lambda module, arguments, output: seen.append(weakref.ref(output)))
    gradients(trainer, trainer.data_collator(tiny.studies(8)), torch.tensor(20))
    hook.remove()
    gc.collect()
    assert len(seen) == 8  # each part twice
    assert not [one for one in seen if one() is not None]
    assert not [m for m in trainer.model.modules() if m._forward_hooks]
    assert trainer._step_logs.batches == 1
    assert len(trainer.hard_negatives.negatives.queue) == 8


def test_a_batch_norm_is_warned_of_once(tmp_path):
    trainer = tiny.trainer(tmp_path, plugged={"chunks": 2})
    trainer.model.norm = nn.BatchNorm1d(3)
    batch = trainer.data_collator(tiny.studies(8))
    with pytest.warns(UserWarning, match="1 batch norms in training mode"):
        gradients(trainer, batch)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gradients(trainer, batch)


def test_no_chunks_are_refused(tmp_path):
    with pytest.raises(UserError, match="a positive integer"):
        tiny.trainer(tmp_path, plugged={"chunks": 0})
