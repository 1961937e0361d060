"""Small modules that call their parts as published report generators do. The code is our own; names and calls are theirs."""

from argparse import Namespace

import lightning.pytorch as lightning
import pytorch_lightning
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader
from transformers import (
    BertConfig,
    BertLMHeadModel,
    CLIPVisionConfig,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PreTrainedTokenizerFast,
    SwinConfig,
    SwinModel,
)
from transformers.modeling_outputs import BaseModelOutput
from transformers.utils import ModelOutput

TEXT = "the heart is large small normal left right lung clear opaque effusion . prompt :"
WORDS = TEXT.split()
SPECIAL = ["[PAD]", "[BOS]", "[EOS]", "[SEP]", "[UNK]"]
IMAGE, VIEWS, SIZE, WIDTH = len(SPECIAL), 2, 16, 16
NO_LABEL = -100


def tokenizer():
    """Words of the studies below, as a tokenizer of transformers."""
    vocabulary = {word: number for number, word in enumerate([*SPECIAL, "[IMG]", *WORDS])}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    names = ("pad_token", "bos_token", "eos_token", "sep_token", "unk_token")
    return PreTrainedTokenizerFast(tokenizer_object=words, **dict(zip(names, SPECIAL, strict=True)))


def studies(count=8):
    """Studies of two images and a report of 4 to 8 words in two parts."""
    random = torch.Generator().manual_seed(5)
    made = []
    for number in range(count):
        words = [WORDS[i] for i in torch.randint(13, (4 + number % 5,), generator=random)]
        images = torch.randn(VIEWS, 1, SIZE, SIZE, generator=random)
        made.append(
            {"id": f"s{number}", "images": images, "findings": " ".join(words[:-2]), "impression": " ".join(words[-2:])}
        )
    return made


def loader(collate, batch_size=8):
    return DataLoader(studies(), batch_size=batch_size, collate_fn=collate)


def vocabulary_size():
    return len(SPECIAL) + 1 + len(WORDS)


class R2GenGPT(lightning.LightningModule):
    """Encodes an image at a time; prompt, image and report are embeddings in front of one another in a language model."""

    def __init__(self, args):
        super().__init__()
        self.save_hyperparameters(args)
        swin = SwinConfig(
            image_size=SIZE, patch_size=4, num_channels=1, embed_dim=8, depths=[1, 1], num_heads=[1, 2], window_size=2
        )
        self.visual_encoder = SwinModel(swin)
        self.llama_tokenizer = tokenizer()
        llama = LlamaConfig(
            vocab_size=vocabulary_size(),
            hidden_size=WIDTH,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            attention_dropout=0.1,
        )
        self.llama_model = LlamaForCausalLM(llama)
        self.embed_tokens = self.llama_model.get_input_embeddings()
        if args.llm_use_lora:
            from peft import LoraConfig, get_peft_model

            self.llama_model = get_peft_model(self.llama_model, LoraConfig(task_type="CAUSAL_LM", r=2))
        else:
            self.llama_model.requires_grad_(False)
        self.llama_proj = nn.Linear(self.visual_encoder.num_features, WIDTH)
        self.layer_norm = nn.LayerNorm(WIDTH)
        self.end_sym = " [EOS]"

    def embedded(self, text, studies):
        """The prompt's embeddings, the same for all studies."""
        ids = self.llama_tokenizer(text, return_tensors="pt", add_special_tokens=False).input_ids.to(self.device)
        return self.embed_tokens(ids).expand(studies, -1, -1)

    def forward(self, samples):
        views = [self.visual_encoder(image)["last_hidden_state"] for image in samples["image"]]
        image = self.layer_norm(self.llama_proj(torch.stack(views).mean(0)))
        count = len(image)
        before, after = self.embedded("prompt :", count), self.embedded("the lung : ", count)
        tokens = self.llama_tokenizer(
            [text + self.end_sym for text in samples["input_text"]],
            return_tensors="pt",
            padding="max_length",
            truncation=True,
            max_length=self.hparams["max_length"],
            add_special_tokens=False,
        ).to(self.device)
        start = self.embed_tokens(torch.full((count, 1), self.llama_tokenizer.bos_token_id, device=self.device))
        prefix = torch.cat([start, before, image, after], dim=1)
        text = self.embed_tokens(tokens.input_ids)
        ignored = torch.full(prefix.shape[:2], NO_LABEL, device=self.device)
        return self.llama_model(
            inputs_embeds=torch.cat([prefix, text], dim=1),
            attention_mask=torch.cat([torch.ones_like(ignored), tokens.attention_mask], dim=1),
            labels=torch.cat([ignored, tokens.input_ids.masked_fill(tokens.attention_mask == 0, NO_LABEL)], dim=1),
        )

    def training_step(self, batch, batch_idx):
        result = {"loss": self(batch).loss}
        self.log_dict(result)
        return result

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.parameters(), lr=0.01)
        return {"optimizer": optimizer, "lr_scheduler": torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=60)}


