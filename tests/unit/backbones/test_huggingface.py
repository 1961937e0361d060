import copy
import io
import pickle
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer as Backend
from tokenizers import models, pre_tokenizers
from torch import Tensor

from hardneg_plugin.backbones.decoding import Decoding
from hardneg_plugin.backbones.huggingface import HuggingFaceDecoder
from hardneg_plugin.data.tokenizer import HuggingFaceTokenizer
from hardneg_plugin.errors import UserError

BERT = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
BART = {"d_model": 32, "decoder_layers": 2, "decoder_attention_heads": 4, "decoder_ffn_dim": 48}
CONFIGS = {
    "gpt2": {"model_type": "gpt2", "n_embd": 32, "n_layer": 2, "n_head": 4},
    "bert": {"model_type": "bert", **BERT},
    "roberta": {"model_type": "roberta", **BERT},
    "electra": {"model_type": "electra", "embedding_size": 16, **BERT},  # a head of two modules
    "bart": {"model_type": "bart", **BART},  # takes no positions
}
TOKENS = torch.tensor([[0, 3, 1, 6, 2, 0, 0], [0, 5, 0, 0, 0, 0, 0], [0, 1, 1, 4, 3, 6, 0]])
PATCH_MASK = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [0, 0, 0, 0]]).bool()
every_kind = pytest.mark.parametrize("kind", CONFIGS)


def make(kind: str = "gpt2", vocab_size: int = 6, seed: int = 0, **options) -> HuggingFaceDecoder:
    torch.manual_seed(seed)
    return HuggingFaceDecoder(vocab_size, 5, **{"config": CONFIGS[kind], **options})


