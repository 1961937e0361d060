import json
from functools import partial

import pytest
import pytorch_lightning as pl
import torch
from lightning_fabric.utilities.distributed import DistributedSamplerWrapper
from pytorch_lightning.callbacks import ModelCheckpoint

from hardneg_plugin.data.datamodule import SeededShuffle, StudyDataModule
from hardneg_plugin.data.paired import PairedNegatives
from hardneg_plugin.data.tokenizer import WordTokenizer
from hardneg_plugin.errors import UserError

SIZES = {"train": 11, "val": 5, "test": 4}


class FakeStudies:
    """Studies whose one pixel is the augmentation's draw, or 0 without one."""

    def __init__(self, name):
        self.ids = [f"{name}{index}" for index in range(SIZES[name])]
        self.reports = [f"Report of {name} number {index}." for index in range(SIZES[name])]

    def __len__(self):
        return len(self.ids)

    def __getitem__(self, key):
        index, seed = key if isinstance(key, tuple) else (key, None)
        pixel = 0 if seed is None else torch.randint(1, 256, (), generator=torch.Generator().manual_seed(seed))
        images = torch.full((1, 1, 1, 1), int(pixel), dtype=torch.uint8)
        return {
            "id": self.ids[index],
            "images": images,
            "report": self.reports[index],
            "patient": None,
            "labels": None,
        }


class FakeSource:
    read_findings = None

    def __init__(self):
        self._splits = {name: FakeStudies(name) for name in SIZES}

    def split(self, name):
        return self._splits[name]


def make(**options):
    words = partial(WordTokenizer.from_reports, min_count=1)
    return StudyDataModule(FakeSource(), words, **{"batch_size": 4, "max_length": 10} | options)


def seen(loader):
    """What the batches show: ids and the draws of the augmentation."""
    return [(batch["ids"], batch["images"].flatten().tolist()) for batch in loader]


def seen_in_epoch(data, epoch):
    loader = data.train_dataloader()
    loader.sampler.set_epoch(epoch)
    return seen(loader)