def r2gengpt_arguments(lora=False):
    return Namespace(llm_use_lora=lora, max_length=11)


def r2gengpt_batch(studies):
    return {
        "id": [study["id"] for study in studies],
        "image": [torch.stack([study["images"][view] for study in studies]) for view in range(VIEWS)],
        "input_text": [f"{study['findings']} {study['impression']}" for study in studies],
    }


class Views(nn.Module):
    """Images of all studies in one row."""

    def forward(self, images):
        return {"images": images.flatten(0, 1), "images_per_example": images.shape[1]}


class ViewsOfAStudy(nn.Module):
    """Patches of a study's images in one row."""

    def forward(self, patches, images_per_example):
        return {"last_hidden_state": patches.unflatten(0, (-1, images_per_example)).flatten(1, 2)}


class Convolution(nn.Module):
    """A visual encoder whose patches come last."""

    def __init__(self, width):
        super().__init__()
        self.stage = nn.Conv2d(1, width, 8, 8)

    def forward(self, images):
        return {"last_hidden_state": self.stage(images).flatten(2)}


class PermuteAndProject(nn.Module):
    def __init__(self, width, projected):
        super().__init__()
        self.projection = nn.Linear(width, projected, bias=False)

    def forward(self, hidden):
        return {"projected_encoder_last_hidden_state": self.projection(hidden.permute(0, 2, 1))}


class DecoderOnly(nn.Module):
    """A language model with cross-attention, two names deep."""

    def __init__(self, decoder):
        super().__init__()
        self.encoder_decoder = nn.ModuleDict({"decoder": decoder})


class CvT2DistilGPT2(lightning.LightningModule):
    """Passes the patches of all views to GPT-2 with cross-attention; the batch is tokenized."""

    def __init__(self, encoder_lr, decoder_lr):
        super().__init__()
        self.save_hyperparameters()
        self.tokenizer = tokenizer()
        self.multi_input, self.multi_output = Views(), ViewsOfAStudy()
        self.encoder = Convolution(width=12)
        self.encoder_projection = PermuteAndProject(12, WIDTH)
        gpt2 = GPT2Config(
            vocab_size=vocabulary_size(), n_embd=WIDTH, n_layer=1, n_head=2, n_positions=32, add_cross_attention=True
        )
        self.decoder = DecoderOnly(GPT2LMHeadModel(gpt2))

    def encode(self, images):
        views = self.multi_input(images)
        patches = self.encoder_projection(self.encoder(views["images"])["last_hidden_state"])
        joined = self.multi_output(patches["projected_encoder_last_hidden_state"], views["images_per_example"])
        return BaseModelOutput(last_hidden_state=joined["last_hidden_state"])

    def training_step(self, batch, batch_idx):
        logits = self.decoder.encoder_decoder["decoder"](
            input_ids=batch["decoder_input_ids"],
            attention_mask=batch["decoder_attention_mask"],
            encoder_hidden_states=self.encode(batch["encoder_images"]).last_hidden_state,
        ).logits
        loss = cross_entropy(logits.permute(0, 2, 1), batch["label_ids"], ignore_index=self.tokenizer.pad_token_id)
        self.log_dict({"train_loss": loss}, on_step=True, on_epoch=True, batch_size=len(logits))
        return loss

    def configure_optimizers(self):
        groups = [
            {"params": self.encoder.parameters(), "lr": self.hparams["encoder_lr"]},
            {"params": self.encoder_projection.parameters(), "lr": self.hparams["decoder_lr"]},
            {"params": self.decoder.parameters(), "lr": self.hparams["decoder_lr"]},
        ]
        return {"optimizer": torch.optim.AdamW(groups, lr=self.hparams["decoder_lr"])}


