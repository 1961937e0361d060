"""Steps and states that are not finite."""

import math

import pytest
import torch
from torch import nn

from hardneg_plugin.divergence import DivergedError, FiniteSteps, not_finite
from hardneg_plugin.errors import UserError

NAN, INF = math.nan, math.inf


def stopped_at(losses, gradients=None, patience=3, every_n_steps=10, forgives_gradients=False, looks=None):
    """The first step at which it is noticed, from 1, and the message; looks after each step, or after those given."""
    steps = FiniteSteps(patience, every_n_steps)
    parameter = nn.Parameter(torch.zeros(2))
    for number, loss in enumerate(losses, start=1):
        parameter.grad = torch.tensor([0.0, 1.0 if gradients is None else gradients[number - 1]])
        steps.add_gradients([parameter])
        steps.add_batch(torch.tensor(loss), [f"s{number}"])
        steps.end(number, epoch=1 + (number - 1) // 4)
        if looks is None or number in looks:
            try:
                steps.look(forgives_gradients=forgives_gradients)
            except DivergedError as error:
                return number, str(error)
    return None, ""


@pytest.mark.parametrize("wrong", [NAN, INF, -INF])
def test_so_many_steps_in_a_row_and_the_first_of_them_is_named(wrong):
    at, message = stopped_at([1.0, wrong, wrong, 1.0, wrong, wrong, wrong, wrong])
    assert at == 7
    assert message == (
        "Training diverged: the loss was not finite in 3 steps in a row, the first of them step 5 in epoch 2, with the study s5."
    )
    assert stopped_at([1.0, wrong, wrong, 1.0, wrong, wrong]) == (None, "")
    at, message = stopped_at([1.0, wrong], patience=1)
    assert (at, message) == (2, "Training diverged: the loss was not finite in step 2 in epoch 1, with the study s2.")


def test_a_gradient_counts_as_a_loss_does_unless_such_steps_are_skipped():
    gradients = [1.0, NAN, INF, -INF, 1.0]
    at, message = stopped_at([1.0] * 5, gradients)
    assert at == 4
    assert (
        "diverged: the gradient (the loss was) was not finite in 3 steps in a row, the first of them step 2" in message
    )
    assert stopped_at([1.0] * 5, gradients, forgives_gradients=True) == (None, "")
    at, _ = stopped_at([1.0, 1.0, NAN, NAN, 1.0], gradients)  # mixed
    assert at == 4


@pytest.mark.parametrize("looks", [{1, 2, 3, 4, 5, 6, 7, 8}, {8}, {3, 6, 8}, {4, 5, 8}])
def test_what_is_found_does_not_depend_on_when_it_looks(looks):
    at, message = stopped_at([1.0, NAN, NAN, NAN, NAN, 1.0, 1.0, 1.0], looks=looks)
    assert at == min(look for look in looks if look >= 4)
    assert "the first of them step 2 in epoch 1, with the study s2" in message


def test_the_norm_counts_not_only_the_elements():
    """A norm that overflows makes clipping set all gradients to 0."""
    steps, parameter = FiniteSteps(1), nn.Parameter(torch.zeros(2))
    parameter.grad = torch.tensor([3e38, 3e38])
    assert not torch.isfinite(nn.utils.get_total_norm([parameter.grad]))
    steps.add_gradients([parameter])
    steps.end(1, 1)
    with pytest.raises(DivergedError):
        steps.look()


def test_the_batches_of_an_accumulated_step_count_together():
    steps = FiniteSteps(patience=1)
    for loss, name in ((1.0, "a"), (NAN, "b"), (2.0, "c")):
        steps.add_batch(torch.tensor(loss), [name])
    steps.look()  # the step is not at its end
    steps.end(1, 1)
    with pytest.raises(DivergedError, match="step 1 in epoch 1, with the studies a, b, c"):
        steps.look()


def test_many_studies_are_counted_and_no_study_is_no_matter():
    steps = FiniteSteps(patience=1)
    steps.add_batch(torch.tensor(NAN), [f"s{i}" for i in range(18)])
    steps.end(1, 1)
    with pytest.raises(DivergedError, match=r"s0, s1, .*, s15 and 2 more\.$"):
        steps.look()
    steps = FiniteSteps(patience=1)
    steps.add_batch(torch.tensor(NAN))
    steps.end(1, 1)
    with pytest.raises(DivergedError, match=r"not finite in step 1 in epoch 1\.$"):
        steps.look()


def test_a_gpu_or_several_processes_are_asked_seldom():
    steps = FiniteSteps(every_n_steps=3)
    for number in range(1, 4):
        steps.add_batch(torch.tensor(1.0, device="meta"))
        steps.end(number, 1)
        assert steps.is_due == (number == 3)
    on_cpu = FiniteSteps(every_n_steps=3)
    on_cpu.add_batch(torch.tensor(1.0))
    on_cpu.end(1, 1)
    assert on_cpu.is_due


def test_a_state_that_is_not_finite_is_refused_with_its_names_and_the_step_that_led_to_it():
    steps = FiniteSteps()
    state = {
        "a": torch.tensor([1.0, INF]),
        "b": {"c": [torch.tensor(NAN)]},
        "mask": torch.tensor(-INF),
        "n": torch.tensor(3),
    }
    assert not_finite(state) == ["a", "b.c.0", "mask"]
    cpu = torch.device("cpu")
    steps.check({"a": torch.ones(1), "n": 3, "mask": state["mask"]}, {"mask"}, cpu, "now")
    with pytest.raises(DivergedError, match=r"^Training diverged: now a and 1 more are not finite\.$"):
        steps.check(state, {"mask"}, cpu, "now")
    steps.add_batch(torch.tensor(NAN), ["x"])
    steps.end(4, 2)
    steps.look()
    with pytest.raises(
        DivergedError, match=r"now a is not finite; the loss was not finite in step 4 in epoch 2, with the study x"
    ):
        steps.check({"a": state["a"]}, set(), cpu, "now")


@pytest.mark.parametrize("arguments", [{"patience": 0}, {"every_n_steps": 0}])
def test_numbers_out_of_range_are_refused(arguments):
    with pytest.raises(UserError, match=f"{next(iter(arguments))}: expected a positive integer, but got 0"):
        FiniteSteps(**arguments)
