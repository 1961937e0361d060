import copy
import pickle
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from hardneg_plugin.backbones.causal_lm import CausalLMDecoder
from hardneg_plugin.backbones.causal_lm_models import weights_checksum
from hardneg_plugin.backbones.decoding import Decoding
from hardneg_plugin.errors import UserError

sys.path.append(str(Path(__file__).parent))
from tiny_language_models import BRIDGES, CONFIGS, PATCH_MASK, SIZES, TOKENS, log_prob_of, make, save

BERT = {"model_type": "bert", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "is_decoder": True}
every_family = pytest.mark.parametrize("family", CONFIGS)
every_bridge = pytest.mark.parametrize("bridge", BRIDGES)


def gradients(decoder: torch.nn.Module) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in decoder.named_parameters() if p.grad is not None}


def loss_of(decoder: CausalLMDecoder, patches: Tensor) -> Tensor:
    mask = (TOKENS[:, :-1] > 0) | (torch.arange(6) == 0)
    return -(decoder.log_probs(patches, TOKENS).gather(2, TOKENS[:, 1:, None])[..., 0] * mask).sum() / mask.sum()


@every_bridge
@every_family
def test_the_loss_is_that_of_the_models_own_forward(family: str, bridge: str) -> None:
    decoder, patches = make(family, bridge).eval(), torch.randn(3, 4, 5)
    embedding, total, count = decoder.model.get_input_embeddings(), 0.0, 0
    # study by study, without padding; labels of transformers, -100 over start, image and prompt
    for study, words in enumerate(([2, 0, 5, 1], [4], [0, 0, 3, 2, 5])):
        image = decoder.bridge(patches[study : study + 1], None)[0]
        before, after = (
            embedding(torch.tensor([rows], dtype=torch.long)) for rows in (decoder._before, decoder._after)
        )
        prefix = torch.cat([decoder.start[None, None], before, image, after, decoder.begin[None, None]], dim=1)
        row = torch.tensor([[*words, 6]])
        embeds = torch.cat([prefix, embedding(row)], dim=1)
        labels = torch.cat([torch.full(prefix.shape[:2], -100), row], dim=1)
        total = total + decoder.model(inputs_embeds=embeds, labels=labels).loss * row.shape[1]
        count += row.shape[1]
    torch.testing.assert_close(loss_of(decoder, patches), total / count, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "options", [{"sample": True, "num_return": 4}, {"beam_size": 1}, {"beam_size": 4, "num_return": 4}], ids=str
)
@every_bridge
@every_family
@torch.no_grad()
def test_cached_decoding_reads_what_teacher_forcing_reads(family: str, bridge: str, options: dict) -> None:
    decoder, patches = make(family, bridge).eval(), torch.randn(3, 4, 5)
    decoded = decoder.decode(patches, Decoding(max_length=9, **options), patch_mask=PATCH_MASK)
    for study, (reports, found) in enumerate(zip(decoded.tokens.tolist(), decoded.log_probs, strict=True)):
        expected = [log_prob_of(decoder, patches[study], report, PATCH_MASK[study]) for report in reports]
        torch.testing.assert_close(found, torch.tensor(expected), atol=1e-4, rtol=1e-5)


@every_family
@torch.no_grad()
def test_greedy_is_a_plain_loop(family: str) -> None:
    decoder, patches = make(family).eval(), 3 * torch.randn(4, 4, 5)
    found = decoder.decode(patches, Decoding(beam_size=1, max_length=6)).tokens[:, 0].tolist()
    for study, report in zip(patches, found, strict=True):
        ids: list[int] = []
        while len(ids) < 6 and 0 not in ids:
            ids.append(int(decoder.log_probs(study[None], torch.tensor([[0, *ids, 0]]))[0, -1].argmax()))
        assert report == ids + [0] * (6 - len(ids))


@torch.no_grad()
def test_a_wide_beam_finds_the_likeliest_report() -> None:
    decoder, patches = make(vocab_size=3).eval(), torch.randn(2, 4, 5)
    found = decoder.decode(patches, Decoding(beam_size=40, max_length=3))
    for study in range(2):
        reports = [[a, b, c] for a in range(4) for b in range(4) for c in range(4) if (a or not b + c) and (b or not c)]
        scores = [log_prob_of(decoder, patches[study], report) for report in reports]
        assert found.tokens[study, 0].tolist() == reports[max(range(len(scores)), key=scores.__getitem__)]