def shifted(texts, words):
    """Inputs, their mask and labels of teacher forcing; the mask counts the start and not the end."""
    tokens = words(texts, padding="longest", return_tensors="pt", add_special_tokens=False)
    return {
        "decoder_input_ids": tokens.input_ids[:, :-1],
        "decoder_attention_mask": tokens.attention_mask[:, 1:],
        "label_ids": tokens.input_ids[:, 1:].clone(),
    }


def cvt2distilgpt2_batch(studies):
    texts = [f"[BOS] {study['findings']} {study['impression']} [EOS]" for study in studies]
    return {
        "id": [study["id"] for study in studies],
        "encoder_images": torch.stack([study["images"] for study in studies]),
        "labels": texts,
        **shifted(texts, tokenizer()),
    }


class MaskedConvolution(nn.Module):
    """Patches of all views; a view that is all zeros is padding, as the returned mask says."""

    def __init__(self, width):
        super().__init__()
        self.stage, self.projection_head = nn.Conv2d(1, width, 8, 8), nn.Linear(width, WIDTH, bias=False)

    def forward(self, pixel_values):
        patches = self.stage(pixel_values.flatten(0, 1)).flatten(2).permute(0, 2, 1)
        present = pixel_values[:, :, 0, 0, 0] != 0.0
        return ModelOutput(
            last_hidden_state=self.projection_head(patches).unflatten(0, pixel_values.shape[:2]).flatten(1, 2),
            attention_mask=present.repeat_interleave(patches.shape[1], dim=1),
        )


class MultiViewEncoderDecoder(nn.Module):
    """An encoder with a mask of its own, and BERT as decoder."""

    def __init__(self):
        super().__init__()
        self.encoder = MaskedConvolution(width=12)
        bert = BertConfig(
            vocab_size=vocabulary_size(),
            hidden_size=WIDTH,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=32,
            is_decoder=True,
            add_cross_attention=True,
        )
        self.decoder = BertLMHeadModel(bert)

    def tokenize_report_teacher_forcing(self, findings, impression, tokenizer, max_len):
        pairs = zip(findings, impression, strict=True)
        tokens = shifted([f"[BOS] {first} [SEP] {second} [EOS]" for first, second in pairs], tokenizer)
        device = next(self.parameters()).device
        return {name: value[:, :max_len].to(device) for name, value in tokens.items()}

    def forward(self, pixel_values, decoder_input_ids, decoder_attention_mask, decoder_token_type_ids):
        seen = self.encoder(pixel_values)
        return self.decoder(
            input_ids=decoder_input_ids,
            attention_mask=decoder_attention_mask,
            token_type_ids=decoder_token_type_ids,
            encoder_hidden_states=seen[0],
            encoder_attention_mask=seen.attention_mask,
        )


