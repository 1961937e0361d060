"""A tiny report generator of transformers and its training; of its own, for started processes to import."""

import torch
from torch import nn
from torch.utils.data import IterableDataset, SequentialSampler
from transformers import PreTrainedConfig, PreTrainedModel, Trainer, TrainingArguments

from hardneg_plugin import HardNegativeObjective
from hardneg_plugin.distributed import is_shard
from hardneg_plugin.hf import HardNegativeTrainer
from hardneg_plugin.objectives import Bank, Queue, Weights
from hardneg_plugin.objectives.schedule import Linear

PLACES = {
    "images": "image",
    "reports": "words",
    "report_mask": "batch.mask",
    "study_ids": "batch.study",
    "texts": "batch.report",
}


class TinyConfig(PreTrainedConfig):
    model_type = "tiny"


class Generator(PreTrainedModel):
    """Its loss is a mean over words, and over all accumulated ones where the trainer gives their number."""

    config_class = TinyConfig

    def __init__(self, config):
        super().__init__(config)
        self.image, self.words, self.head = nn.Linear(6, 8), nn.Embedding(11, 8), nn.Linear(8, 11)
        self.post_init()

    def forward(self, pixels, input_ids, mask=None, labels=None, **kwargs):
        logits = self.head(self.image(pixels)[:, None] + self.words(input_ids))
        if labels is None:
            return {"logits": logits}
        losses = nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum", ignore_index=-100)
        return {"loss": losses / (kwargs.get("num_items_in_batch") or (labels != -100).sum()), "logits": logits}


class MeanGenerator(Generator):
    """One that takes no number of words: its loss is the mean of each batch."""

    def forward(self, pixels, input_ids, mask=None, labels=None):
        return super().forward(pixels, input_ids, mask, labels)


class InOrder(HardNegativeTrainer):
    def _get_train_sampler(self, *args):
        return SequentialSampler(self.train_dataset)


def studies(count=16):
    generator = torch.Generator().manual_seed(5)
    found = []
    for i in range(count):
        words = torch.randint(1, 11, (5,), generator=generator)
        length = 2 + i % 4
        labels = words.clone()
        labels[length:] = -100
        mask = (torch.arange(5) < length).long()
        pixels = torch.randn(6, generator=generator)
        found.append(
            {
                "pixels": pixels,
                "input_ids": words,
                "mask": mask,
                "labels": labels,
                "study": i,
                "report": f"report {i % 13}",
            }
        )
    return found


class Streamed(IterableDataset):
    def __iter__(self):
        return iter(studies())


def objective(alignment=0.5):
    torch.manual_seed(1)
    options = {"schedule": Linear(), "weights": Weights(0.7, alignment, 0.0)}
    return HardNegativeObjective(image_width=8, report_width=8, width=4, **options)


def generator(kind=Generator):
    torch.manual_seed(0)
    return kind(TinyConfig())


def arguments(folder, **options):
    given = {
        "max_steps": 4,
        "per_device_train_batch_size": 4,
        "learning_rate": 0.1,
        "lr_scheduler_type": "linear",
        "optim": "sgd",
        "weight_decay": 0.1,
        "max_grad_norm": 0.0,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "use_cpu": True,
        "disable_tqdm": True,
    }
    return TrainingArguments(str(folder), **{**given, **options})


def trainer(folder, kind=Generator, alignment=0.5, plugged=None, **options):
    """With `options` of TrainingArguments, and `plugged` of the trainer."""
    given = {"model": generator(kind), "train_dataset": studies(), "hard_negatives": objective(alignment), **PLACES}
    return InOrder(args=arguments(folder, **options), **{**given, **(plugged or {})})


def weights(trained):
    model = {f"model.{name}": whole(p).detach().clone() for name, p in trained.model.state_dict().items()}
    state = trained.hard_negatives.state_dict()
    return model | {name: p.detach().clone() for name, p in state.items() if isinstance(p, torch.Tensor)}


def whole(parameter):
    """Of a sharded parameter all shards."""
    return parameter.full_tensor() if is_shard(parameter) else parameter


STRATEGY = ("bare", "weight 0", "aligned", "whole", "resumed")
"""What the rows of the Trainer in docs/HOSTS.md compare; in this order, since "resumed" goes on from "whole"."""


class BareInOrder(Trainer):
    _get_train_sampler = InOrder._get_train_sampler


def of_strategy(name, folder, batch, sharded=None):
    """Weights and logs of a training with `batch` studies per process; `sharded` loads a model that cannot be resumed."""
    load = sharded or generator
    options = {"per_device_train_batch_size": batch, "max_steps": 24}
    if name in ("whole", "resumed"):
        options |= {"max_steps": 4, "save_strategy": "steps", "save_steps": 2, "optim": "adamw_torch"}
        options["save_only_model"] = sharded is not None
    folder = f"{folder}/{'whole' if name == 'resumed' else name}"
    if name == "bare":
        made = BareInOrder(model=load(), args=arguments(folder, **options), train_dataset=studies())
        made.train()
        return {f"model.{key}": whole(value) for key, value in made.model.state_dict().items()}, made.state.log_history
    made = trainer(folder, plugged={"model": load()}, **options)
    if name == "weight 0":
        made.hard_negatives.weights = Weights(1.0, 0.0, 0.0)
    made.train(resume_from_checkpoint=f"{folder}/checkpoint-2" if name == "resumed" else None)
    return weights(made), made.state.log_history


def with_negatives(name, folder, batch):
    made = trainer(folder, per_device_train_batch_size=batch, max_steps=8, save_strategy="steps", save_steps=8)
    made.hard_negatives.negatives = Queue(size=16) if name == "queue" else Bank(sharded=name == "sharded bank")
    return made
