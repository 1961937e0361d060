"""The encoder that scores whether a report belongs to an image, from its formulas."""

import torch
import torch.nn.functional as F

from hardneg_plugin.objectives.gk_mvlp.pair_matching import PairEncoder
from hardneg_plugin.objectives.local_features import LocalFeatures

WIDTH, HEADS = 8, 2


def attended(attention, queries, keys):
    """What each query takes from the keys, head by head."""
    q, k, v = (
        F.linear(rows, weight, bias)
        for rows, weight, bias in zip(
            (queries, keys, keys), attention.in_proj_weight.chunk(3), attention.in_proj_bias.chunk(3), strict=True
        )
    )
    size, taken = WIDTH // HEADS, []
    for head in range(HEADS):
        part = slice(head * size, (head + 1) * size)
        weights = (q[:, part] @ k[:, part].T / size**0.5).softmax(-1)
        taken.append(weights @ v[:, part])
    return attention.out_proj(torch.cat(taken, dim=1))


def score_by_hand(encoder, words, regions):
    """Of one report and one image without padding: norms come before attention and the feed-forward part."""
    x = words
    for layer in encoder.layers:
        x = x + attended(layer.self_attn, layer.norm1(x), layer.norm1(x))
        x = x + attended(layer.multihead_attn, layer.norm2(x), regions)
        x = x + layer.linear2(F.relu(layer.linear1(layer.norm3(x))))
    return encoder.score(encoder.norm(x.mean(0)))[0]


def drawn(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def test_a_score_is_that_of_the_formulas_without_its_padding():
    torch.manual_seed(0)
    encoder = PairEncoder(WIDTH, heads=HEADS, layers=2)
    for parameter in encoder.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    words, regions = drawn(3, 5, WIDTH), drawn(3, 4, WIDTH)
    word_mask = torch.arange(5) < torch.tensor([[5], [2], [1]])
    region_mask = torch.arange(4) < torch.tensor([[1], [4], [3]])
    logits = encoder(LocalFeatures.of(words, word_mask), LocalFeatures.of(regions, region_mask))
    expected = [score_by_hand(encoder, words[i, word_mask[i]], regions[i, region_mask[i]]) for i in range(3)]
    torch.testing.assert_close(logits, torch.stack(expected), rtol=1e-4, atol=1e-5)


def test_it_draws_no_dropout_in_training_and_its_inner_layer_is_twice_as_wide():
    encoder = PairEncoder(WIDTH, heads=HEADS, layers=3).train()
    words, regions = drawn(2, 5, WIDTH), drawn(2, 4, WIDTH)
    pair = (
        LocalFeatures.of(words, torch.ones(2, 5, dtype=torch.bool)),
        LocalFeatures.of(regions, torch.ones(2, 4).bool()),
    )
    assert torch.equal(encoder(*pair), encoder(*pair))
    assert [layer.linear1.out_features for layer in encoder.layers] == [2 * WIDTH] * 3


def test_a_report_without_words_and_an_image_without_regions_have_a_score():
    encoder = PairEncoder(WIDTH, heads=HEADS, layers=1)
    nothing = LocalFeatures.of(drawn(2, 5, WIDTH), torch.zeros(2, 5, dtype=torch.bool))
    logits = encoder(nothing, nothing)
    logits.sum().backward()
    assert logits.isfinite().all()
    assert all(p.grad is None or p.grad.isfinite().all() for p in encoder.parameters())