@every_bridge
@every_family
@torch.no_grad()
def test_padding_batch_mates_and_masked_patches_change_nothing(family: str, bridge: str) -> None:
    decoder, patches = make(family, bridge).eval(), torch.randn(3, 4, 5)
    together = decoder.states(patches, TOKENS)
    for study, length in enumerate((6, 3, 7)):
        alone = decoder.states(patches[study : study + 1], TOKENS[study : study + 1, :length])[0]
        torch.testing.assert_close(together[study, : length - 1], alone, atol=1e-4, rtol=1e-4)
    wide, mask = torch.cat([9 * torch.randn(3, 2, 5), patches], dim=1), (torch.arange(6) > 1).expand(3, -1)
    torch.testing.assert_close(decoder.states(wide, TOKENS, patch_mask=mask), together, atol=1e-4, rtol=1e-4)


@every_family
def test_the_image_does_not_reach_the_text(family: str) -> None:
    decoder, patches = make(family, "queries"), torch.randn(3, 4, 5, requires_grad=True)
    features = decoder.text_states(TOKENS).sum() + decoder.word_embeddings(TOKENS).sum()
    features.backward()
    assert all(parameter.grad is None for parameter in decoder.bridge.parameters())
    decoder.states(patches, TOKENS).sum().backward()
    assert all(parameter.grad is not None for parameter in decoder.bridge.parameters())
    rows = decoder.model.get_input_embeddings()(torch.tensor([2, 0, 5, 1, 6, 6]))
    torch.testing.assert_close(decoder.word_embeddings(TOKENS)[0], rows)


@every_family
def test_no_gradient_into_frozen_weights(family: str) -> None:
    decoder = make(family, adapt="frozen")
    loss_of(decoder, torch.randn(3, 4, 5)).backward()
    assert {name.split(".")[0] for name in gradients(decoder)} == {"start", "begin", "bridge"}
    assert all(value.abs().sum() > 0 for value in gradients(decoder).values())


@every_family
def test_lora_trains_adapters_only(family: str) -> None:
    pytest.importorskip("peft")
    decoder, patches = make(family, adapt="lora", lora={"r": 2}), torch.randn(3, 4, 5)
    before = {name: parameter.detach().clone() for name, parameter in decoder.named_parameters()}
    optimizer = torch.optim.Adam([p for p in decoder.parameters() if p.requires_grad], lr=0.01)
    for _ in range(2):  # B starts at zero: A moves from the second step on
        optimizer.zero_grad()
        loss_of(decoder, patches).backward()
        optimizer.step()
    moved = {name for name, parameter in decoder.named_parameters() if not parameter.equal(before[name])}
    assert moved == {name for name in before if "lora_" in name or not name.startswith("model.")}
    assert any("lora_A" in name for name in moved)


def test_lora_trains_biases_where_asked_to_and_not_in_half_precision(tmp_path: Path) -> None:
    pytest.importorskip("peft")
    decoder = make("gpt2", adapt="lora", lora={"r": 2, "bias": "all"})
    trained = {name for name, parameter in decoder.model.named_parameters() if parameter.requires_grad}
    assert trained == {name for name, _ in decoder.model.named_parameters() if "lora_" in name or name.endswith("bias")}
    options = {"config": None, "name_or_path": str(save(tmp_path, "gpt2")), "vocab_size": 7, "adapt": "lora"}
    with pytest.raises(UserError, match=r"lora: .*bias would be trained in bfloat16"):
        make("gpt2", **options, lora={"bias": "all"}, dtype="bfloat16")


