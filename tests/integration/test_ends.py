"""How commands end where a disk, a folder, a file or a split is not what it should be: a result, or one line."""

import pytest
import torch

SPLITS = {"val": "test", "test": "val"}


@pytest.mark.slow
@pytest.mark.parametrize("limited", SPLITS)
def test_a_split_without_batches_is_left_out(cli, tiny, tmp_path, read_json, limited):
    run, other = tmp_path / "run", SPLITS[limited]
    result = cli("hardneg-train", *tiny, f"trainer.limit_{limited}_batches=0", f"hydra.run.dir={run}")
    assert result.code == 0, result.err
    metrics = read_json(run / "metrics.json")
    assert metrics[other]["BLEU-1"] >= 0
    assert limited not in metrics | metrics["intervals"]
    assert [path.name for path in (run / "predictions").iterdir()] == [f"{other}.jsonl"]
    assert f"{other.capitalize()} split" in result.out
    assert metrics["checkpoint"] == (None if limited == "val" else "checkpoints/best.ckpt")


@pytest.mark.slow
def test_without_any_split_the_checkpoint_is_left(cli, tiny, tmp_path, read_json):
    run = tmp_path / "run"
    none = ["trainer.limit_val_batches=0", "trainer.limit_test_batches=0"]
    result = cli("hardneg-train", *tiny, *none, "baselines=true", f"hydra.run.dir={run}")
    assert result.code == 0, result.err
    metrics = read_json(run / "metrics.json")
    assert (metrics["intervals"], metrics["baselines"]) == ({}, {})
    assert torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 3
