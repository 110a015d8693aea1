import asyncio

import pytest

from onward import loop


@pytest.fixture(scope="session", autouse=True)
def the_loop_of_this_thread_is_closed_at_the_end():
    yield
    kept = getattr(loop._threads, "loop", None)
    if kept is not None:
        kept.close()
    asyncio.set_event_loop(None)
