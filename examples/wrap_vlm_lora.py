"""Hard negatives around a vision-language model with LoRA: a LLaVA of CLIP and Llama, both small and untrained.

The vision tower and the language model are frozen; the projector between them, the adapters and the objective's heads are
trained (less than a minute on a CPU, no download). It needs `pip install peft`.
"""

import pytorch_lightning as pl
import torch
from peft import LoraConfig, get_peft_model
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration
from wrap_your_module import built_in_studies, train

from hardneg_plugin import Feature, HardNegativeObjective, plug_in
from hardneg_plugin.objectives import Queue, Weights

PATCHES = 16  # an image of 64 by 64 in patches of 16


class LlavaWithLora(pl.LightningModule):
    """A module of yours: image tokens stand before the report, and the loss is that of the report's tokens."""

    def __init__(self, vocab_size: int, mean_image: torch.Tensor) -> None:
        super().__init__()
        self.image_token = vocab_size + 1
        size = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
        config = LlavaConfig(
            vision_config=CLIPVisionConfig(image_size=64, patch_size=16, num_channels=1, projection_dim=64, **size),
            text_config=LlamaConfig(vocab_size=vocab_size + 2, **size),
            image_token_id=self.image_token,
            image_seq_length=PATCHES,
        )
        lora = LoraConfig(
            r=8,
            target_modules=r".*language_model.*\.(q_proj|v_proj)",
            modules_to_save=["multi_modal_projector"],  # trained as a whole
        )
        self.model = get_peft_model(LlavaForConditionalGeneration(config), lora)
        self.register_buffer("mean_image", mean_image)

    def training_step(self, batch, batch_idx):
        tokens, mask = batch["tokens"], batch["token_mask"]
        image_tokens = tokens.new_full((len(tokens), PATCHES), self.image_token)
        return self.model(
            pixel_values=(batch["images"][:, 0] - self.mean_image) / 16,
            input_ids=torch.cat([image_tokens, tokens], dim=1),
            attention_mask=torch.cat([torch.ones_like(image_tokens), mask.long()], dim=1),
            labels=torch.cat([torch.full_like(image_tokens, -100), tokens.masked_fill(~mask, -100)], dim=1),
        ).loss

    def configure_optimizers(self):
        return torch.optim.AdamW([p for p in self.parameters() if p.requires_grad], lr=3e-3)


def main() -> None:
    pl.seed_everything(1, verbose=False)
    loader, tokenizer = built_in_studies()
    mean_image = torch.stack([study["images"][0] for study in loader.dataset]).float().mean(0)
    model = LlavaWithLora(tokenizer.vocab_size, mean_image)
    plug_in(
        model,
        HardNegativeObjective(
            image_width=64, report_width=64, width=32, negatives=Queue(size=64), weights=Weights(alignment=1.0)
        ),
        images="model.base_model.model.model.multi_modal_projector",  # (B, 16, 64): the mean over patches
        # (B, 16 + T, 64): word embeddings, without the image; the mask counts for the last T
        reports=Feature("model.base_model.model.model.language_model.embed_tokens", align="right"),
        report_mask="batch.token_mask",
        study_ids="batch.ids",
        texts="batch.references",
    )
    train(model, loader, epochs=8)


if __name__ == "__main__":
    main()
