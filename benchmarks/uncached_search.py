"""The search of the released R2Gen and R2GenCMN, with the work that their code does at every step; for comparison only.

Written anew from what the released code computes, over the weights of our decoders. The image is encoded once, and its states are
repeated for each beam. Each step then reads all words so far:

- R2Gen projects the image for every beam in every layer, runs its memory through all words one after the other, computes eighteen
  norms from it, and sends all words through the decoder, of which the last one counts.
- R2GenCMN projects the whole memory matrix for every beam and asks it for all words. Its layers keep keys and values, of the image
  too, which every step copies, once to add a word and once to reorder beams.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from hardneg_plugin.backbones.attention import Attention, split_heads
from hardneg_plugin.backbones.encoder_decoder import EncoderDecoder
from hardneg_plugin.backbones.layers import sinusoids, standardised
from hardneg_plugin.backbones.r2gen import R2Gen
from hardneg_plugin.backbones.r2gencmn import CrossModalMemory, R2GenCMN

Cache = list[tuple[Tensor, Tensor]]
"""Keys and values `(N, L, width)`, of the words and of the image in turn, layer by layer."""


def linear(layer: torch.nn.Linear, x: Tensor) -> Tensor:
    """A plain product: none of what our layers do for few rows."""
    return F.linear(x, layer.weight, layer.bias)


def attend(attention: Attention, x: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
    """Attention of `(N, Q, width)` to projected keys and values `(N, L, width)`."""
    queries, keys, values = (split_heads(t, attention.heads) for t in (linear(attention.query, x), keys, values))
    scores = queries @ keys.mT / math.sqrt(keys.shape[-1])
    if mask is not None:
        scores = scores.masked_fill(~mask, -1e9)
    merged = (scores.softmax(-1) @ values).transpose(1, 2).contiguous().flatten(2)
    return linear(attention.output, merged)


def respond(memory: CrossModalMemory, x: Tensor) -> Tensor:
    """R2GenCMN's memory asked by `(N, L, width)`, its matrix projected and its best values copied for every row of N."""
    matrix = memory.matrix.expand(len(x), -1, -1)
    queries, keys, values = (
        split_heads(linear(layer, y), memory.heads)
        for layer, y in ((memory.query, x), (memory.key, matrix), (memory.value, matrix))
    )
    best, rows = (queries @ keys.mT / math.sqrt(keys.shape[-1])).topk(memory.topk, dim=-1)
    every = values[:, :, None].expand(-1, -1, x.shape[1], -1, -1)
    chosen = every.gather(3, rows[..., None].expand(-1, -1, -1, -1, values.shape[-1]))
    response = (best.softmax(-1)[..., None, :] @ chosen)[..., 0, :]
    return linear(memory.output, response.transpose(1, 2).flatten(2))


def embed(decoder: EncoderDecoder, tokens: Tensor) -> Tensor:
    positions = torch.arange(tokens.shape[1], device=tokens.device)
    return decoder.embedding(tokens) * math.sqrt(decoder.width) + sinusoids(positions, decoder.width)


def encode(decoder: EncoderDecoder, patches: Tensor) -> Tensor:
    """States of the image `(B, P, width)`."""
    x = linear(decoder.project[0], patches).relu()
    if isinstance(decoder, R2GenCMN):
        x = x + respond(decoder.memory, x)
        x = x + sinusoids(torch.arange(x.shape[1]), decoder.width)
    for layer in decoder.encoder:
        normed, own = layer.self_norm(x), layer.self_attention
        x = x + attend(own, normed, linear(own.key, normed), linear(own.value, normed), None)
        x = x + feed_forward(layer, layer.feedforward_norm(x))
    return decoder.encoder_norm(x)


def feed_forward(layer: torch.nn.Module, x: Tensor) -> Tensor:
    return linear(layer.feedforward[3], linear(layer.feedforward[0], x).relu())


def conditional_norm(decoder: R2Gen, index: int, x: Tensor, memory: Tensor) -> Tensor:
    """The norm of one sublayer under the memory after each word, `(N, T, slots * width)`."""
    norms, width = decoder.norms, decoder.width
    affine = norms.affine.split(width)
    by_memory = [
        F.linear(F.linear(memory, first, bias).relu(), second, second_bias)
        for first, bias, second, second_bias in zip(
            norms.first.weight.split(width)[2 * index : 2 * index + 2],
            norms.first.bias.split(width)[2 * index : 2 * index + 2],
            norms.second_weight[2 * index : 2 * index + 2],
            norms.second_bias.split(width)[2 * index : 2 * index + 2],
            strict=True,
        )
    ]
    gain, shift = affine[2 * index] + by_memory[0], affine[2 * index + 1] + by_memory[1]
    return gain * standardised(x) + shift


