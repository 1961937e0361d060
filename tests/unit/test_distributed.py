"""Gradients averaged over two ranks against one process with both batches, and a check that finds what differs."""

import sys
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

sys.path.append(str(Path(__file__).parent))  # where started processes look, too
from two_ranks_agree import batch, layer, losses, on_two_ranks


@pytest.mark.slow
def test_ranks_agree(tmp_path):
    ranks = on_two_ranks(tmp_path)

    # the mean over ranks and batches of equal size, accumulated over two batches
    model = layer()
    for index in (0, 1):
        losses(model, torch.cat([batch(0, index), batch(1, index)])).backward()
    expected = [p.grad for p in model.parameters() if p is not model[0].bias]
    for rank in ranks:
        assert_close(rank["accumulated"], expected)
        assert rank["some"][0].tolist() == [3, 3]  # no gradient on rank 0, 6 on rank 1
        assert rank["some"][1] is None
    assert all(map(torch.equal, ranks[0]["accumulated"], ranks[1]["accumulated"]))

    assert ranks[0]["errors"] == ranks[1]["errors"]
    errors = ranks[0]["errors"]
    assert errors["same"] == errors["empty"] == ""
    assert "the objective: expected the same values on all 2 ranks, but 1.weight differ" in errors["parameter"]
    assert "but _extra_state differ" in errors["queue"]
    assert "but running_var differ" in errors["buffer"]
    assert errors["rounded"] == ""
    assert "but weight, bias differ" in errors["shapes"]
    assert "but 0.weight differ" in errors["infinite"]
    assert "but bias differ" in errors["brief"]
    assert all(name in errors["learned"] for name in ("0.weight", "1.weight"))
