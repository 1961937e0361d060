"""A plugged-in host under each strategy of Lightning: the rows of the table in docs/HOSTS.md; its columns are the tests."""

import sys
from pathlib import Path

import pytest
import torch
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save
from torch.testing import assert_close

sys.path.append(str(Path(__file__).parent))  # where started processes look, too
from ranks_of_strategies import fit, fits, host, on_ranks

RANKS = {
    "single": 1,
    "ddp": 2,
    "ddp_find_unused_parameters_true": 2,
    "ddp_spawn": 2,
    "ddp_fork": 2,
    "fsdp2_folder": 2,
    "fsdp2_file": 2,
}
REASONS = (
    "refused: they need accelerators that the tests do not have",
    "refused: ranks get the same batch",
    "refused: they take no optimizer with parameters outside the model",
)
each_strategy = pytest.mark.parametrize("strategy", RANKS)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What all strategies left, each in a folder of its name."""
    folder = tmp_path_factory.mktemp("strategies")
    on_ranks(["ddp", "ddp_find_unused_parameters_true", "fsdp2_folder", "fsdp2_file"], folder)
    on_ranks(["ddp_fork"], folder)  # forks a process without threads
    for strategy in ("ddp_spawn", "single"):  # the fork server of this process has imported everything
        (folder / strategy).mkdir()
        fits(strategy, folder / strategy)
    return folder


@pytest.fixture(scope="module")
def seen(folder):
    """By strategy and training, what each rank saw."""

    def of(strategy, name):
        return [torch.load(folder / strategy / f"{name}-{rank}.pt") for rank in range(RANKS[strategy])]

    return of


@each_strategy
def test_own_loss_is_bit_equal_at_weight_0(seen, strategy):
    for bare, plugged in zip(seen(strategy, "bare"), seen(strategy, "weight 0"), strict=True):
        assert len(bare["losses"]) == 16 / len(seen(strategy, "bare"))
        assert all(map(torch.equal, bare["losses"], plugged["losses"]))
        assert_close(bare["host"], plugged["host"], rtol=0, atol=0)


@each_strategy
def test_alignment_falls(seen, strategy):
    without, trained = (torch.tensor(seen(strategy, name)[0]["alignment"]) for name in ("weight 0", "whole"))
    assert trained[0] == without[0]
    assert trained[len(trained) // 2 :].mean() < 0.9 * without[len(trained) // 2 :].mean()


@each_strategy
def test_checkpoint_loads_into_the_bare_host(seen, strategy, folder, tmp_path):
    path = folder / strategy / "epoch=1.ckpt"
    if path.is_dir():
        dcp_to_torch_save(path, path := tmp_path / "one file.ckpt")
    bare = host(None)
    bare.load_state_dict(torch.load(path)["state_dict"])
    assert_close(dict(bare.state_dict()), seen(strategy, "whole")[0]["host"], rtol=0, atol=0)


@each_strategy
def test_resumed_training_is_equal(seen, strategy):
    for whole, resumed in zip(seen(strategy, "whole"), seen(strategy, "resumed"), strict=True):
        half = len(whole["losses"]) // 2
        assert len(resumed["losses"]) == half
        assert_close(resumed["losses"], whole["losses"][half:], rtol=0, atol=0)
        assert_close(resumed["host"], whole["host"], rtol=0, atol=0)
        assert_close(resumed["objective"], whole["objective"], rtol=0, atol=0)


@pytest.mark.parametrize("name", ["whole", "accumulated"])  # the accumulated gradients are clipped, too
@pytest.mark.parametrize("strategy", [strategy for strategy, ranks in RANKS.items() if ranks == 2])
def test_ranks_agree_and_equal_ddp(seen, strategy, name):
    check_equals_ddp(seen, strategy, name)


@pytest.mark.parametrize("name", ["manual", "clipped by value", "chunks"])
def test_further_steps_equal_ddp(seen, name):
    check_equals_ddp(seen, "fsdp2_folder", name)
    assert not torch.equal(seen("ddp", name)[0]["host"]["norm.weight"], seen("ddp", "whole")[0]["host"]["norm.weight"])


def check_equals_ddp(seen, strategy, name):
    ddp = seen("ddp", name)[0]
    first, second = seen(strategy, name)
    assert_close(first["objective"], second["objective"], rtol=0, atol=0)
    assert_close(first["objective"], ddp["objective"], rtol=0, atol=1e-6)
    assert_close(first["host"], ddp["host"], rtol=0, atol=1e-6)
    assert first["alignment"] == pytest.approx(ddp["alignment"], abs=1e-5)


def test_sharded_objective_equals_ddp(seen):
    for name in ("sharded objective", "sharded objective resumed", "sharded host"):
        for rank in seen("fsdp2_folder", name):
            ddp = seen("ddp", "whole")[0]
            assert_close(rank["objective"], ddp["objective"], rtol=0, atol=1e-6)
            assert_close(rank["host"], ddp["host"], rtol=0, atol=1e-6)


def test_checkpoints_go_from_one_strategy_to_another(seen, folder):
    whole = seen("ddp", "whole")[0]
    for rank in seen("fsdp2_file", "resumed from ddp"):
        assert_close(rank["objective"], whole["objective"], rtol=0, atol=1e-6)
        assert_close(rank["host"], whole["host"], rtol=0, atol=1e-6)
    loaded = type(host(1.0)).load_from_checkpoint(folder / "fsdp2_file" / "epoch=1.ckpt")
    assert_close(dict(loaded.hard_negatives.state_dict()), seen("fsdp2_file", "whole")[0]["objective"], rtol=0, atol=0)


def test_a_sharded_host_is_plugged_in_after_a_checkpoint_of_the_bare_one(seen, folder):
    for rank, bare in enumerate(seen("fsdp2_file", "bare")):
        again, trained = (
            torch.load(folder / "fsdp2_file" / "bare host" / f"{name}-{rank}.pt") for name in ("weight 0", "whole")
        )
        assert len(again["losses"]) == 4
        assert all(map(torch.equal, again["losses"], bare["losses"][4:]))
        assert_close(again["host"], bare["host"], rtol=0, atol=0)
        assert not torch.equal(trained["host"]["norm.weight"], bare["host"]["norm.weight"])
        error = torch.load(folder / "fsdp2_file" / "bare host" / f"error-{rank}.pt")
        assert "The checkpoint has no weights norm.weight of HardNegativeHost" in error


def test_the_other_lightning_equals_this_one(seen, tmp_path):
    pytest.importorskip("lightning.pytorch")
    import ranks_of_strategies_of_lightning

    ranks_of_strategies_of_lightning.on_ranks(["fsdp2_file"], tmp_path)
    for name in ("whole", "resumed"):
        other = torch.load(tmp_path / "fsdp2_file" / f"{name}-0.pt")
        assert_close(other["objective"], seen("fsdp2_file", name)[0]["objective"], rtol=0, atol=0)
        assert_close(other["host"], seen("fsdp2_file", name)[0]["host"], rtol=0, atol=0)


def test_objective_starts_as_on_rank_0(seen):
    for rank in seen("fsdp2_folder", "unseeded"):
        assert_close(rank["objective"], seen("fsdp2_folder", "whole")[0]["objective"], rtol=0, atol=0)


def test_ranks_that_cannot_agree(folder):
    errors = [torch.load(folder / "fsdp2_folder" / f"errors-{rank}.pt") for rank in (0, 1)]
    assert errors[0] == errors[1]
    assert (
        "the same values on all 2 ranks, but image_head.weight, report_head.weight differ" in errors[0]["not averaged"]
    )
    assert "set data_parallel_size=2 and tensor_parallel_size=1" in errors[0]["one batch for two ranks"]


def test_spawned_ranks_equal_those_of_the_fork_server(seen, folder, monkeypatch):
    # spawned ranks get the environment of now, ranks of the fork server that of its start
    monkeypatch.setenv("PL_GLOBAL_SEED", "7")
    fit("spawn", folder, "spawn", host(1.0))
    for rank, forked in enumerate(seen("ddp_spawn", "whole")):
        spawned = torch.load(folder / f"spawn-{rank}.pt")
        for name in ("losses", "host", "objective"):
            assert_close(spawned[name], forked[name], rtol=0, atol=0)


def test_the_document_has_each_cell():
    root = Path(__file__).parents[2]
    text = (root / "docs" / "HOSTS.md").read_text().split("## Strategies")[1].split("\n## ")[0]
    header, _, *rows = ([cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if "|" in line)
    assert all(f"test_{name.strip('`')}" in globals() for name in header[1:])
    cases = [row[1:] for row in rows if row[1].startswith("`[")]
    assert [row[0].strip("`[]") for row in cases] == list(RANKS)
    for name, row in zip(RANKS, cases, strict=True):
        last = "one rank" if RANKS[name] == 1 else f"`[{name}]`"
        assert row == [*[f"`[{name}]`"] * (len(header) - 2), last]
    for strategy, *cells in (row for row in rows if not row[1].startswith("`[")):
        for column, cell in zip(header[1:], cells, strict=True):
            # a test of another file, or a reason, which stands in the first cell of what is refused
            path, _, name = cell.strip("`").partition("::")
            if cell == "one rank":
                assert (strategy, column) == ("`HardNegativeTrainer`, one process", header[-1]), cell
            elif cell in REASONS:
                assert cell == cells[0], f"{strategy}: {cell}"
            elif cell == "not resumed: transformers cannot":
                assert ("FSDP2" in strategy, column) == (True, header[4]), cell
            elif cell == "refused":
                assert cells[0] in REASONS, strategy
            else:
                assert f"def {name}(" in (root / path).read_text(), f"{strategy}, {column}: {cell}"