class CXRMate(lightning.LightningModule):
    """Studies of one or two views; two sections, tokenized in the step."""

    def __init__(self, decoder_max_len=16, lr=0.01):
        super().__init__()
        self.save_hyperparameters()
        self.decoder_max_len, self.lr = decoder_max_len, lr
        self.tokenizer = tokenizer()
        self.encoder_decoder = MultiViewEncoderDecoder()

    def training_step(self, batch, batch_idx):
        tokens = self.encoder_decoder.tokenize_report_teacher_forcing(
            batch["findings"], batch["impression"], self.tokenizer, self.decoder_max_len
        )
        inputs = tokens["decoder_input_ids"]
        second = (inputs == self.tokenizer.sep_token_id).cumsum(1)
        logits = self.encoder_decoder(batch["images"], inputs, tokens["decoder_attention_mask"], second).logits
        loss = cross_entropy(logits.permute(0, 2, 1), tokens["label_ids"], ignore_index=self.tokenizer.pad_token_id)
        self.log_dict({"train_loss": loss}, on_step=True, on_epoch=True, batch_size=len(logits))
        return loss

    def configure_optimizers(self):
        return {"optimizer": torch.optim.AdamW(self.parameters(), lr=self.lr)}


def cxrmate_batch(studies):
    images = torch.stack([study["images"] for study in studies])
    images[1::2, 1] = 0  # every other study has one view
    return {
        "images": images,
        "findings": [study["findings"] for study in studies],
        "impression": [study["impression"] for study in studies],
        "study_ids": [study["id"] for study in studies],
    }