def relational_memory(decoder: R2Gen, embedded: Tensor) -> Tensor:
    """The memory after each word `(N, T, slots * width)`, word by word and nothing computed ahead."""
    memory, after = decoder.memory.initial(len(embedded)), []
    own = decoder.memory.attention
    first, second = decoder.memory.mlp[0], decoder.memory.mlp[2]
    for word in embedded.split(1, dim=1):
        read = torch.cat([memory, word], dim=1)
        proposed = memory + attend(own, memory, linear(own.key, read), linear(own.value, read), None)
        proposed = proposed + linear(second, linear(first, proposed).relu()).relu()
        gates = linear(decoder.memory.word_gates, word) + linear(decoder.memory.memory_gates, memory.tanh())
        take, keep = gates.sigmoid().chunk(2, dim=-1)
        memory = take * proposed.tanh() + keep * memory
        after.append(memory)
    return torch.stack(after, dim=1).flatten(2)


def next_r2gen(decoder: R2Gen, image: Tensor, tokens: Tensor) -> Tensor:
    """Log-probabilities `(N, V + 1)` of the word after `tokens` `(N, T)`, given states of the image `(N, P, width)`."""
    x = embed(decoder, tokens)
    memory = relational_memory(decoder, x)
    causal = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).tril()
    for number, layer in enumerate(decoder.decoder):
        normed, own = conditional_norm(decoder, 3 * number, x, memory), layer.self_attention
        x = x + attend(own, normed, linear(own.key, normed), linear(own.value, normed), causal)
        normed, to_image = conditional_norm(decoder, 3 * number + 1, x, memory), layer.image_attention
        x = x + attend(to_image, normed, linear(to_image.key, image), linear(to_image.value, image), None)
        x = x + feed_forward(layer, conditional_norm(decoder, 3 * number + 2, x, memory))
    return linear(decoder.output, decoder.decoder_norm(x)[:, -1]).log_softmax(-1)


def next_r2gencmn(decoder: R2GenCMN, image: Tensor, tokens: Tensor, cache: Cache) -> tuple[Tensor, Cache]:
    """As `next_r2gen`, with the cache of all words but the last; empty at first."""
    x = embed(decoder, tokens)
    x = (x + respond(decoder.memory, x))[:, -1:]
    kept: Cache = []
    for number, layer in enumerate(decoder.decoder):
        normed, own = decoder.norms[number][0](x), layer.self_attention
        keys, values = linear(own.key, normed), linear(own.value, normed)
        if cache:
            keys, values = torch.cat([cache[2 * number][0], keys], 1), torch.cat([cache[2 * number][1], values], 1)
        x = x + attend(own, normed, keys, values, None)
        normed, to_image = decoder.norms[number][1](x), layer.image_attention
        of_image = cache[2 * number + 1] if cache else (linear(to_image.key, image), linear(to_image.value, image))
        x = x + attend(to_image, normed, *of_image, None)
        x = x + feed_forward(layer, decoder.norms[number][2](x))
        kept += [(keys, values), (of_image[0].clone(), of_image[1].clone())]
    return linear(decoder.output, decoder.decoder_norm(x)[:, -1]).log_softmax(-1), kept


class UncachedSearch:
    """Steps of a search over patches `(B, P, D_v)` with `beams` beams a study."""

    def __init__(self, decoder: R2Gen | R2GenCMN, patches: Tensor, beams: int) -> None:
        self.decoder, self.studies, self.beams = decoder, len(patches), beams
        self.image = encode(decoder, patches).repeat_interleave(beams, dim=0)
        self.cache: Cache = []

    def step(self, tokens: Tensor) -> Tensor:
        """Log-probabilities `(B * k, V + 1)` after `tokens` `(B * k, T)`, which begin with token 0."""
        if isinstance(self.decoder, R2Gen):
            return next_r2gen(self.decoder, self.image, tokens)
        log_probs, self.cache = next_r2gencmn(self.decoder, self.image, tokens, self.cache)
        return log_probs

    def reorder(self, rows: Tensor) -> None:
        """Let each beam continue another one: `rows` `(B * k,)`."""
        self.cache = [(keys[rows], values[rows]) for keys, values in self.cache]

    def pretend(self, length: int) -> None:
        """Fill the cache as it is before the word at `length`, with any numbers."""
        if isinstance(self.decoder, R2GenCMN):
            rows, patches, width = self.image.shape
            words, of_image = torch.randn(rows, length - 1, width), torch.randn(rows, patches, width)
            self.cache = [(words.clone(), words.clone()), (of_image.clone(), of_image.clone())] * len(
                self.decoder.decoder
            )

    def run(self, max_length: int) -> Tensor:
        """The best tokens `(B, max_length)`, none of which may be 0."""
        studies, beams = self.studies, self.beams
        tokens = torch.zeros(studies * beams, 1, dtype=torch.long)
        sums = torch.full((studies, beams), -torch.inf)
        sums[:, 0] = 0.0
        offsets = beams * torch.arange(studies)[:, None]
        for _ in range(max_length):
            log_probs = self.step(tokens).view(studies, beams, -1)
            sums, flat = (sums[..., None] + log_probs).flatten(1).topk(beams)
            rows = (flat // log_probs.shape[-1] + offsets).flatten()
            tokens = torch.cat([tokens[rows], (flat % log_probs.shape[-1]).view(-1, 1)], dim=1)
            self.reorder(rows)
        return tokens.view(studies, beams, -1)[:, 0, 1:]
