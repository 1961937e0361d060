"""The place in an epoch: state out, state in, and what Lightning makes of it."""

import json
from itertools import islice

import pytest
import pytorch_lightning as pl
import torch
from lightning_fabric.utilities.distributed import DistributedSamplerWrapper
from pytorch_lightning.callbacks import ModelCheckpoint
from torch.utils.data import SequentialSampler

from hardneg_plugin.data.datamodule import SeededShuffle, StudyDataModule
from hardneg_plugin.data.loader import TrainingLoader
from hardneg_plugin.data.paired import PairedNegatives
from hardneg_plugin.data.tokenizer import WordTokenizer

SIZE, BATCH = 11, 2
BATCHES = 6


class Studies:
    """Studies whose one pixel is the augmentation's draw; `asked` are the indices of those read in this process."""

    def __init__(self):
        self.ids = [f"s{index}" for index in range(SIZE)]
        self.reports = ["Clear lungs."] * SIZE
        self.asked = []

    def __len__(self):
        return SIZE

    def __getitem__(self, key):
        index, seed = key if isinstance(key, tuple) else (key, 0)
        self.asked.append(index)
        pixel = int(torch.randint(256, (), generator=torch.Generator().manual_seed(seed)))
        images = torch.full((1, 1, 1, 1), pixel, dtype=torch.uint8)
        return {"id": self.ids[index], "images": images, "report": "Clear lungs.", "patient": None, "labels": None}


class Source:
    read_findings = None

    def split(self, name):
        return Studies()


@pytest.fixture
def make(tmp_path):
    """Data whose batches carry two of four neighbours each."""
    table = {f"s{i}": [f"s{(i + step) % SIZE}" for step in range(1, 5)] for i in range(SIZE)}
    (tmp_path / "table.json").write_text(json.dumps(table))

    def data(num_workers=0):
        return StudyDataModule(
            Source(),
            lambda reports: WordTokenizer.from_reports(reports, min_count=1),
            batch_size=BATCH,
            max_length=10,
            num_workers=num_workers,
            seed=4,
            paired=PairedNegatives(tmp_path / "table.json", k=2, pool=4),
        )

    return data


