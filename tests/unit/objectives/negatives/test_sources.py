"""Where hard negatives come from, against plain loops, and what each source does where there are none."""

from copy import deepcopy
from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import FakeTensorMode

from hardneg_plugin import HardNegativeObjective, PairEmbeddings
from hardneg_plugin.distributed import Shards
from hardneg_plugin.errors import UserError
from hardneg_plugin.functional.hard_negatives import match_mask, mine
from hardneg_plugin.functional.match_keys import MatchKeys, match_key
from hardneg_plugin.objectives import Alternating, Bank, EmbeddedBatch, Hinge, InBatch, Paired, Queue
from hardneg_plugin.objectives.schedule import Constant, TrainingProgress

STUDIES = 24


def unit(*shape, seed=0):
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


def keys_of(numbers):
    """Study, patient (every second one shares it), text, label set: only the first two known."""
    return torch.tensor([[match_key(f"study {n}"), n % 12, -1, -1] for n in numbers])


def batch_of(numbers, seed=0, epoch=0, step=0):
    """The embeddings of studies at one time."""
    images, reports = unit(STUDIES, 6, seed=100 + seed), unit(STUDIES, 6, seed=200 + seed)
    return EmbeddedBatch(
        all_images=images[numbers],
        all_reports=reports[numbers],
        all_keys=MatchKeys(keys_of(numbers)),
        shards=Shards(0, (len(numbers),)),
        progress=TrainingProgress(step=step, epoch=epoch),
    )


def is_match(a, b):
    return a == b or a % 12 == b % 12


ALL = {f"study {n}": [f"study {m}" for m in range(STUDIES) if m != n] for n in range(STUDIES)}
BATCHES = [torch.randperm(STUDIES, generator=torch.Generator().manual_seed(i))[:7].tolist() for i in range(9)]


@pytest.mark.parametrize("size", [1, 5, 12, 100])
@pytest.mark.parametrize("k", [1, 3])
def test_queue_finds_the_nearest_of_the_batch_and_of_the_latest_studies(size, k):
    source, latest = Queue(size=size, k=k), []
    for time, numbers in enumerate(BATCHES):
        batch = batch_of(numbers, seed=time)
        found = source(batch)
        known = [(n, batch.reports[i], batch.images[i]) for i, n in enumerate(numbers)] + latest
        for i, own in enumerate(numbers):
            peers = [(batch.reports[i] @ u, u, z) for n, u, z in known if not is_match(n, own)]
            peers = sorted(peers, key=lambda peer: -peer[0])[:k]
            assert found.valid[i].sum() == len(peers)
            for j, (_, report, image) in enumerate(peers):
                torch.testing.assert_close(found.reports[i, j], report)
                torch.testing.assert_close(found.images[i, j], image)
        latest = [*latest, *((n, batch.reports[i], batch.images[i]) for i, n in enumerate(numbers))][-size:]


