"""What the plug-in adds to a step under Hugging Face's Trainer and under Lightning: time over the bare host's, on a small LLaVA.

In each of the two, the host and the plugged ones start from the same weights, see the same batch of 32 studies, and take turns
in one process; the first five steps do not count. A step under Lightning is timed from one batch to the next, with its hooks and
its log. Prints medians, and the median of the ratios to the host's step of the same turn.

    python benchmarks/host_overhead.py
"""

import logging
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytorch_lightning as pl
import torch
from transformers import Trainer, TrainingArguments

from hardneg_plugin import Feature, HardNegativeObjective, plug_in
from hardneg_plugin.hf import HardNegativeTrainer
from hardneg_plugin.objectives import InBatch, Queue

sys.path.append(str(Path(__file__).resolve().parents[1] / "examples"))
from wrap_hf_trainer import Collate, llava_with_lora
from wrap_vlm_lora import LlavaWithLora
from wrap_your_module import built_in_studies

TURNS, UNCOUNTED = 45, 5


def objective(negatives):
    return HardNegativeObjective(image_width=64, report_width=64, width=32, negatives=negatives)


def sources():
    return {"in_batch": InBatch(), "queue": Queue(size=64)}


def trainer_turns(loader, vocab_size):
    """Seconds of a step of each, by turn."""
    batch = Collate(loader, vocab_size + 1)(loader.dataset[:32])
    own = {name: batch[name] for name in ("pixel_values", "input_ids", "attention_mask", "labels")}
    with tempfile.TemporaryDirectory() as folder:
        runs = {"host": (_trainer(Trainer, vocab_size, folder), own)}
        for name, negatives in sources().items():
            plugged = _trainer(
                HardNegativeTrainer,
                vocab_size,
                folder,
                hard_negatives=objective(negatives),
                images="model.multi_modal_projector",
                reports=Feature("model.language_model.embed_tokens", align="right"),
                report_mask="batch.report_mask",
                study_ids="batch.study_id",
                texts="batch.report",
            )
            runs[name] = plugged, batch
        return [{name: _timed_step(*run) for name, run in runs.items()} for _ in range(TURNS)]


def _trainer(kind, vocab_size, folder, **options):
    torch.manual_seed(0)
    arguments = TrainingArguments(folder, max_steps=TURNS, report_to="none", use_cpu=True, learning_rate=1e-3)
    made = kind(model=llava_with_lora(vocab_size), args=arguments, **options)
    made.create_optimizer()
    made.current_gradient_accumulation_steps = 1
    return made


def _timed_step(trainer, batch):
    start = time.perf_counter()
    trainer.training_step(trainer.model, dict(batch), None)
    trainer.optimizer.step()
    trainer.optimizer.zero_grad()
    return time.perf_counter() - start


def lightning_turns(loader, vocab_size):
    """Seconds from one batch to the next of each, by turn. Each fit has a thread, and one of them runs at a time."""
    batch = loader.collate_fn(loader.dataset[:32])
    mean_image = torch.stack([study["images"][0] for study in loader.dataset]).float().mean(0)
    torch.manual_seed(0)
    hosts = {"host": LlavaWithLora(vocab_size, mean_image)}
    for name, negatives in sources().items():
        torch.manual_seed(0)
        hosts[name] = plug_in(
            LlavaWithLora(vocab_size, mean_image),
            objective(negatives),
            images="model.base_model.model.model.multi_modal_projector",
            reports=Feature("model.base_model.model.model.language_model.embed_tokens", align="right"),
            report_mask="batch.token_mask",
            study_ids="batch.ids",
            texts="batch.references",
        )
    gates = [threading.Semaphore(0) for _ in hosts]
    clocks = [_Turn(gate, gates[(i + 1) % len(gates)]) for i, gate in enumerate(gates)]
    threads = [
        threading.Thread(target=_fit, args=(host, batch, clock))
        for host, clock in zip(hosts.values(), clocks, strict=True)
    ]
    for thread in threads:
        thread.start()
    gates[0].release()
    for thread in threads:
        thread.join()
    return [
        dict(zip(hosts, seconds, strict=True)) for seconds in zip(*(clock.seconds for clock in clocks), strict=True)
    ]


class _Turn(pl.Callback):
    """Let one fit run from the start of a batch to the start of the next, and time it."""

    def __init__(self, own, following):
        self.own, self.following = own, following
        self.seconds = []
        self.start = None

    def on_train_start(self, trainer, module):
        self.own.acquire()
        self.start = time.perf_counter()

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        if batch_idx:
            self._pass_on()
            self.own.acquire()
            self.start = time.perf_counter()

    def on_train_end(self, trainer, module):
        self._pass_on()

    def on_exception(self, trainer, module, exception):
        self.following.release()

    def _pass_on(self):
        self.seconds.append(time.perf_counter() - self.start)
        self.following.release()


def _fit(host, batch, clock):
    torch.set_num_threads(1)
    loader = torch.utils.data.DataLoader([batch] * TURNS, batch_size=None)
    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    pl.Trainer(accelerator="cpu", max_epochs=1, callbacks=[clock], **quiet).fit(host, loader)


def main():
    torch.set_num_threads(1)
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    loader, tokenizer = built_in_studies(64)
    for title, turns_of in {"Trainer": trainer_turns, "Lightning": lightning_turns}.items():
        turns = turns_of(loader, tokenizer.vocab_size)[UNCOUNTED:]
        for name in turns[0]:
            median = statistics.median(turn[name] for turn in turns)
            ratio = statistics.median(turn[name] / turn["host"] for turn in turns)
            print(f"{title:9} {name:8} {1000 * median:6.1f} ms  {ratio:.2f} times the host's")


if __name__ == "__main__":
    main()
