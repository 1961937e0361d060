"""A plain search, per study and uncached, written from the rules; and small decoders to search with."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from hardneg_plugin.backbones.decoder import IncrementalDecoder
from hardneg_plugin.backbones.decoding import DecoderState
from hardneg_plugin.backbones.encoder_decoder import EncoderDecoder
from hardneg_plugin.backbones.r2gen import R2Gen
from hardneg_plugin.backbones.r2gencmn import R2GenCMN
from hardneg_plugin.backbones.transformer import TransformerDecoder

NextToken = Callable[[list[int]], Tensor]
"""From the tokens so far to the log-probabilities (V + 1,) of the next."""


def plain_beam_search(next_token: NextToken, beam_size: int, max_length: int) -> list[int]:
    """The rules, one study and one candidate at a time, without caches and without stopping early."""
    recorded: list[tuple[Tensor, list[int]]] = []
    beams: list[tuple[Tensor, list[int]]] = [(torch.tensor(0.0), [])]
    for position in range(max_length):
        candidates = [
            (total + log_prob, [*ids, token]) for total, ids in beams for token, log_prob in enumerate(next_token(ids))
        ]
        candidates.sort(key=lambda candidate: -candidate[0].item())
        beams = []
        for total, ids in candidates[:beam_size]:
            if ids[-1] == 0 or position == max_length - 1:
                recorded.append((total, ids))
            beams.append((total - 1000 if ids[-1] == 0 else total, ids))
    best = recorded[0]
    for candidate in recorded:
        if candidate[0] > best[0]:
            best = candidate
    ids = best[1]
    return ids + [0] * (max_length - len(ids))


class Recurrent(IncrementalDecoder):
    """A decoder whose only state is a recurrent memory; what comes next depends on every earlier token and the image."""

    def __init__(self, vocab_size: int, *, end: float, sharpness: float) -> None:
        super().__init__()
        self.vocab_size, self.width = vocab_size, 6
        self.embedding = nn.Embedding(vocab_size + 1, 6)
        self.memory = nn.Linear(6, 6)
        self.output = nn.Linear(6, vocab_size + 1)
        with torch.no_grad():
            self.output.weight.mul_(sharpness)
            self.output.bias[0] += end

    def classify(self, states: Tensor) -> Tensor:
        return self.output(states).log_softmax(-1)

    def start(self, patches, *, max_length, beams=1, patch_mask=None):
        return Memory(patches.sum(1)[:, None].expand(-1, beams, -1))

    def step(self, tokens: Tensor, state: DecoderState) -> Tensor:
        assert isinstance(state, Memory)
        state.memory = torch.tanh(self.memory(state.memory) + self.embedding(tokens))
        return self.classify(state.memory)

    def states(self, patches, tokens, *, patch_mask=None):
        raise NotImplementedError

    def text_states(self, tokens):
        raise NotImplementedError

    @property
    def word_embedding(self):
        return self.embedding

    def word_embeddings(self, tokens):
        return self.embedding(tokens[:, 1:])

    def attention_maps(self, patches, tokens, *, patch_mask=None):
        raise NotImplementedError


class Memory(DecoderState):
    def __init__(self, memory: Tensor) -> None:
        self.memory = memory

    def select(self, parents: Tensor) -> None:
        self.memory = self.memory.gather(1, parents[..., None].expand_as(self.memory))


def recurrent_next_token(decoder: Recurrent, patches: Tensor) -> NextToken:
    def next_token(ids: list[int]) -> Tensor:
        memory = patches.sum(0)
        for token in [0, *ids]:
            memory = torch.tanh(decoder.memory(memory) + decoder.embedding.weight[token])
        return decoder.output(memory).log_softmax(-1)

    return next_token


def next_token_of(decoder: EncoderDecoder, patches: Tensor) -> NextToken:
    known: dict[tuple[int, ...], Tensor] = {}  # most beginnings are asked for by several widths of the beam

    def next_token(ids: list[int]) -> Tensor:
        key = tuple(ids)
        if key not in known:
            known[key] = decoder.log_probs(patches[None], torch.tensor([[0, *ids, 0]]))[0, -1]
        return known[key]

    return next_token


KINDS = {
    "transformer": TransformerDecoder,
    "r2gen": partial(R2Gen, memory_slots=2, memory_heads=2),
    "r2gencmn": partial(R2GenCMN, memory_size=7, topk=3),
}


def small(kind: str, seed: int, vocab_size: int, *, end: float = 0.0, **options) -> EncoderDecoder:
    torch.manual_seed(seed)
    options = {"width": 8, "heads": 2, "layers": 2, "feedforward_width": 8, **options}
    decoder = KINDS[kind](vocab_size, 5, **options).eval()
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
        decoder.output.weight.mul_(3.0)
        decoder.output.bias[0] += end
    return decoder