class Recorder(pl.LightningModule):
    """Records by epoch what training sees, augmentation and negatives included; learns nothing."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.epochs = {}

    def training_step(self, batch, batch_idx):
        seen = [(part["ids"], part["images"].flatten().tolist()) for part in (batch, batch["negatives"])]
        self.epochs.setdefault(self.current_epoch, []).append((batch_idx, *seen))
        return self.weight * 0

    def validation_step(self, batch, batch_idx):
        pass

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def train(data, checkpoint=None, callbacks=(), **options):
    trainer = pl.Trainer(
        accelerator="cpu",
        logger=False,
        callbacks=list(callbacks),
        enable_checkpointing=bool(callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        **{"limit_val_batches": 0} | options,
    )
    model = Recorder()
    trainer.fit(model, datamodule=data, ckpt_path=checkpoint)
    return model.epochs


def saver(folder, **moment):
    return ModelCheckpoint(folder, filename="last", enable_version_counter=False, **moment)


def joined(first, second):
    return {epoch: first.get(epoch, []) + second.get(epoch, []) for epoch in first | second}


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("stop", [3, BATCHES + 2])
def test_a_run_resumed_in_mid_epoch_sees_the_rest_of_an_unbroken_one(tmp_path, make, num_workers, stop):
    unbroken = train(make(), max_epochs=3)
    assert [len(batches) for batches in unbroken.values()] == [BATCHES] * 3
    first = train(make(num_workers), callbacks=[saver(tmp_path, every_n_train_steps=stop)], max_steps=stop)
    second = train(make(num_workers), checkpoint=tmp_path / "last.ckpt", max_epochs=3)
    assert sum(map(len, first.values())) == stop
    assert joined(first, second) == unbroken


@pytest.mark.parametrize("end", [{"max_epochs": 3}, {"max_steps": 12}], ids=["epochs", "steps"])
@pytest.mark.parametrize("stop", [2, 4, 6])
def test_a_limited_epoch_resumes_in_its_middle_and_at_its_end(tmp_path, make, stop, end):
    limit = {"limit_train_batches": 4}
    unbroken = train(make(), **limit, max_epochs=3)
    first = train(make(), callbacks=[saver(tmp_path, every_n_train_steps=stop)], max_steps=stop, **limit)
    second = train(make(), checkpoint=tmp_path / "last.ckpt", **end, **limit)
    assert joined(first, second) == unbroken


def test_resumes_after_a_validation_within_the_epoch(tmp_path, make):
    twice = {"val_check_interval": 3, "limit_val_batches": 1}
    unbroken = train(make(), max_epochs=2)
    callbacks = [saver(tmp_path, save_on_train_epoch_end=False)]
    first = train(make(), callbacks=callbacks, max_steps=3, **twice)
    second = train(make(), checkpoint=tmp_path / "last.ckpt", max_epochs=2, **twice)
    assert (len(first[0]), len(second[0])) == (3, 3)
    assert joined(first, second) == unbroken


def loader(sampler, studies=None, num_workers=0):
    return TrainingLoader(
        studies or Studies(),
        batch_size=BATCH,
        sampler=sampler,
        num_workers=num_workers,
        collate_fn=lambda samples: [(sample["id"], sample["images"].item()) for sample in samples],
    )


def batches(iterable, number=None):
    return list(islice(iterable, number))


def test_goes_on_after_the_batches_handed_out_without_loading_those_again():
    whole = batches(loader(SeededShuffle(SIZE)))
    for done in range(BATCHES + 1):
        left = loader(SeededShuffle(SIZE))
        under_way = iter(left)
        assert batches(under_way, done) == whole[:done]
        studies = Studies()
        resumed = loader(SeededShuffle(SIZE), studies)
        resumed.load_state_dict(left.state_dict() if done else {"epoch": 0, "batches": 0})
        assert len(resumed) == BATCHES  # whole: Lightning counts those done too
        assert batches(resumed) == whole[done:]
        assert [studies.ids[index] for index in studies.asked] == [name for batch in whole[done:] for name, _ in batch]


def test_what_workers_load_ahead_is_not_handed_out():
    left = loader(SeededShuffle(SIZE), num_workers=2)
    under_way = iter(left)
    batches(under_way, 1)
    assert left.state_dict() == {"epoch": 0, "batches": 1}


def test_only_the_first_epoch_after_loading_and_only_that_epoch_is_cut():
    whole = {}
    for epoch in (0, 1):
        fresh = loader(SeededShuffle(SIZE))
        fresh.sampler.set_epoch(epoch)
        whole[epoch] = batches(fresh)
    resumed = loader(SeededShuffle(SIZE))
    resumed.load_state_dict({"epoch": 0, "batches": 4})
    assert resumed.state_dict() == {"epoch": 0, "batches": 4}  # saved again before anything was trained on
    iter(resumed)  # an iterator that is never used takes nothing
    assert batches(resumed) == whole[0][4:]
    assert resumed.state_dict() == {"epoch": 0, "batches": 6}
    assert batches(resumed) == whole[0]
    resumed.load_state_dict({"epoch": 0, "batches": 4})
    resumed.sampler.set_epoch(1)
    assert batches(resumed) == whole[1]
    assert resumed.state_dict() == {"epoch": 1, "batches": 6}


def test_under_the_distributed_wrapper_every_rank_goes_on_with_its_own():
    def of_rank(rank):
        ranked = loader(DistributedSamplerWrapper(SeededShuffle(SIZE), num_replicas=2, rank=rank, shuffle=True))
        ranked.sampler.set_epoch(3)
        return ranked

    for rank in (0, 1):
        whole = batches(of_rank(rank))
        left = of_rank(0)  # Lightning keeps the state of the first rank
        under_way = iter(left)
        batches(under_way, 2)
        assert left.state_dict() == {"epoch": 3, "batches": 2}
        resumed = of_rank(rank)
        resumed.load_state_dict(left.state_dict())
        assert batches(resumed) == whole[2:]
        assert len(whole) == 3


def test_a_sampler_that_knows_no_epoch_starts_anew():
    whole = batches(loader(SequentialSampler(range(SIZE))))
    resumed = loader(SequentialSampler(range(SIZE)))
    resumed.load_state_dict({"epoch": None, "batches": 4})
    assert batches(resumed) == whole
