"""TRL's SFTTrainer on a tiny Llama with LoRA."""

import sys
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from hardneg_plugin import HardNegativeObjective
from hardneg_plugin.hf import HardNegativeTrainerMixin

sys.path.append(str(Path(__file__).parent))
import tiny_generator as tiny

OF_TEXT = {
    "images": "model.embed_tokens",
    "reports": "model.norm",
    "study_ids": "batch.study",
    "texts": "batch.report",
}


def llama():
    torch.manual_seed(0)
    size = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=40, **size))


def sft(folder, cls=None, plugged=None, **changes):
    """A trainer of `cls`; None: SFTTrainer with hard negatives at the places in `plugged`."""
    import datasets
    import peft
    import trl

    sft_trainer: Any = trl.SFTTrainer

    class SFT(HardNegativeTrainerMixin, sft_trainer):
        pass

    if plugged:
        torch.manual_seed(1)
        plugged = {"hard_negatives": HardNegativeObjective(image_width=16, report_width=16, width=4), **plugged}
    rows = [
        {"input_ids": [1 + (i * 7 + j) % 39 for j in range(6)], "study": f"s{i}", "report": f"r{i}"} for i in range(8)
    ]
    options = vars_of(tiny.arguments(folder), max_steps=4, gradient_accumulation_steps=2) | changes
    config = trl.SFTConfig(
        str(folder), dataset_kwargs={"skip_prepare_dataset": True}, gradient_checkpointing=False, **options
    )
    torch.manual_seed(0)
    return (cls or SFT)(
        model=llama(),
        args=config,
        train_dataset=datasets.Dataset.from_list([row | {"labels": row["input_ids"]} for row in rows]),
        processing_class=tokenizer(),
        peft_config=peft.LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM"),
        **(plugged or {}),
    )


def vars_of(arguments, **changes):
    names = (
        "per_device_train_batch_size",
        "learning_rate",
        "logging_steps",
        "save_strategy",
        "use_cpu",
        "disable_tqdm",
    )
    return {name: getattr(arguments, name) for name in names} | {"report_to": "none", "bf16": False} | changes


def tokenizer():
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    words = {"<pad>": 0, "<eos>": 1} | {f"w{i}": i for i in range(2, 40)}
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(words, "<pad>")), pad_token="<pad>", eos_token="<eos>"
    )