@every_family
@pytest.mark.parametrize("adapt", ["frozen", "lora", "full"])
def test_gradient_checkpointing_changes_no_gradient(family: str, adapt: str) -> None:
    plain, patches = make(family, adapt=adapt), torch.randn(3, 4, 5)
    checkpointed = make(family, adapt=adapt, gradient_checkpointing=True)
    checkpointed.load_state_dict(plain.state_dict())
    for decoder in (plain, checkpointed):
        for module in decoder.modules():
            module.p = 0.0 if isinstance(module, torch.nn.Dropout) else getattr(module, "p", None)
        loss_of(decoder, patches).backward()
    assert any(getattr(module, "gradient_checkpointing", False) for module in checkpointed.model.modules())
    expected, found = gradients(plain), gradients(checkpointed)
    assert expected.keys() == found.keys()
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], atol=1e-6, rtol=1e-5, msg=name)


@pytest.mark.parametrize("adapt", ["frozen", "lora"])
@every_family
def test_a_checkpoint_holds_trained_weights_and_names_the_rest(family: str, adapt: str, tmp_path: Path) -> None:
    folder = str(save(tmp_path / "lm", family))
    options = {"config": None, "name_or_path": folder, "adapt": adapt, "vocab_size": 7}
    decoder, patches = make(family, **options).eval(), torch.randn(3, 4, 5)
    with torch.no_grad():
        for parameter in decoder.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1)
    whole = torch.nn.ModuleDict({"decoder": decoder})  # a part of a module, as in a checkpoint
    state = whole.state_dict()
    trained = {f"decoder.{name}" for name, parameter in decoder.named_parameters() if parameter.requires_grad}
    assert state.keys() == trained
    rebuilt = make(family, **options, **decoder.settings, seed=9).eval()
    torch.nn.ModuleDict({"decoder": rebuilt}).load_state_dict(state)
    assert rebuilt.log_probs(patches, TOKENS).equal(decoder.log_probs(patches, TOKENS))

    save(tmp_path / "lm", family, initializer_range=0.5)
    with pytest.raises(UserError, match="they are others"):
        make(family, **options, **decoder.settings)
    with pytest.raises(UserError, match=r"of '.*lm' that training started from, but they are others"):
        make(family, **options).check_settings(decoder.settings)
    decoder.check_settings(decoder.settings)
    decoder.check_settings({})  # of a decoder that leaves nothing out