@pytest.mark.parametrize("ceiling", [0.1, -0.2])
def test_what_is_nearer_than_the_ceiling_is_no_negative_wherever_it_is(ceiling):
    """In the batch, the queue, and the bank at its search and when it is read."""
    queue, bank, table = (
        Queue(size=50, k=3, ceiling=ceiling),
        Bank(k=3, ceiling=ceiling),
        Bank(k=3, ceiling=ceiling, table=ALL),
    )
    found = {"queue": 0, "bank": 0, "table": 0}
    for time, numbers in enumerate(BATCHES):
        batch = batch_of(numbers, seed=time, epoch=time // 2)
        for name, source in (("queue", queue), ("bank", bank), ("table", table)):
            negatives = source(batch)
            similarity = torch.einsum("bd,bkd->bk", batch.reports, negatives.reports)
            assert (similarity[negatives.valid] <= ceiling + 1e-6).all(), name
            found[name] += int(negatives.valid.sum())
    assert min(found.values()) > 60


def test_a_bank_looks_for_neighbours_below_the_ceiling():
    """At its search, by the embeddings of that time: later ones may be farther apart."""
    source, batch = Bank(k=2, ceiling=0.2), batch_of(list(range(12)))
    source(batch)
    source(batch_of([0], epoch=1))
    for number, row in zip(
        range(12), source._neighbours[torch.argsort(torch.argsort(keys_of(range(12))[:, 0]))], strict=True
    ):
        peers = [m for m in range(12) if m != number and batch.reports[number] @ batch.reports[m] <= 0.2]
        nearest = sorted(peers, key=lambda m, n=number: -float(batch.reports[n] @ batch.reports[m]))[:2]
        assert row.tolist() == keys_of(nearest)[:, 0].tolist() + [-1] * (2 - len(nearest))


def test_the_gradient_reaches_the_batch_and_not_the_queue():
    source = Queue(size=50, k=2)
    for time, numbers in enumerate(BATCHES[:3]):
        batch = batch_of(numbers, seed=time)
        batch.all_reports.requires_grad_()
        source(batch).reports.sum().backward()
    reached = batch.all_reports.grad.abs().sum(dim=1) > 0
    assert 0 < reached.sum() < 7
    assert not any(column.requires_grad for column in source.queue.entries())


@pytest.mark.parametrize("refresh_every", [1, 2])
@pytest.mark.parametrize("k", [1, 2])
def test_bank_finds_the_nearest_among_its_own_embeddings_of_the_last_refresh(refresh_every, k):
    source, slots, table = Bank(k=k, refresh_every=refresh_every), {}, {}
    for time, numbers in enumerate(BATCHES):
        epoch = time // 2
        if time % 2 == 0 and epoch and epoch % refresh_every == 0:
            table = {
                n: sorted(
                    (m for m in slots if not is_match(m, n)), key=lambda m, n=n: -float(slots[n][0] @ slots[m][0])
                )[:k]
                for n in slots
            }
        batch = batch_of(numbers, seed=time, epoch=epoch)
        found = source(batch)
        in_batch = InBatch(k=k)(batch)
        for i, own in enumerate(numbers):
            for j in range(k):
                if own in table and j < len(table[own]):
                    report, image = slots[table[own][j]]
                    torch.testing.assert_close(found.reports[i, j], report)
                    torch.testing.assert_close(found.images[i, j], image)
                    assert found.valid[i, j]
                else:
                    torch.testing.assert_close(found.reports[i, j], in_batch.reports[i, j])
        slots |= {n: (batch.reports[i], batch.images[i]) for i, n in enumerate(numbers)}
    assert len(table) > 12


def test_bank_follows_a_table_in_its_order_past_matches_and_unseen_studies():
    # study 3: a match (15 shares its patient), an unseen one, then 5 and 7; study 4 is not in the table
    source = Bank(k=1, table={"study 3": ["study 15", "study 20", "study 5", "study 7"], "study 9": ["study 3"]})
    first = source(batch_of([3, 4, 5, 15]))
    torch.testing.assert_close(first.reports, InBatch()(batch_of([3, 4, 5, 15])).reports)
    again = batch_of([9, 4, 3], seed=1)
    found = source(again)
    bank = batch_of([3, 5])
    torch.testing.assert_close(found.reports[0, 0], bank.reports[0])
    torch.testing.assert_close(found.reports[2, 0], bank.reports[1])
    torch.testing.assert_close(found.reports[1, 0], InBatch()(again).reports[1, 0])
    assert found.valid.all()


def test_bank_draws_from_its_pool_and_minds_the_ceiling():
    table = {"study 0": [f"study {n}" for n in (1, 2, 3, 4, 5)]}
    source = Bank(k=1, pool=3, table=table)
    source(batch_of(list(range(12))))
    drawn = set()
    for step in range(40):
        found = source(batch_of([0, 12], step=step))
        drawn |= {n for n in range(1, 12) if torch.equal(found.reports[0, 0], batch_of([n]).reports[0])}
    assert drawn == {1, 2, 3}
    strict = Bank(k=1, table=table, ceiling=-0.99)
    strict(batch_of(list(range(12))))
    assert not strict(batch_of([0, 12])).valid.any()


def test_a_bank_without_a_table_draws_from_its_pool_too():
    source = Bank(k=1, pool=3)
    whole = batch_of(list(range(12)))
    source(whole)
    drawn = set()
    for step in range(40):
        found = source(batch_of([0], seed=1, epoch=1, step=step))
        drawn |= {n for n in range(1, 12) if torch.equal(found.reports[0, 0], whole.reports[n])}
    assert drawn == set(sorted(range(1, 12), key=lambda n: -float(whole.reports[0] @ whole.reports[n]))[:3])


def test_a_table_stays_as_it_is_when_a_checkpoint_brings_other_neighbours():
    searched, mined = Bank(), Bank(table={"study 0": ["study 5"]})
    for epoch in (0, 1):
        searched(batch_of(list(range(12)), epoch=epoch))
    assert len(searched._studies) == 12
    mined.load_state_dict(searched.state_dict())
    found = mined(batch_of([0, 7], seed=1, epoch=2))
    torch.testing.assert_close(found.reports[0, 0], batch_of([5]).reports[0])
    again = Bank(table={"study 0": ["study 3"]})
    again.load_state_dict(mined.state_dict())
    torch.testing.assert_close(again(batch_of([0, 7], seed=1, epoch=2)).reports[0, 0], batch_of([3]).reports[0])


@pytest.mark.parametrize("known", [0, 1, 2, 3])
def test_mine_minds_keys_that_only_some_studies_have(known):
    reports, keys = unit(STUDIES, 6), torch.full((STUDIES, 4), -1)
    keys[:, known] = torch.tensor([n % 3 if n % 2 else -1 for n in range(STUDIES)])
    index, valid = mine(reports, keys, k=4)
    for i in range(STUDIES):
        peers = [j for j in range(STUDIES) if j != i and not (i % 2 and j % 2 and i % 3 == j % 3)]
        assert valid[i].all()
        assert index[i].tolist() == sorted(peers, key=lambda j, i=i: -float(reports[i] @ reports[j]))[:4]


def test_mine_is_brute_force_whatever_the_chunk():
    reports, keys = unit(STUDIES, 6), keys_of(range(STUDIES))
    for chunk in (1, 7, 100):
        index, valid = mine(reports, keys, k=3, ceiling=0.7, chunk=chunk)
        for i in range(STUDIES):
            similarity = reports @ reports[i]
            peers = [j for j in range(STUDIES) if not is_match(i, j) and similarity[j] <= 0.7]
            assert index[i][valid[i]].tolist() == sorted(peers, key=lambda j: -similarity[j])[:3]


def test_draws_depend_on_the_step_and_leave_the_global_generator_alone():
    source = InBatch(k=1, pool=5)
    torch.manual_seed(3)
    before = torch.get_rng_state()
    draws = [source(batch_of(list(range(12)), step=step)).reports for step in (0, 0, 1)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    assert torch.equal(before, torch.get_rng_state())
    HardNegativeObjective(image_width=6, report_width=6, width=4)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("make", [InBatch, lambda **kw: Queue(size=50, **kw), Bank, lambda **kw: Bank(table=ALL, **kw)])
def test_draws_of_every_source_depend_on_the_step_alone(make):
    source = make(k=1, pool=6)
    for time in range(3):
        source(batch_of(list(range(time, 12 + time)), seed=time, epoch=time))
    draws = []
    for step, seed in ((3, 0), (3, 1), (4, 0)):
        torch.manual_seed(7)
        before = torch.get_rng_state()
        if seed:
            torch.rand(5)  # whatever the host has drawn
            before = torch.get_rng_state()
        draws.append(deepcopy(source)(batch_of(list(range(12)), step=step, epoch=3)).reports)
        assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


def pairs_of(batch, fields, negatives=None):
    return PairEmbeddings(
        images=batch.images.clone().requires_grad_(),
        reports=batch.reports.clone().requires_grad_(),
        negatives=negatives,
        **fields,
    )


SOURCES = {
    "in_batch": InBatch,
    "queue": lambda: Queue(size=16),
    "bank": Bank,
    "table": lambda: Bank(table={"a": ["b"], "b": ["a"]}),
    "paired": Paired,
}


@pytest.mark.parametrize("hardening", ["arc", "alternating"])
@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize(
    ("numbers", "fields"),
    [
        pytest.param([0], {"study_ids": ["a"]}, id="one study"),
        pytest.param([0, 1, 2], {"study_ids": ["a"] * 3}, id="one study three times"),
        pytest.param([0, 1, 2], {"study_ids": ["a", "b", "c"], "texts": ["normal"] * 3}, id="all one text"),
        pytest.param([0, 1, 2], {"study_ids": ["a", "b", "c"], "patient_ids": [4] * 3}, id="all one patient"),
    ],
)
def test_without_a_negative_the_loss_is_zero_and_everything_has_a_gradient(numbers, fields, source, hardening):
    """For three visits over two epochs: earlier embeddings of the same studies are no negatives either."""
    options = {"hardening": Alternating()} if hardening == "alternating" else {}
    objective = HardNegativeObjective(
        negatives=SOURCES[source](), schedule=Constant(hardness=0.5), separation=Hinge(margin=0.0), **options
    )
    for visit in range(3):
        batch = batch_of(numbers, seed=visit)
        negatives = pairs_of(batch_of(numbers, seed=visit + 9), fields) if source == "paired" else None
        pairs = pairs_of(batch, fields, negatives)
        terms = objective(pairs, TrainingProgress(step=visit, epoch=visit))
        (terms.alignment_loss + terms.separation_loss).backward()
        assert terms.alignment_loss.item() == pytest.approx(0, abs=1e-6)
        assert terms.separation_loss.item() == 0
        assert terms.logs["negatives_found"].item() == 0
        assert pairs.images.grad is not None
        assert objective.log_scales.grad is not None
        assert all(torch.isfinite(value) for value in terms.logs.values())


def test_paired_masks_what_matches_and_checks_its_number():
    batch = batch_of([0, 1, 2])
    paired = batch_of([5, 1, 14], seed=1)  # the study itself, then one of its patient
    fields = {"study_ids": ["study 0", "study 1", "study 2"], "patient_ids": [0, 1, 2]}
    paired_fields = {"study_ids": ["study 5", "study 1", "study 14"], "patient_ids": [5, 1, 2]}
    seen = []

    class Spy(Paired):
        def __call__(self, batch):
            seen.append(super().__call__(batch))
            return seen[-1]

    objective = HardNegativeObjective(negatives=Spy(), schedule=Constant())
    objective(pairs_of(batch, fields, pairs_of(paired, paired_fields)), TrainingProgress())
    assert seen[0].valid.tolist() == [[True], [False], [False]]
    torch.testing.assert_close(seen[0].reports[:, 0], paired.reports)
    with pytest.raises(UserError, match=r"expected a batch with 2 paired studies per study, but got 1"):
        HardNegativeObjective(negatives=Paired(k=2))(
            pairs_of(batch, fields, pairs_of(paired, paired_fields)), TrainingProgress()
        )
    with pytest.raises(UserError, match=r"PairEmbeddings\(negatives=\.\.\.\)"):
        HardNegativeObjective(negatives=Paired())(pairs_of(batch, fields), TrainingProgress())
    with pytest.raises(ValueError, match=r"K rows for each of 3 studies, but got 2 rows"):
        pairs_of(batch, fields, pairs_of(batch_of([5, 6]), {}))


@pytest.mark.parametrize(
    ("options", "setting"),
    [
        ({"negatives": Queue(size=4)}, "negatives=queue"),
        ({"negatives": Bank()}, "negatives=bank"),
        ({"hardening": Alternating()}, "hardening=alternating"),
    ],
)
def test_what_outlives_a_step_needs_study_ids(options, setting):
    with pytest.raises(UserError, match=rf"{setting} needs to know the studies.*study_ids"):
        HardNegativeObjective(**options)(pairs_of(batch_of([0, 1]), {}), TrainingProgress())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Queue(size=0), "negatives.size"),
        (lambda: Queue(size=65_537), "negatives.size"),
        (lambda: Queue(k=0), "negatives.k"),
        (lambda: Bank(pool=1, k=2), "negatives.pool"),
        (lambda: Bank(refresh_every=0), "negatives.refresh_every"),
        (lambda: Bank(table="nowhere.json"), "nowhere.json"),
        (lambda: Alternating(step_size=0), "hardening.step_size"),
        (lambda: Alternating(steps=0), "hardening.steps"),
        (lambda: Alternating(margin=-1), "hardening.margin"),
    ],
)
def test_bad_options_name_their_key(make, message):
    with pytest.raises(UserError, match=message):
        make()


