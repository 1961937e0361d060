"""The objective's own parameter group: options, forms, and every scheduler that torch has."""

import inspect

import pytest
import torch
from torch import nn
from torch.optim import SGD, AdamW, lr_scheduler, swa_utils

from hardneg_plugin.errors import UserError
from hardneg_plugin.plugin.optimizer_group import add_group

SCHEDULERS = {
    "LambdaLR": lambda o: lr_scheduler.LambdaLR(o, [lambda step, i=i: 0.9 ** (step + i) for i in range(len(o.param_groups))]),
    "MultiplicativeLR": lambda o: lr_scheduler.MultiplicativeLR(o, lambda step: 1 - 0.1 / step),
    "StepLR": lambda o: lr_scheduler.StepLR(o, 3, gamma=0.5),
    "MultiStepLR": lambda o: lr_scheduler.MultiStepLR(o, [4, 9], gamma=0.5),
    "ConstantLR": lambda o: lr_scheduler.ConstantLR(o, factor=0.5, total_iters=4),
    "LinearLR": lambda o: lr_scheduler.LinearLR(o, start_factor=0.1, total_iters=7),
    "ExponentialLR": lambda o: lr_scheduler.ExponentialLR(o, gamma=0.8),
    "PolynomialLR": lambda o: lr_scheduler.PolynomialLR(o, total_iters=15, power=2.0),
    "CosineAnnealingLR": lambda o: lr_scheduler.CosineAnnealingLR(o, T_max=15, eta_min=0.001),
    "CosineAnnealingWarmRestarts": lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, T_0=6),
    "CyclicLR": lambda o: lr_scheduler.CyclicLR(o, base_lr=0.01, max_lr=0.3, step_size_up=4),
    "OneCycleLR": lambda o: lr_scheduler.OneCycleLR(o, max_lr=0.5, total_steps=25),
    "ReduceLROnPlateau": lambda o: lr_scheduler.ReduceLROnPlateau(o, patience=1, factor=0.7, min_lr=0.01),
    "ChainedScheduler": lambda o: lr_scheduler.ChainedScheduler(
        [lr_scheduler.ConstantLR(o, factor=0.1, total_iters=5), lr_scheduler.ExponentialLR(o, gamma=0.9)]
    ),
    "SequentialLR": lambda o: lr_scheduler.SequentialLR(
        o, [lr_scheduler.LinearLR(o, total_iters=5), lr_scheduler.CosineAnnealingLR(o, T_max=15)], milestones=[5]
    ),
    "SWALR": lambda o: swa_utils.SWALR(o, swa_lr=0.05, anneal_epochs=6),
}  # fmt: skip


def test_the_table_holds_all_schedulers_of_torch():
    public = {
        name
        for name, value in vars(lr_scheduler).items()
        if inspect.isclass(value) and issubclass(value, lr_scheduler.LRScheduler) and not name.startswith("_")
    }
    assert public - {"LRScheduler"} == SCHEDULERS.keys() - {"SWALR"}


def rates(make, groups, plugged, steps=20):
    """The rates of all groups over some steps, of host groups alone or with one added."""
    torch.manual_seed(0)
    host = [nn.Parameter(torch.randn(3)) for _ in range(groups)]
    optimizer = SGD([{"params": [p], "lr": 0.1 / (i + 1)} for i, p in enumerate(host)], momentum=0.9)
    scheduler = make(optimizer)
    if plugged:
        extra = nn.Parameter(torch.randn(2))
        add_group({"optimizer": optimizer, "lr_scheduler": scheduler}, {"scale": extra})
    seen = []
    for _ in range(steps):
        sum(p.square().sum() for group in optimizer.param_groups for p in group["params"]).backward()
        optimizer.step()
        scheduler.step(*([1.0] if isinstance(scheduler, lr_scheduler.ReduceLROnPlateau) else []))
        seen.append([(group["lr"], group["momentum"]) for group in optimizer.param_groups])
    return seen, scheduler


