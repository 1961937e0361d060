"""Chunks under DDP and FSDP2 on two processes: the gradient of one process that has all studies in one batch, unsplit."""

import sys
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).parent))  # where started processes look, too
from chunks_on_two_ranks import STRATEGIES, InForward, batches, contrast, gradients_on_two_ranks, layers


@pytest.mark.slow
def test_the_gradient_is_that_of_one_process(tmp_path):
    step = InForward(chunks=1)
    step(batches()[2]).backward()
    expected = {name: p.grad for name, p in step.named_parameters()}
    host = layers()
    (sum(contrast(host, batch, 1) for batch in batches()[:2]) / 2).backward()
    called = {name: p.grad for name, p in host.named_parameters()}
    for rank in gradients_on_two_ranks(tmp_path):
        torch.testing.assert_close(rank["called in the step"], called, atol=1e-6, rtol=1e-5)
        for strategy in STRATEGIES:
            assert rank[strategy].keys() == expected.keys()
            for name, gradient in rank[strategy].items():
                message = f"{strategy}, {name}"
                torch.testing.assert_close(
                    gradient, expected[name], atol=1e-6, rtol=1e-5, msg=lambda m, w=message: f"{w}: {m}"
                )
