"""Requests of the same moment are recorded in one transaction: they share its fsync."""

import asyncio
from collections.abc import Callable, Iterable, Sequence

from sqlalchemy.exc import InterfaceError, OperationalError
from starlette.concurrency import run_in_threadpool

from core.ledger import Bounds, Job, Ledger, LiveWorker, Order, Recorded

_MOST = 64  # orders of one transaction; the ledger's other writers wait for it


class Unavailable(Exception):
    """No live worker serves a generator that was asked for.

    Args:
        reason: why not.
    """

    def __init__(self, generator: str, reason: str) -> None:
        super().__init__(generator, reason)
        self.generator = generator
        self.reason = reason


def availability(generator: str, workers: Iterable[LiveWorker]) -> tuple[bool | None, str | None]:
    """Tell whether a live worker serves a generator, and if none does, why.

    Returns:
        (None, None) while no worker is up to tell.
    """
    said = [worker.generators.get(generator, "no worker has it") for worker in workers]
    if not said:
        return None, None
    return (True, None) if None in said else (False, said[0])


class Recorder:
    """Records orders and rings for their jobs; who comes meanwhile goes with the next group.

    Lives on one event loop. An order that comes alone is written at once.
    """

    def __init__(
        self,
        ledger: Ledger,
        bounds: Bounds,
        live_workers: Callable[[], Sequence[LiveWorker]],
        ring: Callable[[Sequence[Job]], None],
    ) -> None:
        self._ledger = ledger
        self._live_workers = live_workers
        self._bounds = bounds
        self._ring = ring
        self._orders: list[tuple[Order, asyncio.Future[Recorded]]] = []
        self._task: asyncio.Task[None] | None = None

    async def record(self, order: Order) -> Recorded:
        """Record an order; it is durable when this returns.

        Raises:
            Unavailable: nobody could answer it.
            Full, Reused, Running: see `core.ledger`.
        """
        answered: asyncio.Future[Recorded] = asyncio.get_running_loop().create_future()
        self._orders.append((order, answered))
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._work())
        return await answered

    async def _work(self) -> None:
        while self._orders:
            group, self._orders = self._orders[:_MOST], self._orders[_MOST:]
            said: Sequence[Recorded | Exception]
            try:
                said = await run_in_threadpool(self._write, [order for order, _ in group])
            except Exception as error:  # whatever it is: nobody is left to wait for ever
                said = [error] * len(group)
            for (_, answered), one in zip(group, said, strict=True):
                if answered.cancelled():
                    continue
                if isinstance(one, Exception):
                    answered.set_exception(one)
                else:
                    answered.set_result(one)

    def _write(self, orders: Sequence[Order]) -> Sequence[Recorded | Exception]:
        workers = self._live_workers()
        unavailable = [_unavailable(order, workers) for order in orders]
        possible = [order for order, why in zip(orders, unavailable, strict=True) if why is None]
        recorded = iter(self._record(possible))
        return [why or next(recorded) for why in unavailable]

    def _record(self, orders: Sequence[Order]) -> Sequence[Recorded | Exception]:
        if not orders:
            return []
        try:
            said = self._ledger.record_all(orders, self._bounds)
        except (OperationalError, InterfaceError) as error:
            # The database is away, and may have written them before: never ask for that twice.
            return [error] * len(orders)
        except Exception as error:
            if len(orders) == 1:
                return [error]
            # One of them may be what the database can't take: the others are not to suffer.
            return [one for order in orders for one in self._record([order])]
        self._ring([job for one in said if isinstance(one, Recorded) for job in one.jobs])
        return said


def _unavailable(order: Order, workers: Sequence[LiveWorker]) -> Unavailable | None:
    for generator in dict.fromkeys(job.generator for job in order.new):
        available, reason = availability(generator, workers)
        if available is False:
            return Unavailable(generator, reason or "")
    return None