@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize("groups", [1, 3])
def test_host_groups_keep_their_rates_and_the_new_one_follows_the_first(name, groups):
    alone, _ = rates(SCHEDULERS[name], groups, plugged=False)
    together, scheduler = rates(SCHEDULERS[name], groups, plugged=True)
    assert [step[:-1] for step in together] == alone
    assert [step[-1] for step in together] == [step[0] for step in alone]
    assert len({step[0] for step in alone}) > 1  # it does schedule
    assert len(scheduler.get_last_lr()) == groups + 1
    fresh, again = rates(SCHEDULERS[name], groups, plugged=True, steps=0)
    assert not fresh
    again.load_state_dict(scheduler.state_dict())  # as a resumed run does


@pytest.mark.parametrize(
    "form",
    [
        lambda o, s: o,
        lambda o, s: [o],
        lambda o, s: (o,),
        lambda o, s: ([o], [s]),
        lambda o, s: ([o], s),
        lambda o, s: ([o], [{"scheduler": s, "interval": "step"}]),
        lambda o, s: {"optimizer": o, "lr_scheduler": s},
        lambda o, s: {"optimizer": o, "lr_scheduler": {"scheduler": s, "interval": "step"}, "monitor": "loss"},
        lambda o, s: [{"optimizer": o, "lr_scheduler": s}],
    ],
)
def test_every_form_that_lightning_accepts(form):
    optimizer = SGD([nn.Parameter(torch.zeros(2))], lr=0.1)
    scheduler = lr_scheduler.StepLR(optimizer, 1)
    configured = form(optimizer, scheduler)
    scale = nn.Parameter(torch.zeros(1))
    add_group(configured, {"scale": scale})
    assert [group["params"] for group in optimizer.param_groups][1:] == [[scale]]
    has_scheduler = configured is not optimizer and not (len(configured) == 1 and configured[0] is optimizer)
    assert len(scheduler.base_lrs) == 1 + has_scheduler


@pytest.mark.parametrize("nothing", [None, [], ([], []), {}, object(), {"optimizer": None}])
def test_without_an_optimizer_nothing_happens(nothing):
    add_group(nothing, {"scale": nn.Parameter(torch.zeros(1))})


def test_options_are_the_first_groups_without_weight_decay_and_not_shared():
    rate = torch.tensor(0.1)
    groups = [
        {"params": [("w", nn.Parameter(torch.zeros(2)))], "name": "first", "betas": (0.5, 0.6), "weight_decay": 0.3}
    ]
    optimizer = AdamW(groups, lr=rate, foreach=False)
    frozen = nn.Parameter(torch.zeros(1), requires_grad=False)
    add_group(optimizer, {"scale": nn.Parameter(torch.zeros(1)), "frozen": frozen})
    first, own = optimizer.param_groups
    assert own["param_names"] == ["scale"]
    assert (own["name"], own["betas"], own["weight_decay"], own["lr"]) == ("hard_negatives", (0.5, 0.6), 0.0, 0.1)
    assert first["weight_decay"] == 0.3
    assert own["lr"] is not first["lr"]


def test_an_optimizer_without_weight_decay_gets_none():
    optimizer = torch.optim.Rprop([nn.Parameter(torch.zeros(2))], lr=0.1)
    assert "weight_decay" not in optimizer.param_groups[0]
    add_group(optimizer, {"scale": nn.Parameter(torch.zeros(1))})
    assert optimizer.param_groups[1].keys() == optimizer.param_groups[0].keys()


def test_only_frozen_parameters_need_no_group():
    optimizer = SGD([nn.Parameter(torch.zeros(2))], lr=0.1)
    add_group(optimizer, {"frozen": nn.Parameter(torch.zeros(1), requires_grad=False)})
    assert len(optimizer.param_groups) == 1


def test_an_optimizer_that_would_leave_the_group_out_is_refused():
    optimizer = torch.optim.LBFGS([nn.Parameter(torch.zeros(2))])
    with pytest.raises(UserError, match=r"LBFGS cannot train the objective's parameters \(scale\)"):
        add_group(optimizer, {"scale": nn.Parameter(torch.zeros(1))})
