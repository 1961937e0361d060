import pytest
import torch
from torch import nn

from hardneg_plugin.backbones.linear import FEW_ROWS, DecodingLinear


@pytest.mark.parametrize("shape", [(1,), (FEW_ROWS[0],), (4, 5), (FEW_ROWS[-1],), (FEW_ROWS[-1] + 1,), (2, 3, 8), (0,)])
def test_it_is_the_linear_layer_of_torch_for_any_number_of_rows(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    ours, oracle = DecodingLinear(12, 7), nn.Linear(12, 7)
    oracle.load_state_dict(ours.state_dict())
    x = torch.randn(*shape, 12)
    expected = oracle(x)
    torch.testing.assert_close(ours(x), expected, atol=1e-6, rtol=1e-5)
    with torch.no_grad():
        found = ours(x)
        strided = ours(x.transpose(0, -1).contiguous().transpose(0, -1))
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(strided, expected, atol=1e-6, rtol=1e-5)
    assert found.is_contiguous()
    torch.testing.assert_close(ours.transposed(x), expected.reshape(-1, 7).t(), atol=1e-6, rtol=1e-5)


@torch.no_grad()
def test_autocast_has_its_way() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        assert DecodingLinear(12, 7)(torch.randn(16, 12)).dtype == torch.bfloat16


def test_it_compiles_for_any_number_of_rows() -> None:
    layer = DecodingLinear(3, 5)
    compiled = torch.compile(layer, backend="eager", dynamic=True, fullgraph=True)
    for rows in (4, 16, 100):
        x = torch.randn(rows, 3)
        torch.testing.assert_close(compiled(x), layer(x))
        with torch.no_grad():
            torch.testing.assert_close(compiled(x), layer(x))
