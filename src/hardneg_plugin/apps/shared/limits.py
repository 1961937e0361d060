"""Ranges and choices of settings that no annotation tells, by key: refused before anything is imported or read."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from hardneg_plugin.apps.shared.kinds import PLAIN, Kind, choice, list_of


@dataclass(frozen=True)
class Limit:
    """What a setting may be.

    Args:
        kinds: of values; empty: those of the annotation, or any.
        expected: the range in words.
        least, most: the ends of the range, of a number or of each number of a list.
        above, below: whether the ends are outside.
    """

    kinds: tuple[Kind, ...] = ()
    expected: str = ""
    least: float = -math.inf
    most: float = math.inf
    above: bool = False
    below: bool = False

    def holds(self, value: Any) -> bool:
        """Whether a value is in the range; what is no number is."""
        if isinstance(value, list):
            return all(self.holds(inner) for inner in value)
        if isinstance(value, bool) or not isinstance(value, int | float):
            return True
        is_above = value > self.least if self.above else value >= self.least
        is_below = value < self.most if self.below else value <= self.most
        return is_above and is_below


def _one_of(*values: str | None, expected: str = "") -> Limit:
    return Limit(tuple(PLAIN["None"] if value is None else choice(value) for value in values), expected)


_INT, _FLOAT, _NULL = PLAIN["int"], PLAIN["float"], PLAIN["None"]
_SPLITS = (choice("val"), choice("test"))
SWITCH = Limit((PLAIN["bool"],))
TEXT = Limit((PLAIN["str"],))
TEXT_OR_NULL = Limit((PLAIN["str"], _NULL))
POSITIVE = Limit((_INT,), "a positive integer", least=1)
POSITIVE_OR_NULL = Limit((_INT, _NULL), "a positive integer or null", least=1)
COUNT = Limit((_INT,), "an integer >= 0", least=0)
SEED = Limit((_INT,), "an integer from 0 to 4294967295", least=0, most=2**32 - 1)
"""Of NumPy's and Lightning's global generators."""
WEIGHT = Limit((_FLOAT,), "a number >= 0", least=0)
ABOVE_ZERO = Limit((_FLOAT,), "a number > 0", least=0, above=True)
SHARE = Limit((_FLOAT,), "a share in [0, 1]", least=0, most=1)
RATE = Limit((_FLOAT,), "a share in [0, 1)", least=0, most=1, below=True)
BATCHES = Limit((_INT, _FLOAT, _NULL), "a number of batches, or a share of them in [0, 1]", least=0)
HARDNESS = Limit((_FLOAT,), "a hardness in [0, 1]", least=0, most=1)
COSINE = Limit((_FLOAT,), "a cosine in (-1, 1]", least=-1, most=1, above=True)

TRAINING: Mapping[str, Limit] = {
    "seed": SEED,
    "resume": TEXT_OR_NULL,
    "trust": SWITCH,
    "overwrite": SWITCH,
    "rank_timeout": Limit((_FLOAT, _NULL), "a number of seconds >= 1 or null", least=1),
    "rendezvous_timeout": Limit((_INT,), "a whole number of seconds >= 1", least=1),
    "collective_timeout": Limit((_INT,), "a whole number of seconds >= 1", least=1),
    "monitor": TEXT,
    "baselines": SWITCH,
    "weights.*": WEIGHT,
    "metrics.rank_by_likelihood": Limit((list_of(_SPLITS),)),
    "data.root": TEXT,
    "data.max_length": POSITIVE,
    "data.min_count": POSITIVE,
    "data.batch_size": POSITIVE,
    "data.cleaning": _one_of("iu_xray", "mimic_cxr"),
    "data.findings": _one_of("english", None),
    "data.regime": _one_of("uniform", "clinic"),
    "data.datamodule.num_workers": COUNT,
    "data.datamodule.eval_batch_size": POSITIVE_OR_NULL,
    "data.datamodule.source.resize": POSITIVE,
    "data.datamodule.source.crop": POSITIVE,
    "data.datamodule.source.size": POSITIVE,
    "data.datamodule.source.train": COUNT,
    "data.datamodule.source.val": COUNT,
    "data.datamodule.source.test": COUNT,
    "data.datamodule.source.seed": SEED,
    "sampler": Limit(),  # a group
    "grounding_width": POSITIVE,
    "visual.options.channels": Limit((list_of((_INT,), 4),), "four positive integers", least=1),
    "visual.options.stem_width": POSITIVE,
    "visual.out_index": Limit((_INT,)),
    "visual.std": Limit((list_of((_FLOAT,)), _NULL), "one or three numbers > 0, or null", least=0, above=True),
    "visual.config.model_type": TEXT,
    "visual.config.*": Limit(),  # of transformers
    "backbone.width": POSITIVE,
    "backbone.heads": POSITIVE,
    "backbone.layers": POSITIVE,
    "backbone.feedforward_width": POSITIVE,
    "backbone.memory_slots": POSITIVE,
    "backbone.memory_heads": POSITIVE,
    "backbone.memory_size": POSITIVE,
    "backbone.topk": POSITIVE,
    "backbone.queries": POSITIVE,
    "backbone.bridge_heads": POSITIVE,
    "backbone.max_patches": POSITIVE_OR_NULL,
    "backbone.dropout": RATE,
    "backbone.patch_dropout": RATE,
    "backbone.bridge": _one_of("linear", "mlp", "queries"),
    "backbone.lora.r": POSITIVE,
    "backbone.lora.lora_alpha": ABOVE_ZERO,
    "backbone.lora.lora_dropout": RATE,
    "backbone.config.model_type": TEXT,
    "backbone.config.*": Limit(),  # of transformers
    "backbone.lora.target_modules": Limit(),
    "backbone.adapt": _one_of("full", "frozen", "lora"),
    "model.visual_lr": Limit((_FLOAT, _NULL), "a number > 0 or null", least=0, above=True),
    "model.chunks": POSITIVE,
    "model.text.width": POSITIVE,
    "model.text.heads": POSITIVE,
    "model.text.layers": POSITIVE,
    "model.text.feedforward_width": POSITIVE,
    "model.text.dropout": RATE,
    "objective.width": POSITIVE_OR_NULL,
    "objective.rounds": COUNT,
    "objective.chunk": POSITIVE,
    "alignment.temperature": Limit((_FLOAT,), "a temperature in [0.01, 1]", least=0.01, most=1),
    "alignment.margin": Limit((_FLOAT,), "a cosine difference in (0, 2]", least=0, most=2, above=True),
    "alignment.*_weight": WEIGHT,
    "hardening.margin": Limit((_FLOAT,), "a cosine difference in [0, 2)", least=0, most=2, below=True),
    "hardening.steps": COUNT,
    "hardening.step_size": ABOVE_ZERO,
    "schedule.warmup": WEIGHT,
    "schedule.end": ABOVE_ZERO,
    "schedule.rate": ABOVE_ZERO,
    "schedule.cap": HARDNESS,
    "schedule.peak": HARDNESS,
    "schedule.hardness": HARDNESS,
    "negatives.k": POSITIVE,
    "negatives.pool": POSITIVE_OR_NULL,
    "negatives.ceiling": COSINE,
    "negatives.size": POSITIVE,
    "negatives.refresh_every": POSITIVE,
    "separation.margin": Limit((_FLOAT,), "a cosine in [-1, 1)", least=-1, most=1, below=True),
    "token_weights.scale": WEIGHT,
    "token_weights.limit": ABOVE_ZERO,
    "token_weights.margin": WEIGHT,
    "token_weights.k": POSITIVE,
    "likelihood_margin.beta": ABOVE_ZERO,
    "likelihood_margin.margin": WEIGHT,
    "likelihood_margin.k": POSITIVE,
    "edit_margin.beta": ABOVE_ZERO,
    "edit_margin.margin": WEIGHT,
    "edit_margin.changes": POSITIVE,
    "sampler.group": Limit((_INT,), "an integer >= 2", least=2),
    "sampler.pool": POSITIVE,
    "data.paired.pool": POSITIVE_OR_NULL,
    "data.emphasis.k": POSITIVE,
    "data.emphasis.ratio": ABOVE_ZERO,
    "regions.*": POSITIVE,
    "decoding.beam_size": POSITIVE,
    "decoding.max_length": POSITIVE,
    "decoding.no_repeat_ngram_size": COUNT,
    "decoding.temperature": ABOVE_ZERO,
    "decoding.top_k": POSITIVE_OR_NULL,
    "decoding.top_p": Limit((_FLOAT, _NULL), "a share in (0, 1] or null", least=0, most=1, above=True),
    "decoding.precision": _one_of("bfloat16", None),
    "objective.*_weight": WEIGHT,
    "optimizer.lr": ABOVE_ZERO,
    "optimizer.eps": WEIGHT,
    "optimizer.weight_decay": WEIGHT,
    "optimizer.betas": Limit((), "two numbers in [0, 1)", least=0, most=1, below=True),
    "lr_schedule.interval": _one_of("epoch", "step"),
    "lr_schedule.schedule": Limit(),  # null, or settings of one
    "lr_schedule.schedule.step_size": POSITIVE,
    "lr_schedule.schedule.gamma": ABOVE_ZERO,
    "lr_schedule.schedule.warmup": RATE,
    "trainer.devices": Limit((_INT, PLAIN["str"], list_of((_INT,))), "-1, a positive integer or auto", least=-1),
    "trainer.num_nodes": POSITIVE,
    "trainer.max_epochs": Limit((_INT, _NULL), "an integer >= -1", least=-1),
    "trainer.max_steps": Limit((_INT,), "an integer >= -1", least=-1),
    "trainer.check_val_every_n_epoch": POSITIVE_OR_NULL,
    "trainer.gradient_clip_val": Limit((_FLOAT, _NULL), "a number >= 0 or null", least=0),
    "trainer.gradient_clip_algorithm": _one_of("norm", "value", None),
    "trainer.accumulate_grad_batches": POSITIVE,
    "trainer.log_every_n_steps": COUNT,
    "trainer.num_sanity_val_steps": Limit((_INT,), "an integer >= -1", least=-1),
    "trainer.limit_*_batches": BATCHES,
    "callbacks.progress_bar.refresh_rate": COUNT,
    "callbacks.diagnosis.*": COUNT,
    "callbacks.divergence.*": POSITIVE,
    "callbacks.early_stopping.patience": COUNT,
    "callbacks.last.every_n_train_steps": POSITIVE_OR_NULL,
    "*.seed": SEED,
    "*.batch_size": POSITIVE,
}
SCORING: Mapping[str, Limit] = {
    "run": TEXT,
    "checkpoint": TEXT,
    "split": Limit(_SPLITS),
    "output": TEXT_OR_NULL,
    "device": TEXT_OR_NULL,
    "rank_by_likelihood": SWITCH,
    "decoding.beam_size": POSITIVE_OR_NULL,
    "decoding.max_length": POSITIVE_OR_NULL,
    "decoding.length_penalty": Limit((_FLOAT, _NULL)),
    "decoding.no_repeat_ngram_size": Limit((_INT, _NULL), "an integer >= 0 or null", least=0),
    "decoding.sample": Limit((PLAIN["bool"], _NULL)),
    "decoding.temperature": Limit((_FLOAT, _NULL), "a number > 0 or null", least=0, above=True),
    "decoding.top_k": POSITIVE_OR_NULL,
    "decoding.top_p": Limit((_FLOAT, _NULL), "a share in (0, 1] or null", least=0, most=1, above=True),
}
LIMITS: Mapping[str, Mapping[str, Limit]] = {
    "train": TRAINING,
    "evaluate": {**TRAINING, **SCORING},
    "score": {
        **TRAINING,
        "predictions": TEXT,
        "references": TEXT_OR_NULL,
        "columns.*": TEXT_OR_NULL,
        "texts": _one_of("as_given", "seen", None, expected="one of as_given, seen or null"),
        "output": TEXT_OR_NULL,
        "findings": _one_of("phantom", "english", None, expected="one of phantom, english or null"),
        "clinical.*.batch_size": POSITIVE,
    },
    "tasks": {
        **TRAINING,
        **SCORING,
        "tasks": Limit((PLAIN["str"], list_of((PLAIN["str"],)), _NULL)),
        "split": Limit((*_SPLITS, list_of(_SPLITS))),
        "shares": Limit((list_of((_FLOAT,)),), "shares in (0, 1]", least=0, most=1, above=True),
        "segmentation.studies": POSITIVE,
        "segmentation.width": POSITIVE,
        "*.epochs": POSITIVE,
        "*.batch_size": POSITIVE,
        "*.lr": ABOVE_ZERO,
    },
    "page": {
        **TRAINING,
        **SCORING,
        "run": Limit((PLAIN["str"], Kind("list", None, (PLAIN["str"],)), Kind("mapping", None, (PLAIN["str"],)))),
        "limit": POSITIVE,
        "zoom": POSITIVE_OR_NULL,
    },
    "export": {
        **SCORING,
        "trust": SWITCH,
        "output": TEXT,
        "format": _one_of("r2gen", "hub", "rexrank"),
        "license": TEXT_OR_NULL,
        "overwrite": SWITCH,
    },
    "predict": {
        **SCORING,
        "run": TEXT_OR_NULL,
        "images": Limit(),
        "columns.*": TEXT_OR_NULL,
        "trust": SWITCH,
        "attention": SWITCH,
        "beam_size": POSITIVE_OR_NULL,
        "max_length": POSITIVE_OR_NULL,
        "precision": _one_of("bfloat16", None),
        "batch_size": POSITIVE,
        "image_size": POSITIVE_OR_NULL,
    },
    "prepare": {
        "output": TEXT,
        "section": _one_of("findings", "impression", "both", "findings_impression", "report"),
        "size": POSITIVE,
        "splits.*": SHARE,
        "seed": SEED,
        "workers": COUNT,
        "overwrite": SWITCH,
        "source.columns.*": TEXT_OR_NULL,
    },
    "mine": {
        **TRAINING,
        "output": TEXT,
        "ithn_annotation": TEXT_OR_NULL,
        "k": POSITIVE,
        "ceiling": COSINE,
        "labels": _one_of("exclude", "ignore"),
        "backend": _one_of("torch", "faiss", "ivf", "ivf_pq", "hnsw"),
        "effort": ABOVE_ZERO,
        "chunk": POSITIVE,
        "embedder.batch_size": POSITIVE,
        "embedder.ngrams": POSITIVE,
        "embedder.min_count": POSITIVE,
    },
    "compare": {
        "compare.seeds": Limit((list_of((_INT,)),), "a list of integers from 0 to 4294967295", least=0, most=2**32 - 1),
        "compare.jobs": POSITIVE,
        "compare.resamples": POSITIVE,
        "compare.page": COUNT,
        "compare.zoom": POSITIVE_OR_NULL,
        "compare.partial": SWITCH,
    },
}
"""By the config of a command, patterns of keys, of which the first that matches counts."""


def limit_of(config_name: str, key: str) -> Limit | None:
    """The limit of a setting; None: it has none of its own.

    Args:
        config_name: of the command's config.
        key: of the setting, such as "trainer.max_epochs".
    """
    limits = LIMITS[config_name]
    if key in limits:
        return limits[key]
    return next((limit for pattern, limit in limits.items() if fnmatchcase(key, pattern)), None)
