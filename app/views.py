"""Jobs as the API shows them."""

from collections.abc import Sequence
from datetime import UTC, datetime

from app.schemas import JobView, Links, Progress
from core.ledger import Job, Ledger
from core.states import Status


def views(jobs: Sequence[Job], ledger: Ledger) -> list[JobView]:
    """Return views of jobs, with their places in the queue."""
    positions = ledger.queue_positions(jobs)
    return [view(job, positions.get(job.id)) for job in jobs]


def view(job: Job, position: int | None) -> JobView:
    """Return the view of a job that so many others wait before."""
    return JobView(
        id=job.id,
        status=job.status,
        generator=job.generator,
        forget=job.forget,
        request=job.request,
        external_id=job.external_id,
        callback_url=job.callback_url,
        created_at=rfc3339(job.created_at),
        started_at=rfc3339(job.started_at) if job.started_at else None,
        finished_at=rfc3339(job.finished_at) if job.finished_at else None,
        deadline_at=rfc3339(job.deadline_at) if job.deadline_at else None,
        progress=Progress(stage=job.stage, fraction=job.fraction),
        queue_position=position,
        metrics=job.metrics,
        error=job.error,
        links=_links(job),
    )


def _links(job: Job) -> Links:
    me = f"/jobs/{job.id}"
    done = job.status is Status.SUCCEEDED
    return Links(
        self=me,
        cancel=None if job.status.ended else f"{me}/cancel",
        weights=f"{me}/weights" if done else None,
        predict=f"{me}/predict" if done else None,
        report=f"{me}/report" if "report" in (job.artifacts or {}) else None,
        certificate=f"{me}/certificate" if done else None,
        deliveries=f"/webhooks/deliveries?job={job.id}" if job.callback_url else None,
    )


def rfc3339(seconds: float) -> str:
    """Return a time of the ledger as the API shows it."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
