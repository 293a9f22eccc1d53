"""Requests of the same moment are recorded in one transaction: they share its fsync."""

import asyncio
from collections.abc import Callable, Sequence

from sqlalchemy.exc import SQLAlchemyError
from starlette.concurrency import run_in_threadpool

from core.ledger import Bounds, Job, Ledger, Order, Recorded, Refused

_MOST = 64  # orders of one transaction; the ledger's other writers wait for it


class Recorder:
    """Records orders and rings for their jobs; who comes meanwhile goes with the next group.

    Lives on one event loop. An order that comes alone is written at once.
    """

    def __init__(
        self, ledger: Ledger, bounds: Bounds, ring: Callable[[Sequence[Job]], None]
    ) -> None:
        self._ledger = ledger
        self._bounds = bounds
        self._ring = ring
        self._orders: list[tuple[Order, asyncio.Future[Recorded]]] = []
        self._task: asyncio.Task[None] | None = None

    async def record(self, order: Order) -> Recorded:
        """Record an order; it is durable when this returns.

        Raises:
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

    def _write(self, orders: Sequence[Order]) -> Sequence[Recorded | Refused | SQLAlchemyError]:
        try:
            said = self._ledger.record_all(orders, self._bounds)
        except SQLAlchemyError as error:
            if len(orders) == 1:
                return [error]
            # One of them may be what the database can't take: the others are not to suffer.
            return [one for order in orders for one in self._write([order])]
        self._ring([job for one in said if isinstance(one, Recorded) for job in one.jobs])
        return said
