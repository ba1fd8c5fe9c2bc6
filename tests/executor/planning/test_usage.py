from __future__ import annotations

import pytest

from swapnet.executor.device import ThreadPool
from swapnet.executor.planning.usage import (
    LOOKUP_BYTES,
    demand,
    for_pool,
    mappable_bytes,
    page_table_bytes,
    usage,
)
from tests.helpers.engines import BuildToy, Engine


def test_everything_is_counted(small_zoo: Engine) -> None:
    manifest = small_zoo.manifest
    used = usage(manifest)
    ends = (*manifest.inputs, *manifest.outputs)
    assert used.io_bytes == sum(tensor.nbytes for tensor in ends)
    assert used.scratch_bytes >= max(block.activation_bytes for block in manifest.blocks)
    skeletons = sum(block.skeleton_bytes for block in manifest.blocks)
    assert used.process_bytes == skeletons + manifest.session_memory.process_bytes
    parts = (used.activation_bytes, used.io_bytes, used.staging_bytes, used.process_bytes)
    assert used.total_bytes == sum(parts)
    assert demand(manifest).total_bytes == used.total_bytes + demand(manifest).weights_bytes


def test_tables_are_no_demand(engine: BuildToy) -> None:
    manifest = engine("only-lookup").manifest
    assert demand(manifest).weights_bytes == 0
    assert usage(manifest).staging_bytes >= LOOKUP_BYTES


@pytest.mark.parametrize("page_bytes", [4 << 10, 16 << 10, 64 << 10])
@pytest.mark.parametrize("nbytes", [0, 1, 4096, 64 << 20, (64 << 20) + 1])
def test_page_tables_are_those_of_the_kernels_pages(
    monkeypatch: pytest.MonkeyPatch, page_bytes: int, nbytes: int
) -> None:
    monkeypatch.setattr("swapnet.executor.planning.usage._PAGES_IN_TABLE", page_bytes // 8)
    tables = page_table_bytes(nbytes)
    assert (tables - 1) * page_bytes < 8 * nbytes <= tables * page_bytes
    fits = mappable_bytes(nbytes)
    assert fits + page_table_bytes(fits) <= nbytes < fits + 1 + page_table_bytes(fits + 1)


def test_sessions_without_threads_of_their_own_take_less(small_zoo: Engine) -> None:
    own = small_zoo.in_own_process
    memory = small_zoo.manifest.session_memory
    saved = usage(small_zoo.manifest).process_bytes - usage(own).process_bytes
    assert saved == memory.process_bytes - memory.own_process_bytes
    assert for_pool(small_zoo.manifest, ThreadPool.SESSION) is small_zoo.manifest
    assert own.identity == small_zoo.manifest.identity
