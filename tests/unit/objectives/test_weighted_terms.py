"""The total of a step, its gradient, and what is logged of its terms."""

import pytest
import torch

from hardneg_plugin.objectives import Weights
from hardneg_plugin.objectives.weighted_terms import ObjectiveOutput, total_loss


def scalar(value):
    return torch.tensor(value, dtype=torch.float64, requires_grad=True)


@pytest.mark.parametrize("report_loss", [None, 7.0])
@pytest.mark.parametrize("likelihood_loss", [None, 11.0])
def test_the_total_is_the_weighted_sum_of_the_terms(report_loss, likelihood_loss):
    of_host, alignment, separation = scalar(2.0), scalar(3.0), scalar(5.0)
    report, likelihood = (None if value is None else scalar(value) for value in (report_loss, likelihood_loss))
    weights = Weights(report=0.5, alignment=0.3, separation=0.2, likelihood=0.1)
    terms = ObjectiveOutput(alignment, separation, {}, report_loss=report, likelihood_loss=likelihood)
    total = total_loss(weights, of_host, terms)
    expected = 0.5 * (2.0 if report_loss is None else 7.0) + 0.3 * 3 + 0.2 * 5
    expected += 0.0 if likelihood_loss is None else 0.1 * 11
    assert total.item() == pytest.approx(expected)
    total.backward()
    assert (alignment.grad, separation.grad) == (0.3, 0.2)
    assert of_host.grad == (0.5 if report is None else None)
    if report is not None:
        assert report.grad == 0.5
    if likelihood is not None:
        assert likelihood.grad == 0.1


@pytest.mark.parametrize("likelihood_loss", [None, 11.0])
def test_losses_and_scalars_are_logged_in_float32_without_a_graph(likelihood_loss):
    likelihood = None if likelihood_loss is None else scalar(likelihood_loss)
    logs = {"hardness": torch.tensor([0.5]), "negatives_found": scalar(0.25)}
    terms = ObjectiveOutput(scalar(3.0), scalar(5.0), logs, report_loss=scalar(7.0), likelihood_loss=likelihood)
    logged = terms.logged(scalar(2.0))
    expected = {"report_loss": 2.0, "alignment_loss": 3.0, "separation_loss": 5.0}
    expected |= {} if likelihood is None else {"likelihood_loss": 11.0}
    assert {name: value.item() for name, value in logged.items()} == {
        **expected,
        "hardness": 0.5,
        "negatives_found": 0.25,
    }
    for value in logged.values():
        assert (value.dtype, value.shape, value.requires_grad) == (torch.float32, (), False)


def test_what_is_logged_is_on_the_device_of_the_hosts_loss():
    terms = ObjectiveOutput(torch.tensor(3.0), torch.tensor(5.0), {"hardness": torch.tensor(0.5)})
    assert {value.device.type for value in terms.logged(torch.tensor(2.0, device="meta")).values()} == {"meta"}
