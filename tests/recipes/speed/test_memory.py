"""Memory: a container's limit counts, and variants leave room for a second copy of the weights."""

from types import SimpleNamespace

import pytest

from recipes.cli.usage import UsageError
from recipes.speed import memory


def test_a_containers_limit_counts_where_it_is_lower(tmp_path, monkeypatch):
    files = tmp_path / "memory.max", tmp_path / "missing"
    monkeypatch.setattr(memory, "LIMITS", files)
    files[0].write_text("max\n")
    whole = memory.machine_memory()
    assert whole > 2**20
    files[0].write_text("1048576\n")
    assert memory.machine_memory() == 2**20
    files[0].write_text(str(2**62))
    assert memory.machine_memory() == whole


@pytest.mark.parametrize(("variants", "share"), [([], 0.7), (["eager"], 0.35)])
def test_tables_leave_room(variants, share):
    trainer = SimpleNamespace(accelerator="cpu")
    config = SimpleNamespace(memory_gib=10, trainer=trainer)
    cli = SimpleNamespace(config=config, variants=variants, datamodule=None)
    assert memory.share_for_tables(cli) == pytest.approx(share * 10 * 2**30)


@pytest.mark.parametrize(("in_main_memory", "gib"), [(True, 4), (False, 100)])
def test_search_trees_are_not_on_the_gpu(in_main_memory, gib, monkeypatch):
    monkeypatch.setattr(memory, "machine_memory", lambda: 4 * 2**30)
    config = SimpleNamespace(memory_gib=100, trainer=SimpleNamespace(accelerator="cuda"))
    data = SimpleNamespace(grows_in_main_memory=in_main_memory)
    cli = SimpleNamespace(config=config, variants=[], datamodule=data)
    assert memory.share_for_tables(cli) == pytest.approx(0.7 * gib * 2**30)


def test_what_does_not_fit_is_told_with_what_to_shrink():
    memory.check_fits(1.0, 2.0, "weights need")
    with pytest.raises(UsageError, match=r"weights need 3 GiB, there are 2 GiB; .*--model\.net"):
        memory.check_fits(3 * 2**30, 2 * 2**30, "weights need")
