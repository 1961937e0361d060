"""Hard negatives around a Hugging Face model: a ViT encoder and a BERT decoder, both small and untrained.

Features are read inside the model by the paths of transformers. Negatives come from a queue of the latest reports, not only
from the batch (less than a minute on a CPU, no download).
"""

import pytorch_lightning as pl
import torch
from transformers import BertConfig, VisionEncoderDecoderConfig, VisionEncoderDecoderModel, ViTConfig
from wrap_your_module import built_in_studies, train

from hardneg_plugin import HardNegativeObjective, plug_in
from hardneg_plugin.objectives import Queue, Weights


class HuggingFaceCaptioner(pl.LightningModule):
    """A module of yours, which returns the model's loss and nothing else."""

    def __init__(self, vocab_size: int, mean_image: torch.Tensor) -> None:
        super().__init__()
        size = {
            "hidden_size": 64,
            "num_attention_heads": 4,
            "intermediate_size": 128,
            "num_hidden_layers": 1,
            "hidden_dropout_prob": 0.0,
        }
        vit = ViTConfig(image_size=64, patch_size=16, num_channels=1, **size)
        bert = BertConfig(
            vocab_size=vocab_size + 1, is_decoder=True, add_cross_attention=True, pad_token_id=None, **size
        )
        self.model = VisionEncoderDecoderModel(VisionEncoderDecoderConfig.from_encoder_decoder_configs(vit, bert))
        self.register_buffer("mean_image", mean_image)

    def training_step(self, batch, batch_idx):
        mask = batch["token_mask"][:, 1:]
        return self.model(
            pixel_values=(batch["images"][:, 0] - self.mean_image) / 16,
            decoder_input_ids=batch["tokens"][:, :-1],
            decoder_attention_mask=mask,
            labels=batch["tokens"][:, 1:].masked_fill(~mask, -100),
        ).loss

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=5e-4)


def main() -> None:
    pl.seed_everything(1, verbose=False)
    loader, tokenizer = built_in_studies()
    mean_image = torch.stack([study["images"][0] for study in loader.dataset]).float().mean(0)
    model = HuggingFaceCaptioner(tokenizer.vocab_size, mean_image)
    plug_in(
        model,
        HardNegativeObjective(
            image_width=64, report_width=64, width=32, negatives=Queue(size=64), weights=Weights(alignment=1.0)
        ),
        images="model.encoder.last_hidden_state",  # (B, P, 64): the mean over patches
        # (B, T, 64): word embeddings, without the image. The states "model.decoder.bert.last_hidden_state" attend to the image, so
        # the alignment could be learned without the words.
        reports="model.decoder.bert.embeddings",
        report_mask=lambda batch, outputs: batch["token_mask"][:, 1:],
        study_ids="batch.ids",  # by which the queue recognises an earlier embedding of a study
        texts="batch.references",
    )
    train(model, loader, epochs=10)


if __name__ == "__main__":
    main()
