"""What is not installed with the gateway: told by name where it is needed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def local_extra(what: str, raised: Callable[[str], Exception]) -> Iterator[None]:
    """Around an import of something that runs a model in this process (torch, transformers).

    Raises `raised`, which says what to install, if the import fails.
    """
    try:
        yield
    except ImportError as error:
        raise raised(f"{what} needs `pip install 'gardefou[local]'` ({error})") from error
