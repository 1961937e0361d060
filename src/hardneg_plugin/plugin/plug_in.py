"""The plug-in around a LightningModule whose code does not change."""

from copy import deepcopy
from typing import TypeVar

from torch import nn

from hardneg_plugin.errors import UserError
from hardneg_plugin.objectives import HardNegativeObjective
from hardneg_plugin.plugin.batch_parts import Chunks
from hardneg_plugin.plugin.chunks import check_chunks
from hardneg_plugin.plugin.feature import Where
from hardneg_plugin.plugin.feature_paths import FeaturePaths
from hardneg_plugin.plugin.lightning_hosts import PACKAGES, lightning_module_of, overrides
from hardneg_plugin.plugin.mixin import HardNegativeMixin
from hardneg_plugin.plugin.plugged import Plug

Host = TypeVar("Host", bound=nn.Module | type[nn.Module])


def plug_in(
    host: Host,
    hard_negatives: HardNegativeObjective | None = None,
    *,
    images: Where,
    reports: Where,
    image_mask: Where | None = None,
    report_mask: Where | None = None,
    study_ids: Where | None = None,
    patient_ids: Where | None = None,
    texts: Where | None = None,
    labels: Where | None = None,
    facts: Where | None = None,
    statements: Where | None = None,
    negatives: Where | None = None,
    chunks: Chunks = 1,
    chunk_weight: Where | None = None,
    token_losses: Where | None = None,
) -> Host:
    """Add increasingly hard negatives to the training of any report generator, without a change to its code.

    Each place is a path, a `Feature` or a callable. "batch.mask" and "batch.0" lead into the batch, and "outputs.pooled" into what
    the host's `training_step` returned, by key, index or attribute. Other paths start with a submodule and mean what it returned in
    this step: "encoder", "encoder.last_hidden_state", "encoder.1" (layer 1 of a Sequential, or element 1 of a returned tuple). It
    must be called once per step; where it is called more often, `Feature` says which calls count. A callable takes
    `(batch, outputs)`, or `(host, batch, outputs)` where it uses the host, which is another one after a copy or
    `load_from_checkpoint`. Features are attached to the graph and dropped after the step. There are no hooks in validation, test
    and prediction.

    The host's optimizer gets the parameters of the objective as a further group, with the options of its first group but no weight
    decay. Losses, weights, logs and checkpoints are those of `HardNegativeMixin`.

    Args:
        host: a LightningModule, changed in place and returned; or a class, of which a subclass is returned whose instances get a
            copy of the objective each, or another one by the keyword `hard_negatives`.
        hard_negatives: the objective; None: `HardNegativeObjective()`.
        images: image features, `(B, D)`, `(B, P, D)` or `(B, C, H, W)`; the mean over patches or space is taken.
        reports: report features, `(B, D)` or `(B, T, D)`; the mean over words is taken.
        image_mask: `(B, P)`, True (or 1) for patches that count; None: all do.
        report_mask: `(B, T)`, True (or 1) for words that count; None: all do.
        study_ids, patient_ids, texts, labels: identities, as of `PairEmbeddings`.
        facts: `(B, Q)`, as of `PairEmbeddings`, for `GroundedKnowledgeObjective`.
        statements: `(2, Q, D)` pooled report features of its `statement_texts`, for `GroundedKnowledgeObjective`.
        negatives: features of paired studies as `PairEmbeddings`, for the source `Paired`.
        chunks: into how many parts each batch is split, as of `HardNegativeMixin`; a callable place then gets a part.
        chunk_weight: a place whose sum weighs the loss of a part, such as a mask of tokens where the host takes a mean over tokens;
            None: the number of studies.
        token_losses: the `TokenLosses` of a step, for `token_weights` and `likelihood_margin` (`plugin.read_again`); None: the
            method `token_losses` of the host, or the loss of the whole batch, which serves the margin only.

    Raises:
        UserError: a path that leads nowhere (at the start of training if the host makes its modules in `configure_model` or
            `setup`), a host that is no LightningModule or is plugged in already, or what `HardNegativeMixin` cannot train.

    >>> import pytorch_lightning as pl  # or: import lightning.pytorch as pl
    >>> class Host(pl.LightningModule):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.image, self.text = nn.Linear(6, 4), nn.Linear(5, 4)
    ...
    ...     def training_step(self, batch, batch_idx):
    ...         return (self.image(batch["images"]) - self.text(batch["reports"])).square().mean()
    >>> model = plug_in(Host(), HardNegativeObjective(), images="image", reports="text", study_ids="batch.id")
    """
    features = FeaturePaths(
        images=images,
        reports=reports,
        image_mask=image_mask,
        report_mask=report_mask,
        study_ids=study_ids,
        patient_ids=patient_ids,
        texts=texts,
        labels=labels,
        facts=facts,
        statements=statements,
        negatives=negatives,
        chunk_weight=chunk_weight,
        token_losses=token_losses,
    )
    check_chunks(chunks)
    objective = HardNegativeObjective() if hard_negatives is None else hard_negatives
    if isinstance(host, type):
        _check_host(host)
        plugged: Host = Plug(host, objective, features, chunks).plugged_class
        return plugged
    _check_host(type(host))
    if "training_step" in vars(host):
        raise UserError(
            f"This {type(host).__name__} has an attribute training_step, which hides that of its class: if it was compiled, "
            "plug in first and then call trainer.fit(torch.compile(model))."
        )
    if hasattr(host, "hard_negatives"):
        raise UserError(f"This {type(host).__name__} has an attribute hard_negatives already: rename it.")
    if not any(overrides(host, hook) for hook in ("configure_model", "setup")):  # else modules may come later
        features.modules(host)
    # the class keeps an untrained objective for further instances, such as those of load_from_checkpoint
    host.__class__ = Plug(type(host), deepcopy(objective), features, chunks).plugged_class
    host.hard_negatives = objective
    return host


def _check_host(host: type) -> None:
    if lightning_module_of(host) is None:
        raise UserError(
            f"plug_in takes a LightningModule of {' or '.join(PACKAGES)}, but got {host.__module__}.{host.__qualname__}: "
            "if it was compiled or wrapped, pass the module itself and compile it afterwards."
        )
    if issubclass(host, HardNegativeMixin):
        raise UserError(f"{host.__name__} has hard negatives already: plug in once.")
