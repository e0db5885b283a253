"""Work done in threads ahead of the one who asks for it, in order."""

import collections
import itertools
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def map_ahead(
    function: Callable[[Item], Result], items: Iterable[Item], *, workers: int, ahead: int
) -> Generator[Result, None, None]:
    """Yields `function(item)` of every item in order, some of them made before they are asked for.

    Args:
      function: must be safe to run in threads.
      items: what to run it on; read no further than `ahead` from where the caller is.
      workers: threads; 0 runs in the caller's, when asked.
      ahead: results that may wait; at least one for each thread does.
    """
    if not workers:
        yield from map(function, items)
        return
    items = iter(items)
    pool = ThreadPoolExecutor(workers, thread_name_prefix="ahead")
    try:
        waiting = collections.deque(
            pool.submit(function, item) for item in itertools.islice(items, max(workers, ahead))
        )
        while waiting:
            result = waiting.popleft().result()
            waiting.extend(pool.submit(function, item) for item in itertools.islice(items, 1))
            yield result
    finally:
        pool.shutdown(cancel_futures=True)