def test_one_changed_value_changes_the_checksum_and_half_precision_does_not() -> None:
    torch.manual_seed(0)
    module = torch.nn.ModuleList([torch.nn.Embedding(70, 51), torch.nn.Linear(3, 1)])
    expected = weights_checksum(module)
    assert weights_checksum(copy.deepcopy(module).bfloat16()) == expected
    for name, count in (("0.weight", 70 * 51), ("1.weight", 3), ("1.bias", 1)):
        for index in {0, 1, count // 2, count - 2, count - 1} & set(range(count)):
            other = copy.deepcopy(module)
            with torch.no_grad():
                other.get_parameter(name).flatten()[index] += 0.1
            assert weights_checksum(other) != expected, (name, index)
    order = copy.deepcopy(module)
    order[0].weight.data = order[0].weight.data.flip(0)  # the sum alone is the same
    assert weights_checksum(order) != expected


@every_family
@torch.no_grad()
def test_a_trained_whole_model_needs_no_folder(family: str, tmp_path: Path) -> None:
    folder = str(save(tmp_path, family))
    decoder = make(family, config=None, name_or_path=folder, vocab_size=7, prompt=[3]).eval()
    rebuilt = make(family, **{"vocab_size": 7, **decoder.settings}).eval()
    rebuilt.load_state_dict(decoder.state_dict())
    patches = torch.randn(3, 4, 5)
    assert rebuilt.log_probs(patches, TOKENS).equal(decoder.log_probs(patches, TOKENS))


@torch.no_grad()
def test_frozen_random_weights_are_kept() -> None:
    decoder = make(adapt="frozen").eval()
    rebuilt = make(adapt="frozen", seed=9, **decoder.settings, bridge="linear").eval()
    rebuilt.load_state_dict(decoder.state_dict())
    patches = torch.randn(3, 4, 5)
    assert rebuilt.log_probs(patches, TOKENS).equal(decoder.log_probs(patches, TOKENS))


@torch.no_grad()
def test_a_pretrained_model_ends_with_its_own_token(tmp_path: Path) -> None:
    decoder = make(config=None, name_or_path=str(save(tmp_path)), vocab_size=7).eval()
    patches = torch.randn(3, 4, 5)
    found = decoder.log_probs(patches, TOKENS)
    rows = decoder.model.get_output_embeddings()(decoder.states(patches, TOKENS))[..., :7]  # row 7 pads the vocabulary
    expected = rows.log_softmax(-1)
    torch.testing.assert_close(found[..., [1, 0, 3, 4, 5, 6, 7]], expected[..., [0, 1, 2, 3, 4, 5, 6]])
    assert (found[..., 2].exp() == 0).all()  # row 1 is the end
    sampled = decoder.decode(patches, Decoding(sample=True, num_return=50, max_length=8)).tokens
    assert not (sampled == 2).any()
    assert set(sampled.unique().tolist()) <= {0, 1, 3, 4, 5, 6, 7}


def test_bfloat16_keeps_what_is_trained_in_float32(tmp_path: Path) -> None:
    pytest.importorskip("peft")
    options = {"config": None, "name_or_path": str(save(tmp_path)), "vocab_size": 7, "adapt": "lora"}
    half, full = make(**options, dtype="bfloat16"), make(**options)
    assert {p.dtype for p in half.parameters() if p.requires_grad} == {torch.float32}
    assert {p.dtype for p in half.parameters() if not p.requires_grad} == {torch.bfloat16}
    patches = torch.randn(3, 4, 5)
    found, expected = half.log_probs(patches, TOKENS), full.log_probs(patches, TOKENS)
    assert found.dtype == half.text_states(TOKENS).dtype == half.word_embeddings(TOKENS).dtype == torch.float32
    assert (found - expected).clamp(min=-30).abs().mean() < 0.1
    loss_of(half, patches).backward()
    assert all(value.isfinite().all() for value in gradients(half).values())
    assert half.generate(patches, max_length=4).shape == (3, 4)


@every_bridge
@every_family
def test_attention_maps(family: str, bridge: str) -> None:
    decoder, patches = make(family, bridge), torch.randn(3, 4, 5)
    implementation = decoder.model.config._attn_implementation
    maps = decoder.attention_maps(patches, TOKENS, patch_mask=PATCH_MASK)
    assert maps.shape == (3, 2, 2, 6, 4)
    torch.testing.assert_close(maps.sum(-1), torch.ones(3, 2, 2, 6))
    assert not maps[1][..., ~PATCH_MASK[1]].any()
    assert maps.equal(decoder.attention_maps(patches, TOKENS, patch_mask=PATCH_MASK))  # no dropout
    assert all(module.training for module in decoder.modules())
    assert decoder.model.config._attn_implementation == implementation
    decoded = pickle.loads(pickle.dumps(decoder)).decode(patches, Decoding(max_length=5), attention=True)
    assert decoded.attention.shape == (3, 1, 2, 2, 5, 4)
    assert copy.deepcopy(decoder).settings == decoder.settings


@torch.no_grad()
def test_query_tokens_attend_to_patches_by_way_of_their_own_attention() -> None:
    decoder, patches = make(bridge="queries").eval(), 3 * torch.randn(3, 4, 5)
    prefix, mask = decoder._prefix(patches, PATCH_MASK)
    decoder.model.set_attn_implementation("eager")
    own = decoder.model.base_model(**decoder._inputs(prefix, mask, TOKENS), output_attentions=True).attentions
    maps = decoder.attention_maps(patches, TOKENS, patch_mask=PATCH_MASK)
    bridge = decoder.bridge
    for study, present in enumerate(([0, 1, 2, 3], [1, 3], [0, 1, 2, 3])):
        keys = bridge.attention.key(bridge.project(patches[study])).view(4, 2, 8)
        queries = bridge.attention.query(bridge.queries).view(3, 2, 8)
        by_query = torch.zeros(3, 4)  # the mean over two heads
        for query, head in ((query, head) for query in range(3) for head in range(2)):
            scores = keys[present, head] @ queries[query, head] / 8**0.5
            by_query[query, present] += scores.softmax(0) / 2
        for layer, head, position in ((0, 0, 0), (1, 1, 2), (1, 0, 5)):
            # start, a row before the image, three queries, begin
            to_queries = own[layer][study, head, 5 + position, 2:5]
            expected = (to_queries[:, None] * by_query).sum(0) / to_queries.sum()
            torch.testing.assert_close(maps[study, layer, head, position], expected, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_a_sliding_window_that_has_left_the_image_shows_none_of_it() -> None:
    decoder = make(config={**CONFIGS["gemma2"], "sliding_window": 4})  # of the first layer
    sums = decoder.attention_maps(torch.randn(1, 4, 5), TOKENS[:1]).sum(-1)[0, :, 0]
    torch.testing.assert_close(sums, torch.tensor([[1.0, 1.0, 1.0, 0.0, 0.0, 0.0], [1.0] * 6]))


def test_a_chat_template_puts_the_image_into_the_users_turn(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = ["user", "assistant", "describe", "it", "?", "no", "effusion"]
    backend = Tokenizer(models.WordLevel({word: row for row, word in enumerate(words)}, unk_token="?"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="?")
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m.role }} {{ m.content }} {% endfor %}"
        "{% if add_generation_prompt %}assistant{% endif %}"
    )
    tokenizer.save_pretrained(save(tmp_path))
    options = {"config": None, "name_or_path": str(tmp_path), "vocab_size": 7, "prompt": "describe it"}
    chat, plain = make(**options, chat=True), make(**options)
    assert (chat._before, chat._after) == ([0], [2, 3, 1])
    assert (plain._before, plain._after) == ([], [2, 3])
    tokenizer.chat_template = "{{ messages[0].role }}"
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(
        UserError, match=r"with a chat template under .*, but the template shows the user's turn 0 times"
    ):
        make(**options, chat=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"adapt": "half"}, "backbone.adapt: expected frozen, lora, full, but got 'half'"),
        ({"bridge": "linear", "queries": 0}, "backbone.queries: expected a positive integer"),
        ({"dtype": "bfloat16"}, "frozen pretrained weights"),
        ({"prompt": "describe"}, "has no tokenizer of its own"),
        ({"prompt": [7]}, r"expected rows in \[0, 7\)"),
        ({"config": None, "name_or_path": "nowhere"}, "nowhere"),
        ({"adapt": "lora", "lora": {"rank": 3}}, "arguments of peft.LoraConfig"),
        ({"bridge": "queries", "bridge_heads": 3}, "backbone.bridge_heads: expected a divisor of 16, .* but got 3"),
        ({"config": {"model_type": "gemma3"}}, "a language model alone, but a gemma3 has"),
        ({"config": BERT}, "BertLMHeadModel is built differently"),
        # both scale their logits, which new models have small
        (
            {"config": {"model_type": "granite", **SIZES, "logits_scaling": 1.02}},
            "GraniteForCausalLM is built differently",
        ),
        ({"config": {"model_type": "cohere", **SIZES}}, "CohereForCausalLM is built differently"),
    ],
)
def test_errors(options: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        make(**options)


def test_more_positions_than_the_model_has() -> None:
    decoder = make(config={**CONFIGS["llama"], "max_position_embeddings": 8})
    with pytest.raises(UserError, match="at most 8 positions"):
        decoder.log_probs(torch.randn(3, 4, 5), TOKENS)


def test_without_peft_it_says_what_to_install(monkeypatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "peft", None)
    with pytest.raises(UserError, match=r"pip install 'hardneg-plugin\[peft\]'"):
        make(adapt="lora")


def test_another_vocabulary_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="tokenizer=huggingface"):
        make(config=None, name_or_path=str(save(tmp_path)), vocab_size=9)
    padded = str(save(tmp_path, rows=5100))  # as Phi-2 pads its vocabulary
    assert (
        make(config=None, name_or_path=padded, vocab_size=5000).log_probs(torch.randn(3, 4, 5), TOKENS).shape[-1]
        == 5001
    )
    with pytest.raises(UserError, match="5100 rows, but the tokenizer has 4999 tokens"):
        make(config=None, name_or_path=padded, vocab_size=4999)
