"""Hard negatives in Hugging Face's Trainer: a LLaVA of CLIP and Llama with LoRA, both small and untrained.

The vision tower and the language model are frozen; the projector between them, the adapters and the objective's heads are
trained (less than a minute on a CPU, no download). It needs `pip install hardneg-plugin[hf]`.
"""

import tempfile

import torch
from peft import LoraConfig, get_peft_model
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)
from wrap_your_module import built_in_studies

from hardneg_plugin import Feature, HardNegativeObjective
from hardneg_plugin.hf import HardNegativeTrainer
from hardneg_plugin.objectives import Queue, Weights

PATCHES = 16  # an image of 64 by 64 in patches of 16


def llava_with_lora(vocab_size):
    """Image tokens stand before the report; the model takes the loss of the report's tokens."""
    size = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(image_size=64, patch_size=16, num_channels=1, projection_dim=64, **size),
        text_config=LlamaConfig(vocab_size=vocab_size + 2, **size),
        image_token_id=vocab_size + 1,
        image_seq_length=PATCHES,
    )
    lora = LoraConfig(
        r=8,
        target_modules=r".*language_model.*\.(q_proj|v_proj)",
        modules_to_save=["multi_modal_projector"],  # trained as a whole
    )
    return get_peft_model(LlavaForConditionalGeneration(config), lora)


class Collate:
    """A collator of yours: the model's inputs, and beside them what tells studies apart."""

    def __init__(self, loader, image_token):
        self.collate, self.image_token = loader.collate_fn, image_token
        self.mean_image = torch.stack([study["images"][0] for study in loader.dataset]).float().mean(0)

    def __call__(self, studies):
        batch = self.collate(studies)
        tokens, mask = batch["tokens"], batch["token_mask"]
        image_tokens = tokens.new_full((len(tokens), PATCHES), self.image_token)
        return {
            "pixel_values": (batch["images"][:, 0] - self.mean_image) / 16,
            "input_ids": torch.cat([image_tokens, tokens], dim=1),
            "attention_mask": torch.cat([torch.ones_like(image_tokens), mask.long()], dim=1),
            "labels": torch.cat([torch.full_like(image_tokens, -100), tokens.masked_fill(~mask, -100)], dim=1),
            "report_mask": mask,
            "study_id": batch["ids"],
            "report": batch["references"],
        }


class Watch(TrainerCallback):
    """Print after each epoch how much closer images are to positives than to hard negatives."""

    def on_log(self, args, state, control, logs=None, **kwargs):
        if "positive_similarity" in logs:
            print(
                f"epoch {round(state.epoch) - 1}: positive closer than the hard negative by "
                f"{logs['positive_similarity'] - logs['negative_similarity']:+.3f}, hardness {logs['hardness']:.2f}, "
                f"report loss {logs['report_loss']:.2f}"
            )


def main() -> None:
    set_seed(1)
    loader, tokenizer = built_in_studies()
    with tempfile.TemporaryDirectory() as folder:
        trainer = HardNegativeTrainer(
            model=llava_with_lora(tokenizer.vocab_size),
            args=TrainingArguments(
                folder,
                num_train_epochs=8,
                per_device_train_batch_size=32,
                learning_rate=3e-3,
                lr_scheduler_type="constant",
                logging_strategy="epoch",
                save_strategy="no",
                remove_unused_columns=False,  # the collator makes the model's inputs
                report_to="none",
                disable_tqdm=True,
                use_cpu=True,
            ),
            train_dataset=loader.dataset,
            data_collator=Collate(loader, image_token=tokenizer.vocab_size + 1),
            callbacks=[Watch()],
            hard_negatives=HardNegativeObjective(
                image_width=64, report_width=64, width=32, negatives=Queue(size=64), weights=Weights(alignment=1.0)
            ),
            images="model.multi_modal_projector",  # (B, 16, 64): the mean over patches
            # (B, 16 + T, 64): word embeddings, without the image; the mask counts for the last T
            reports=Feature("model.language_model.embed_tokens", align="right"),
            report_mask="batch.report_mask",
            study_ids="batch.study_id",
            texts="batch.report",
        )
        trainer.train()


if __name__ == "__main__":
    main()
