"""What must hold before the first step: each condition by itself."""

import math
import warnings
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from hardneg_plugin import HardNegativeObjective
from hardneg_plugin.errors import UserError
from hardneg_plugin.objectives import ByText, Triplet
from hardneg_plugin.objectives.schedule import Constant
from hardneg_plugin.plugin.trainable import check_reads_edits, check_trainable


class Host(nn.Module):
    """As a plugged LightningModule at the start of training."""

    automatic_optimization = True

    def __init__(self, objective=None, steps=100, optimizers=None):
        super().__init__()
        self.layer = nn.Linear(2, 2)
        self.hard_negatives = objective or HardNegativeObjective(image_width=3, report_width=2, width=4)
        everything = [torch.optim.SGD([{"params": [p]} for p in self.parameters()], lr=0.1)]
        optimizers = everything if optimizers is None else optimizers(self)
        self.trainer = SimpleNamespace(optimizers=optimizers, estimated_stepping_batches=steps)

    def training_step(self, batch, batch_idx):
        raise AssertionError


class Manual(Host):
    automatic_optimization = False


class AddsTheTerms(Manual):
    def training_step(self, batch, batch_idx):
        return self.with_hard_negatives(1, batch, None)


class TakesAnIterator(Host):
    def training_step(self, dataloader_iter):
        raise AssertionError


class Normed(Host):
    def __init__(self):
        super().__init__()
        self.norms = nn.ModuleList([nn.BatchNorm1d(2), nn.BatchNorm2d(2)])


def sgd(*parameters):
    return torch.optim.SGD(parameters, lr=0.1)


@pytest.mark.parametrize(
    ("host", "chunks"),
    [
        (Host(), 1),
        (Host(), 4),
        (Host(), list),
        (AddsTheTerms(), 1),
        (Host(HardNegativeObjective(schedule=Constant(unit="epoch")), steps=math.inf), 1),
        (Host(HardNegativeObjective(token_weights=ByText())), 1),
        (Host(optimizers=lambda host: [sgd(host.layer.weight), sgd(*host.hard_negatives.parameters())]), 1),
        (Host(HardNegativeObjective(alignment=Triplet()), optimizers=lambda host: [sgd(host.layer.weight)]), 1),
        (Host(optimizers=lambda host: []), 1),  # of which Lightning warns
        (Host(optimizers=lambda host: [sgd(nn.Parameter(torch.zeros(1)))]), 1),
    ],
)
def test_what_can_be_trained_is_let_through_without_a_word(host, chunks):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_trainable(host, chunks)


@pytest.mark.parametrize(
    ("host", "chunks", "message"),
    [
        (TakesAnIterator(), 1, r"TakesAnIterator\.training_step takes dataloader_iter.*\(self, batch, batch_idx\)"),
        (Manual(), 1, r"Manual optimises manually, but none of its methods adds the terms.*with_hard_negatives\(loss"),
        (AddsTheTerms(), 2, r"chunks=2: AddsTheTerms optimises manually, within its step: set chunks to 1"),
        (Host(HardNegativeObjective(token_weights=ByText())), 2, r"chunks=2: token_weights, likelihood_margin and edit_margin"),
        (Host(HardNegativeObjective(token_weights=ByText())), list, r"chunks=<class 'list'>: token_weights"),
        (Host(steps=math.inf), 1, r"schedule\.unit is fraction, but training has no end"),
        (
            Host(optimizers=lambda host: [sgd(host.layer.weight)]),
            1,
            r"parameters log_scales, image_head\.weight, report_head\.weight: let Host\.configure_optimizers pass",
        ),
        (
            Host(optimizers=lambda host: [sgd(host.layer.weight, host.hard_negatives.log_scales)]),
            1,
            r"parameters image_head\.weight, report_head\.weight: let Host",
        ),
    ],
)  # fmt: skip
def test_what_cannot_is_told_with_the_remedy(host, chunks, message):
    with pytest.raises(UserError, match=message):
        check_trainable(host, chunks)


def test_frozen_parameters_need_no_optimizer():
    host = Host(optimizers=lambda host: [sgd(host.layer.weight, host.hard_negatives.log_scales)])
    host.hard_negatives.image_head.requires_grad_(False)
    host.hard_negatives.report_head.requires_grad_(False)
    check_trainable(host, 1)


def test_batch_norms_in_training_mode_are_warned_of_in_chunks_only():
    host = Normed()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_trainable(host, 1)
        check_trainable(host.eval(), 2)
    with pytest.warns(UserWarning, match=r"chunks: 2 batch norms in training mode \(norms\.0, \.\.\.\)"):
        check_trainable(host.train(), 2)


def test_edited_reports_need_a_method_of_the_host():
    check_reads_edits(Host(), True)
    with pytest.raises(UserError, match=r"let Host define edited_token_losses\(self, batch, outputs, changes\)"):
        check_reads_edits(Host(), False)