def save(folder: Path, kind: str = "gpt2", rows: int = 6, **values) -> Path:
    """A language model that never saw an image, as the hub has them."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(**{**CONFIGS[kind], "vocab_size": rows, "is_decoder": True, **values})
    torch.manual_seed(5)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("pretrained", [True, False])
@every_kind
@torch.no_grad()
def test_log_probs_are_those_of_the_model_itself(kind: str, pretrained: bool, tmp_path: Path) -> None:
    options = {"name_or_path": str(save(tmp_path, kind)), "config": None} if pretrained else {}
    decoder = make(kind, **options).eval()
    patches, tokens = torch.randn(3, 4, 5), TOKENS.masked_fill(TOKENS == 2, 4)  # token 2 is RoBERTa's padding
    ids = tokens[:, :-1]
    is_token = (ids > 0) | (torch.arange(6) == 0)
    logits = decoder.model(
        input_ids=torch.where(ids == 0, 6, ids - 1),
        attention_mask=is_token.long(),
        encoder_hidden_states=decoder.project(patches),
        encoder_attention_mask=torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [1, 1, 1, 1]]),
    ).logits
    expected = logits.log_softmax(-1)[..., [6, 0, 1, 2, 3, 4, 5]]
    found = decoder.log_probs(patches, tokens, patch_mask=PATCH_MASK)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert found.dtype == torch.float32
    assert decoder.states(patches, tokens).shape == decoder.text_states(tokens).shape == (3, 6, decoder.width)


@pytest.mark.parametrize("tied", [True, False])
@every_kind
def test_pretrained_rows_keep_their_meaning(kind: str, tied: bool, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    save(tmp_path, kind, rows=8, tie_word_embeddings=tied)  # two rows more than tokens
    trained = AutoModelForCausalLM.from_pretrained(tmp_path)
    decoder = make(kind, config=None, name_or_path=str(tmp_path))
    for table in ("get_input_embeddings", "get_output_embeddings"):
        found, expected = getattr(decoder.model, table)().weight, getattr(trained, table)().weight[:6]
        assert found[:6].equal(expected)
        torch.testing.assert_close(found[6], expected.mean(0))
    assert (decoder.model.get_input_embeddings().weight is decoder.model.get_output_embeddings().weight) is tied
    kept = {name: tensor for name, tensor in trained.state_dict().items() if name in decoder.model.state_dict()}
    assert len(kept) == len(trained.state_dict())
    same = [name for name, tensor in decoder.model.state_dict().items() if name in kept and tensor.equal(kept[name])]
    assert set(kept) - set(same) <= {name for name in kept if kept[name].shape[0] == 8}
    assert all(module.training for module in decoder.modules())
    untrained = make(kind, config=None, name_or_path=str(tmp_path), pretrained=False, vocab_size=30)
    assert untrained.settings["config"]["vocab_size"] == 31


@every_kind
@torch.no_grad()
def test_generate_reads_what_teacher_forcing_reads(kind: str) -> None:
    decoder, patches = make(kind, max_patches=4).eval(), torch.randn(3, 4, 5)
    drawn = Decoding(sample=True, num_return=4, max_length=9)
    for decoding in (drawn, Decoding(beam_size=1, max_length=9), Decoding(beam_size=3, num_return=3, max_length=9)):
        decoded = decoder.decode(patches, decoding, patch_mask=PATCH_MASK)
        for ids, found in zip(decoded.tokens.unbind(1), decoded.log_probs.unbind(1), strict=True):
            rows = torch.cat([torch.zeros(3, 1, dtype=torch.long), ids], dim=1)
            log_probs = decoder.log_probs(patches, rows, patch_mask=PATCH_MASK)
            is_counted = (ids == 0).cumsum(1) - (ids == 0).long() == 0  # the tokens and the first end
            sums = (log_probs.gather(2, ids[..., None])[..., 0] * is_counted).sum(1)
            torch.testing.assert_close(found, sums, atol=1e-4, rtol=1e-5)
        if decoding is drawn:
            assert (decoded.tokens == 2).any()  # RoBERTa's padding is a token


@every_kind
@torch.no_grad()
def test_each_word_is_embedded_by_itself(kind: str) -> None:
    decoder = make(kind).eval()
    embedded = decoder.word_embeddings(TOKENS)
    assert embedded.shape == (3, TOKENS.shape[1] - 1, decoder.word_embedding.embedding_dim)
    rows = {int(token): vector for token, vector in zip(TOKENS[:, 1:].flatten(), embedded.flatten(0, 1), strict=True)}
    for token, vector in zip(TOKENS[:, 1:].flatten(), embedded.flatten(0, 1), strict=True):
        assert vector.equal(rows[int(token)])
    # token t is row t - 1 of the model, and token 0 the last
    assert all(vector.equal(decoder.word_embedding.weight[token - 1]) for token, vector in rows.items())


@every_kind
@torch.no_grad()
def test_padding_batch_mates_and_masked_patches_change_nothing(kind: str) -> None:
    decoder = make(kind).eval()
    patches = torch.randn(3, 4, 5)
    together, text = decoder.states(patches, TOKENS), decoder.text_states(TOKENS)
    for study, length in enumerate((6, 3, 7)):
        row = TOKENS[study : study + 1, :length]
        alone = decoder.states(patches[study : study + 1], row)[0]
        torch.testing.assert_close(together[study, : length - 1], alone, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(text[study, : length - 1], decoder.text_states(row)[0], atol=1e-5, rtol=1e-5)
    assert together.isfinite().all()
    padded, mask = torch.cat([patches, 9 * torch.randn(3, 2, 5)], dim=1), (torch.arange(6) < 4).expand(3, -1)
    torch.testing.assert_close(decoder.states(padded, TOKENS, patch_mask=mask), together, atol=1e-5, rtol=1e-5)
    expected, found = decoder.generate(patches), decoder.generate(padded, patch_mask=mask)
    assert found.equal(expected)
    assert torch.cat([decoder.generate(study[None]) for study in patches]).equal(expected)


def plain_beam_search(
    decoder: HuggingFaceDecoder, study: Tensor, beam_size: int, max_length: int, penalty: float
) -> list[list[int]]:
    """Uncached, one study: a beam that ends among the best is recorded, and the best open ones go on."""

    def next_token(ids: list[int]) -> Tensor:
        return decoder.log_probs(study[None], torch.tensor([[0, *ids, 0]]))[0, -1]

    recorded, beams = [], [(0.0, [])]
    for position in range(max_length):
        candidates = [(total + float(p), [*ids, i]) for total, ids in beams for i, p in enumerate(next_token(ids))]
        candidates.sort(key=lambda candidate: -candidate[0])
        for total, ids in candidates[:beam_size]:
            if ids[-1] == 0 or position == max_length - 1:
                recorded.append((total / len(ids) ** penalty, ids))
        beams = [(total, ids) for total, ids in candidates if ids[-1] != 0][:beam_size]
    recorded.sort(key=lambda record: -record[0])
    return [ids + [0] * (max_length - len(ids)) for _, ids in recorded[:beam_size]]


@pytest.mark.parametrize("penalty", [0.0, 1.0])
@pytest.mark.parametrize("beam_size", [1, 2, 3, 4])
@torch.no_grad()
def test_search_is_the_plain_one(beam_size: int, penalty: float) -> None:
    lengths = set()
    for seed in range(6):
        decoder = make(("gpt2", "bert", "roberta")[seed % 3], vocab_size=7 + seed, seed=seed).eval()
        decoder.model.get_output_embeddings().weight.mul_(12.0)
        patches = torch.randn(3, 4, 5) * 5
        decoding = Decoding(beam_size=beam_size, num_return=beam_size, max_length=5, length_penalty=penalty)
        found = decoder.decode(patches, decoding)
        for study, reports in zip(patches, found.tokens.tolist(), strict=True):
            assert reports == plain_beam_search(decoder, study, beam_size, 5, penalty), seed
        lengths.update((found.tokens > 0).sum(-1).flatten().tolist())
    assert len(lengths) > 2


@torch.no_grad()
def test_sampling_draws_what_is_asked_for() -> None:
    decoder, patches = make().eval(), torch.randn(3, 4, 5)
    greedy = decoder.decode(patches, Decoding(beam_size=1, max_length=9))
    for options in ({"top_k": 1}, {"top_p": 1e-6}, {"temperature": 1e-4}):
        drawn = decoder.decode(patches, Decoding(sample=True, num_return=2, max_length=9, **options))
        assert drawn.tokens.equal(greedy.tokens.expand(-1, 2, -1))
        torch.testing.assert_close(drawn.log_probs, greedy.log_probs.expand(-1, 2))
    ids = decoder.decode(patches[:1], Decoding(sample=True, num_return=500, max_length=1)).tokens.flatten()
    expected = decoder.log_probs(patches[:1], torch.zeros(1, 2, dtype=torch.long)).exp().flatten()
    torch.testing.assert_close(ids.bincount(minlength=7) / 500, expected, atol=0.08, rtol=0)


@pytest.mark.parametrize("options", [{}, {"beam_size": 1}, {"sample": True}])
def test_no_word_comes_twice_but_the_end(options: dict) -> None:
    decoder = make()
    for tokens in decoder.decode(
        torch.randn(4, 4, 5), Decoding(max_length=9, no_repeat_ngram_size=1, **options)
    ).tokens:
        ids = tokens[tokens > 0].tolist()
        assert len(set(ids)) == len(ids) <= 6
    assert tokens.shape == (1, 9)


def test_a_precision_of_products_is_refused() -> None:
    with pytest.raises(UserError, match="of transformers, but got bfloat16"):
        make().decode(torch.randn(1, 4, 5), Decoding(precision="bfloat16"))


def test_fewer_reports_than_asked_for_are_marked() -> None:
    found = make(vocab_size=1).decode(torch.randn(2, 4, 5), Decoding(beam_size=4, num_return=4, max_length=1))
    assert found.log_probs.isfinite().sum(1).tolist() == [2, 2]
    assert found.log_probs[:, :2].exp().sum(1).allclose(torch.ones(2))
    assert not found.tokens[:, 2:].any()


@every_kind
def test_attention_maps_leave_out_what_is_masked_and_no_trace(kind: str) -> None:
    decoder, patches = make(kind, max_patches=4).train(), torch.randn(3, 4, 5)
    maps = decoder.attention_maps(patches, TOKENS, patch_mask=PATCH_MASK)
    assert maps.shape == (3, 2, 4, 6, 4)
    torch.testing.assert_close(maps.sum(-1), torch.ones(3, 2, 4, 6))
    assert not maps[1, ..., 2:].any()
    assert maps.equal(decoder.attention_maps(patches, TOKENS, patch_mask=PATCH_MASK))  # no dropout
    assert all(module.training for module in decoder.modules())
    assert decoder.model.config._attn_implementation == "sdpa"
    decoded = pickle.loads(pickle.dumps(decoder)).decode(patches, Decoding(max_length=5), attention=True)
    assert decoded.attention.shape == (3, 1, 2, 4, 5, 4)


@pytest.mark.parametrize("autocast", [False, True])
@every_kind
def test_every_parameter_gets_a_gradient(kind: str, autocast: bool) -> None:
    decoder = make(kind, max_patches=4).train()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        log_probs = decoder.log_probs(torch.randn(3, 4, 5), TOKENS, patch_mask=PATCH_MASK)
        decoder.generate(torch.randn(3, 4, 5), max_length=3)
    assert log_probs.dtype == torch.float32
    (-log_probs.gather(-1, TOKENS[:, 1:, None]).mean()).backward()
    trained = {name: parameter for name, parameter in decoder.named_parameters() if parameter.requires_grad}
    assert [name for name, parameter in trained.items() if parameter.grad is None] == []
    assert all(parameter.grad.isfinite().all() for parameter in trained.values())
    assert decoder.model.get_input_embeddings().weight.grad.abs().sum(1).all()  # those of the padding token too


@every_kind
@torch.no_grad()
def test_a_checkpoint_needs_no_folder(kind: str, tmp_path: Path) -> None:
    decoder = make(kind, config=None, name_or_path=str(save(tmp_path / "model", kind)))
    (tmp_path / "model").rename(tmp_path / "gone")
    state, patches = io.BytesIO(), torch.randn(3, 4, 5)
    torch.save({"weights": decoder.state_dict(), "settings": decoder.settings}, state)
    state.seek(0)
    saved = torch.load(state, weights_only=True)
    rebuilt = make(kind, seed=1, **saved["settings"])
    rebuilt.load_state_dict(saved["weights"])
    expected = decoder.eval().log_probs(patches, TOKENS)
    for same in (rebuilt.eval(), copy.deepcopy(decoder)):
        assert same.log_probs(patches, TOKENS).equal(expected)
        assert same.model.get_input_embeddings().weight is same.model.get_output_embeddings().weight


def test_reports_round_trip_through_the_models_tokenizer(tmp_path: Path, capfd) -> None:
    from transformers import PreTrainedTokenizerFast

    backend = Backend(models.WordLevel({"<s>": 0, "heart": 1, "is": 2, "normal": 3, "<unk>": 4}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", bos_token="<s>").save_pretrained(tmp_path)
    tokenizer = HuggingFaceTokenizer.from_reports((), str(save(tmp_path, rows=5)))
    capfd.readouterr()
    decoder = make(vocab_size=tokenizer.vocab_size, config=None, name_or_path=str(tmp_path))
    patches, tokens = torch.randn(2, 4, 5), torch.tensor([tokenizer.encode("heart is normal")] * 2)
    optimizer = torch.optim.Adam(decoder.parameters(), lr=1e-2)
    for _ in range(25):
        optimizer.zero_grad()
        (-decoder.log_probs(patches, tokens).gather(-1, tokens[:, 1:, None]).mean()).backward()
        optimizer.step()
    assert [tokenizer.decode(row.tolist()) for row in decoder.generate(patches)] == ["heart is normal"] * 2
    assert capfd.readouterr() == ("", "")


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> Path:
    from transformers import AutoConfig

    path = tmp_path_factory.mktemp("folders")
    (path / "empty").mkdir()
    config = AutoConfig.from_pretrained(save(path / "model"))
    config.save_pretrained(path / "config_only")
    config.n_layer = 3
    config.save_pretrained(save(path / "other"))
    return path


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"config": None}, "`name_or_path` or a `config` with a `model_type`"),
        ({"config": {"model_type": "gpt9"}}, "such as gpt2, but got 'gpt9'"),
        ({"config": {"model_type": "gpt2", "n_layers": 2}}, "GPT2Config has no n_layers"),
        ({"config": {"model_type": "gpt2", "n_layer": "two"}}, "a gpt2 cannot have the values"),
        ({"config": {**CONFIGS["gpt2"], "n_head": 5}}, "a gpt2 cannot be built.*divisible"),
        ({"config": {"model_type": "t5", "d_model": 8}}, "a t5 cannot be built"),
        ({"config": {"model_type": "opt", "hidden_size": 8, "num_attention_heads": 2}}, "OPTForCausalLM has no cross"),
        ({"config": {"model_type": "marian", **BART, "pad_token_id": 1}}, "MarianForCausalLM is built differently"),
        ({"name_or_path": "{folders}/nowhere"}, "nowhere.*could not be loaded.*Give a folder"),
        ({"name_or_path": "{folders}/empty"}, "empty.*could not be loaded.*Give a folder"),
        ({"name_or_path": "{folders}/config_only"}, "config_only.*could not be loaded.*Give a folder"),
        ({"name_or_path": "{folders}/other"}, "tensors of its config are missing, transformer.h.2"),
        ({"name_or_path": "{folders}/model", "vocab_size": 7}, "6 tokens, but the tokenizer has 7"),
        ({"name_or_path": "{folders}/model", "vocab_size": 4}, "6 tokens, but the tokenizer has 4"),
    ],
)
def test_what_a_user_can_get_wrong_is_one_line(options: dict, message: str, folders: Path, monkeypatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    if "name_or_path" in options:
        options = {**options, "name_or_path": options["name_or_path"].format(folders=folders)}
    with pytest.raises(UserError, match=message) as caught:
        make(**options)
    assert "\n" not in str(caught.value)


def test_too_many_patches_or_tokens_are_refused() -> None:
    make(max_patches=1)
    decoder = make(config={**CONFIGS["gpt2"], "n_positions": 6}, max_patches=4)
    with pytest.raises(UserError, match=r"at most 4 patches per study \(`max_patches`\), but got 5"):
        decoder.states(torch.randn(3, 5, 5), TOKENS)
    assert decoder.generate(torch.randn(3, 4, 5), max_length=6).shape == (3, 6)
    for call in (lambda: decoder.text_states(TOKENS.repeat(1, 2)), lambda: decoder.generate(torch.randn(3, 4, 5))):
        with pytest.raises(UserError, match="at most 6 tokens, the positions of GPT2LMHeadModel, but got"):
            call()
