"""A training that diverges ends with one line; its checkpoints stay whole, and it can be resumed from them."""

import re

import pytest
import torch

from hardneg_plugin.divergence import not_finite


@pytest.mark.parametrize("processes", [1, 2])
def test_a_training_that_diverges_ends_in_a_line_and_can_be_resumed(
    cli, tiny, two_processes, fault, tmp_path, read_json, processes
):
    run, whole = tmp_path / "run", tmp_path / "whole"
    settings = [
        *tiny,
        f"data.batch_size={4 // processes}",
        "trainer.max_epochs=2",
        "callbacks.divergence.every_n_steps=2",
    ]
    # the bare host: a contrast would spread NaN to the losses of all ranks
    settings += [*two_processes, "model=host"] if processes == 2 else []
    # six steps an epoch; from the ninth on NaN, on the last rank
    diverged = cli("hardneg-train", *settings, f"hydra.run.dir={run}", fault("not_finite", processes - 1, 8))
    assert diverged.code == 2
    assert diverged.err.count("\n") == 1, diverged.err
    said = re.fullmatch(
        r"hardneg-train: error: Training diverged: the loss was not finite in 3 steps in a row, the first of them step 9 in epoch "
        rf"2, with the studies (.*)\. {run}/checkpoints/last\.ckpt is whole, from step 6 in epoch 1\. Look at these studies; a "
        r"smaller trainer\.gradient_clip_val or trainer\.precision=32-true may help\. "
        rf"Resume with: hardneg-train resume={run} trust=true\n",
        diverged.err,
    )
    assert said, diverged.err
    studies = said[1].split(", ")
    assert len(studies) == len(set(studies)) == 4 // processes  # of the rank whose loss it was
    assert all(study.startswith("phantom-train-") for study in studies)
    assert not (run / "metrics.json").exists()
    for name in ("best", "last"):
        content = torch.load(run / f"checkpoints/{name}.ckpt", weights_only=True)
        assert content["global_step"] == 6
        assert not_finite(content) == []
    assert {path.name for path in (run / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}

    resumed = cli("hardneg-train", f"resume={run}", "trust=true", "callbacks.fault.kind=none")
    assert resumed.code == 0, resumed.err
    if processes == 1:
        assert cli("hardneg-train", *settings, f"hydra.run.dir={whole}").code == 0
        assert read_json(run / "metrics.json")["test"] == read_json(whole / "metrics.json")["test"]
        wrong = cli("hardneg-train", *settings, f"hydra.run.dir={tmp_path}/never", fault("not_finite", 0, 0))
        assert wrong.code == 2
        assert wrong.err.endswith(
            " No checkpoint was written before. Look at these studies, and train again with a lower optimizer.lr.\n"
        )