class Recorder(pl.LightningModule):
    """Records what training sees; learns nothing."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.epochs = {}

    def training_step(self, batch, batch_idx):
        torch.rand(1)  # a model's dropout draws from the global state
        record = batch["ids"], batch["images"].flatten().tolist()
        self.epochs.setdefault(self.current_epoch, []).append(record)
        return self.weight * 0

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def train(data, epochs, checkpoint=None, **options):
    trainer = pl.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        enable_checkpointing="callbacks" in options,
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )
    model = Recorder()
    trainer.fit(model, datamodule=data, ckpt_path=checkpoint)
    return model.epochs


def test_every_study_comes_once_per_epoch_under_seeds_of_its_own():
    sampler = SeededShuffle(50, seed=3)
    keys = {}
    for epoch in range(4):
        sampler.set_epoch(epoch)
        keys[epoch] = list(sampler)
        assert keys[epoch] == list(sampler)
        assert sorted(index for index, _ in keys[epoch]) == list(range(50))
        assert all(0 <= seed < 2**63 for _, seed in keys[epoch])
    assert len(sampler) == 50
    assert len({tuple(index for index, _ in epoch) for epoch in keys.values()}) == 4
    assert len({seed for epoch in keys.values() for _, seed in epoch}) == 200


def test_the_next_seed_does_not_repeat_the_epochs_of_this_one():
    this, following = SeededShuffle(50, seed=0), SeededShuffle(50, seed=1)
    this.set_epoch(1)
    assert list(this) != list(following)


def test_an_epoch_follows_from_seed_and_epoch_whatever_the_workers():
    torch.manual_seed(0)
    expected = [seen_in_epoch(make(seed=5), epoch) for epoch in (0, 1)]
    torch.manual_seed(1)
    with_workers = make(seed=5, num_workers=2)
    assert [seen_in_epoch(with_workers, epoch) for epoch in (0, 1)] == expected
    assert expected[0] != expected[1]
    assert seen_in_epoch(make(seed=6), 0) != expected[0]
    assert [len(ids) for ids, _ in expected[0]] == [4, 4, 3]  # the last studies are not dropped


def test_persistent_workers_follow_the_epoch():
    loader = make(seed=5, num_workers=1).train_dataloader()
    assert loader.persistent_workers
    for epoch in (0, 1):
        loader.sampler.set_epoch(epoch)
        assert seen(loader) == seen_in_epoch(make(seed=5), epoch)


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize(
    "moment", [{"save_on_train_epoch_end": True}, {"every_n_train_steps": 3}], ids=["epoch", "step"]
)
def test_a_resumed_run_sees_the_batches_of_an_unbroken_one(tmp_path, moment, num_workers):
    """Checkpoints written when the epoch ends, and at its last step, before Lightning counts the epoch as done."""
    unbroken = train(make(seed=2), epochs=4)
    assert unbroken == {epoch: seen_in_epoch(make(seed=2), epoch) for epoch in range(4)}
    saver = ModelCheckpoint(tmp_path, filename="last", enable_version_counter=False, **moment)
    first = train(make(seed=2, num_workers=num_workers), epochs=2, callbacks=[saver])
    second = train(make(seed=2, num_workers=num_workers), epochs=4, checkpoint=tmp_path / "last.ckpt")
    assert (sorted(first), sorted(second)) == ([0, 1], [2, 3])
    assert first | second == unbroken


def test_the_distributed_wrapper_shards_the_keys_and_passes_the_epoch_on():
    """Lightning wraps a sampler that is not its own; the wrapper must keep the seeds and hand the epoch down."""
    sampler = SeededShuffle(11, seed=4)
    shards = [DistributedSamplerWrapper(sampler, num_replicas=2, rank=rank, shuffle=True) for rank in range(2)]
    for epoch in (0, 1, 2):
        for shard in shards:
            shard.set_epoch(epoch)
        assert sampler.epoch == epoch
        keys = [list(shard) for shard in shards]
        assert [len(shard) for shard in keys] == [6, 6]
        assert {*keys[0], *keys[1]} == set(sampler)


def test_evaluation_is_in_order_and_not_augmented():
    data = make(eval_batch_size=3)
    for loader, name in (
        (data.val_dataloader(), "val"),
        (data.test_dataloader(), "test"),
        (data.predict_dataloader(), "test"),
    ):
        batches = seen(loader)
        assert [study for ids, _ in batches for study in ids] == [f"{name}{index}" for index in range(SIZES[name])]
        assert not any(pixel for _, pixels in batches for pixel in pixels)
        assert max(len(ids) for ids, _ in batches) == 3
    assert make().val_dataloader().batch_size == 4


def test_overfitting_sees_the_first_studies_without_augmentation():
    epochs = train(make(), epochs=2, overfit_batches=1)
    assert epochs[0] == epochs[1] == [(["train0", "train1", "train2", "train3"], [0] * 4)]


@pytest.fixture
def mined(tmp_path):
    names = [f"train{index}" for index in range(SIZES["train"])]
    table = {name: [*names[i + 1 :], *names[:i]] for i, name in enumerate(names)}
    (tmp_path / "neighbours.json").write_text(json.dumps(table))
    return PairedNegatives(tmp_path / "neighbours.json", k=2, pool=5)


def test_training_batches_carry_mined_studies_which_follow_from_seed_and_epoch_too(mined):
    def mined_in_epoch(data, epoch):
        loader = data.train_dataloader()
        loader.sampler.set_epoch(epoch)
        return [(batch["ids"], *seen([batch["negatives"]])) for batch in loader]

    torch.manual_seed(0)
    expected = [mined_in_epoch(make(seed=5, paired=mined), epoch) for epoch in (0, 1)]
    torch.manual_seed(1)
    with_workers = make(seed=5, paired=mined, num_workers=2)
    assert [mined_in_epoch(with_workers, epoch) for epoch in (0, 1)] == expected
    assert expected[0] != expected[1]
    for ids, (negatives, pixels) in expected[0]:
        assert len(negatives) == len(pixels) == 2 * len(ids)
        assert all(pixels)  # augmented
        for row, name in enumerate(ids):
            nearest = [f"train{(int(name[5:]) + step) % SIZES['train']}" for step in range(1, 6)]
            assert {*negatives[2 * row : 2 * row + 2]} < {*nearest}


def test_the_studies_themselves_are_the_same_with_and_without_mined_ones(mined):
    assert seen_in_epoch(make(seed=5, paired=mined), 3) == seen_in_epoch(make(seed=5), 3)


def test_mined_studies_are_for_training_only_and_read_only_for_it(mined):
    data = make(paired=mined)
    for loader in (data.val_dataloader(), data.test_dataloader(), data.predict_dataloader(), data.in_order("train")):
        assert all("negatives" not in batch for batch in loader)
    assert all("negatives" not in batch for batch in make().train_dataloader())
    assert data.training_studies is data.training_studies
    missing = make(paired=PairedNegatives("none.json"))
    missing.setup("validate")
    missing.setup("test")
    with pytest.raises(UserError, match=r"none\.json"):
        missing.setup("fit")


def test_tokenizer_is_made_of_the_training_reports_once_and_can_be_replaced():
    calls = []

    def factory(reports):
        calls.append(list(reports))
        return WordTokenizer.from_reports(reports, min_count=1)

    data = StudyDataModule(FakeSource(), factory, batch_size=4, max_length=10)
    assert calls == []
    data.setup("fit")
    assert calls == [FakeSource().split("train").reports]
    assert isinstance(data.tokenizer, WordTokenizer)
    assert "train" in data.tokenizer.vocabulary
    assert "val" not in data.tokenizer.vocabulary
    data.val_dataloader()
    assert len(calls) == 1

    other = WordTokenizer((".", "<unk>", "report"))
    replaced = StudyDataModule(FakeSource(), factory, batch_size=4, max_length=10)
    replaced.tokenizer = other
    replaced.setup("test")
    assert len(calls) == 1
    batch = next(iter(replaced.test_dataloader()))
    assert batch["tokens"][0].tolist() == [0, 3, 2, 2, 2, 2, 1, 0]
    assert replaced.tokenizer is other


def test_reports_are_cut_to_the_maximum_length():
    batch = next(iter(make(max_length=3).val_dataloader()))
    assert batch["tokens"].shape == (4, 3)


def test_batches_are_pinned_by_default_only_where_there_is_cuda():
    assert make().train_dataloader().pin_memory is torch.cuda.is_available()
    assert make(pin_memory=True).train_dataloader().pin_memory is True


@pytest.mark.parametrize(
    "wrong", [{"batch_size": 0}, {"max_length": 1}, {"num_workers": -1}, {"seed": -1}, {"eval_batch_size": 0}]
)
def test_numbers_out_of_range(wrong):
    ((key, value),) = wrong.items()
    with pytest.raises(UserError, match=f"`{key}` >= [0-2], but got {value}"):
        make(**wrong)
