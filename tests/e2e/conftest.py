from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.process import Server, served


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """What `make serve` serves: the demo model, the default policy, an embedded Redis."""
    with served(tmp_path_factory.mktemp("demo")) as server:
        yield server