@pytest.mark.parametrize("source", ["queue", "bank", "table"])
@pytest.mark.parametrize("hardening", ["arc", "alternating"])
def test_a_checkpoint_in_the_middle_goes_on_to_the_same_numbers(source, hardening):
    def make():
        options = {"hardening": Alternating()} if hardening == "alternating" else {}
        return HardNegativeObjective(negatives=SOURCES[source](), schedule=Constant(hardness=0.5), **options)

    unbroken = make()
    for time, numbers in enumerate(BATCHES):
        if time == 4:
            resumed = make()
            resumed.load_state_dict(unbroken.state_dict())
        batch = batch_of(numbers, seed=time)
        fields = {"study_ids": [f"study {n}" for n in numbers]}
        progress = TrainingProgress(step=time, epoch=time // 3)
        expected = unbroken(pairs_of(batch, fields), progress)
        if time >= 4:
            got = resumed(pairs_of(batch, fields), progress)
            assert torch.equal(got.alignment_loss, expected.alignment_loss)
            assert got.logs == expected.logs


def test_match_mask_of_a_batch_holds_each_study_itself_though_unknown():
    batch = batch_of([0, 1, 2])
    unknown = EmbeddedBatch(
        batch.all_images, batch.all_reports, MatchKeys(torch.full((3, 4), -1)), batch.shards, TrainingProgress()
    )
    assert torch.equal(unknown.is_match, torch.eye(3, dtype=torch.bool))
    assert torch.equal(batch.is_match, match_mask(batch.keys.columns, batch.keys.columns))


def test_a_queue_from_a_checkpoint_follows_its_batch_to_a_gpu():
    """With fake tensors, which have no values, but whose devices must agree: a checkpoint is read on the CPU."""
    saved = HardNegativeObjective(negatives=Queue(size=8))
    pairs = {"images": torch.randn(4, 6), "reports": torch.randn(4, 6), "study_ids": torch.arange(4)}
    saved(PairEmbeddings(**pairs), TrainingProgress(fraction=0.5))
    memory = {name: value for name, value in saved.state_dict().items() if name.endswith("_extra_state")}
    with FakeTensorMode(allow_non_fake_inputs=True), mock.patch.object(EmbeddedBatch, "generator", return_value=None):
        with torch.device("cuda"):
            source = Queue(size=8)
            resumed = HardNegativeObjective(negatives=source)
        resumed.load_state_dict(memory, strict=False)
        on_gpu = {name: torch.empty_like(value, device="cuda") for name, value in pairs.items()}
        terms = resumed(PairEmbeddings(**on_gpu), TrainingProgress(fraction=0.5))
    assert terms.alignment_loss.device.type == "cuda"
    assert all(column.device.type == "cuda" for column in source.queue.entries())