class Llava(pytorch_lightning.LightningModule):
    """A wrapper around LLaVA: image tokens stand for patches, labels are those of the report, logits are of the next token."""

    def __init__(self, lora=False):
        super().__init__()
        self.save_hyperparameters()
        vision = CLIPVisionConfig(
            image_size=SIZE,
            patch_size=8,
            num_channels=1,
            hidden_size=WIDTH,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            projection_dim=WIDTH,
        )
        text = LlamaConfig(
            vocab_size=vocabulary_size(),
            hidden_size=24,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
        )
        self.model = LlavaForConditionalGeneration(
            LlavaConfig(
                vision_config=vision,
                text_config=text,
                image_token_index=IMAGE,
                image_token_id=IMAGE,
                image_seq_length=(SIZE // 8) ** 2,
            )
        )
        if lora:
            from peft import LoraConfig, get_peft_model

            targets = r".*language_model.*\.(q_proj|v_proj)"
            self.model = get_peft_model(
                self.model, LoraConfig(r=2, target_modules=targets, modules_to_save=["multi_modal_projector"])
            )

    def training_step(self, batch, batch_idx):
        inputs = {name: batch[name] for name in ("input_ids", "attention_mask", "pixel_values")}
        logits = self.model(**inputs).logits
        return cross_entropy(logits[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten(), ignore_index=NO_LABEL)

    def configure_optimizers(self):
        return torch.optim.AdamW([p for p in self.parameters() if p.requires_grad], lr=0.01)


def llava_batch(studies):
    words, patches = tokenizer(), (SIZE // 8) ** 2
    prompt = ["[BOS]", *["[IMG]"] * patches, "prompt", ":"]
    texts = [" ".join([*prompt, study["findings"], study["impression"], "[EOS]"]) for study in studies]
    tokens = words(texts, padding="longest", return_tensors="pt", add_special_tokens=False)
    labels = tokens.input_ids.masked_fill(tokens.attention_mask == 0, NO_LABEL)
    labels[:, : len(prompt)] = NO_LABEL
    return {
        "study_id": [study["id"] for study in studies],
        "pixel_values": torch.stack([study["images"][0] for study in studies]),
        "input_ids": tokens.input_ids,
        "attention_mask": tokens.attention_mask,
        "labels": labels,
    }


class OriginalLlava(pytorch_lightning.LightningModule):
    """As LLaVA's own code does it: the words of a study are looked up by themselves, without padding, and patches put between."""

    image_token = -200

    def __init__(self):
        super().__init__()
        self.model = nn.ModuleDict(
            {
                "vision_tower": nn.Conv2d(1, WIDTH, 8, 8),
                "mm_projector": nn.Linear(WIDTH, 24),
                "embed_tokens": nn.Embedding(vocabulary_size(), 24),
            }
        )
        llama = LlamaConfig(
            vocab_size=vocabulary_size(),
            hidden_size=24,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
        )
        self.language_model = LlamaForCausalLM(llama)

    def get_model(self):
        return self.model

    def training_step(self, batch, batch_idx):
        patches = self.model["mm_projector"](self.model["vision_tower"](batch["images"]).flatten(2).transpose(1, 2))
        studies = zip(batch["input_ids"], batch["labels"], batch["attention_mask"].bool(), patches, strict=True)
        embeddings, labels = zip(*(self.with_patches(*study) for study in studies), strict=True)
        return self.language_model(
            inputs_embeds=nn.utils.rnn.pad_sequence(embeddings, batch_first=True),
            labels=nn.utils.rnn.pad_sequence(labels, batch_first=True, padding_value=NO_LABEL),
        ).loss

    def with_patches(self, ids, labels, mask, patches):
        """The embeddings and labels of a study, with its patches where the image token was."""
        ids, labels = ids[mask], labels[mask]
        place = (ids == self.image_token).nonzero().item()
        words = self.model["embed_tokens"](torch.cat([ids[:place], ids[place + 1 :]]))
        ignored = labels.new_full((len(patches),), NO_LABEL)
        return (
            torch.cat([words[:place], patches, words[place:]]),
            torch.cat([labels[:place], ignored, labels[place + 1 :]]),
        )

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=0.01)


def original_llava_batch(studies):
    words, prompt = tokenizer(), ["[BOS]", "[IMG]", "prompt", ":"]
    texts = [" ".join([*prompt, study["findings"], study["impression"], "[EOS]"]) for study in studies]
    tokens = words(texts, padding="longest", return_tensors="pt", add_special_tokens=False)
    labels = tokens.input_ids.masked_fill(tokens.attention_mask == 0, NO_LABEL)
    labels[:, : len(prompt)] = NO_LABEL
    return {
        "id": [study["id"] for study in studies],
        "images": torch.stack([study["images"][0] for study in studies]),
        "input_ids": tokens.input_ids.masked_fill(tokens.input_ids == IMAGE, OriginalLlava.image_token),
        "attention_mask": tokens.attention_mask,
        "labels": labels,
    }


class ShowAndTell(pytorch_lightning.LightningModule):
    """A CNN and an LSTM that is fed a word at a time."""

    def __init__(self, lr=0.01):
        super().__init__()
        self.save_hyperparameters()
        self.cnn = nn.Sequential(nn.Conv2d(1, 12, 8, 8), nn.Dropout(0.1))
        self.start = nn.Linear(12, WIDTH)
        self.embedding = nn.Embedding(vocabulary_size(), WIDTH)
        self.cell, self.output = nn.LSTMCell(WIDTH, WIDTH), nn.Linear(WIDTH, vocabulary_size())

    def training_step(self, batch, batch_idx):
        images, words, mask = batch
        hidden = self.start(self.cnn(images).mean((2, 3)))
        state, losses = (hidden, hidden), []
        for position in range(words.shape[1] - 1):
            state = self.cell(self.embedding(words[:, position]), state)
            losses.append(cross_entropy(self.output(state[0]), words[:, position + 1], reduction="none"))
        counts = mask[:, 1:]
        return (torch.stack(losses, dim=1) * counts).sum() / counts.sum()

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=self.hparams["lr"])


def show_and_tell_batch(studies):
    texts = [f"[BOS] {study['findings']} {study['impression']} [EOS]" for study in studies]
    tokens = tokenizer()(texts, padding="longest", return_tensors="pt", add_special_tokens=False)
    return torch.stack([study["images"][0] for study in studies]), tokens.input_ids, tokens.attention_mask
