"""What the plug-in adds to a step of Hugging Face's Trainer: time over the bare host's, on the LLaVA of the example.

The host and the plugged ones start from the same weights, see the same batch of 32 studies, and take turns in one process; the
first five steps do not count. Prints medians, and the median of the ratios to the host's step of the same turn.

    python benchmarks/host_overhead.py
"""

import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch
from transformers import Trainer, TrainingArguments

from hardneg_plugin import Feature, HardNegativeObjective
from hardneg_plugin.hf import HardNegativeTrainer
from hardneg_plugin.objectives import InBatch, Queue

sys.path.append(str(Path(__file__).resolve().parents[1] / "examples"))
from wrap_hf_trainer import Collate, llava_with_lora
from wrap_your_module import built_in_studies

PLACES = {
    "images": "model.multi_modal_projector",
    "reports": Feature("model.language_model.embed_tokens", align="right"),
    "report_mask": "batch.report_mask",
    "study_ids": "batch.study_id",
    "texts": "batch.report",
}
TURNS, UNCOUNTED = 45, 5


def trainer(kind, vocab_size, folder, **options):
    torch.manual_seed(0)
    arguments = TrainingArguments(folder, max_steps=TURNS, report_to="none", use_cpu=True, learning_rate=1e-3)
    made = kind(model=llava_with_lora(vocab_size), args=arguments, **options)
    made.create_optimizer()
    made.current_gradient_accumulation_steps = 1
    return made


def timed_step(trainer, batch):
    start = time.perf_counter()
    trainer.training_step(trainer.model, dict(batch), None)
    trainer.optimizer.step()
    trainer.optimizer.zero_grad()
    return time.perf_counter() - start


def main():
    torch.set_num_threads(1)
    loader, tokenizer = built_in_studies(64)
    batch = Collate(loader, tokenizer.vocab_size + 1)(loader.dataset[:32])
    own = {name: batch[name] for name in ("pixel_values", "input_ids", "attention_mask", "labels")}
    with tempfile.TemporaryDirectory() as folder:
        runs = {"host": (trainer(Trainer, tokenizer.vocab_size, folder), own)}
        for name, negatives in {"in_batch": InBatch(), "queue": Queue(size=64)}.items():
            objective = HardNegativeObjective(image_width=64, report_width=64, width=32, negatives=negatives)
            options = {"hard_negatives": objective, **PLACES}
            runs[name] = trainer(HardNegativeTrainer, tokenizer.vocab_size, folder, **options), batch
        turns = [{name: timed_step(*run) for name, run in runs.items()} for _ in range(TURNS)][UNCOUNTED:]
    for name in runs:
        median = statistics.median(turn[name] for turn in turns)
        ratio = statistics.median(turn[name] / turn["host"] for turn in turns)
        print(f"{name:10} {1000 * median:6.1f} ms  {ratio:.2f} times the host's")


if __name__ == "__main__":
    main()
