"""What goes in and comes out, as pydantic models: the OpenAPI document is made of these."""

from typing import Annotated, Any, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    WithJsonSchema,
    model_validator,
)

from core.addresses import MAX_URL, parse
from core.states import Status
from core.webhooks import State

MAX_CANDIDATES = 64
MAX_REFINE_STEPS = 400
MAX_DEADLINE = 30 * 86_400  # seconds
MAX_BULK = 100
PRINTABLE = r"^[^\x00-\x1f\x7f]*$"  # no control characters: PostgreSQL stores no NUL
MAX_SEED = 2**53 - 1  # the largest integer that every JSON reader keeps exactly


def _whole(value: object) -> object:
    """JSON knows one kind of number: 8.0 is an integer there."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


# The bounds come first: pydantic forgets those around a validator in the schema.
Candidates = Annotated[int, Field(ge=1, le=MAX_CANDIDATES), BeforeValidator(_whole)]
Seed = Annotated[int, Field(ge=0, le=MAX_SEED), BeforeValidator(_whole)]
Steps = Annotated[int, Field(ge=0, le=MAX_REFINE_STEPS), BeforeValidator(_whole)]


def _label(value: object) -> object:
    value = _whole(value)
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ValueError("must be a class label (integer) or a class name (string)")
    return value


Label = Annotated[
    Any,
    BeforeValidator(_label),
    WithJsonSchema({"anyOf": [{"type": "integer"}, {"type": "string"}]}),
]


def _callback(url: str) -> str:
    parse(url)
    return url


CallbackUrl = Annotated[str, AfterValidator(_callback)]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]


class Strict(BaseModel):
    """Refuses unknown fields and does not guess at types."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Require(Strict):
    """What a candidate must reach on the validation split; else the job fails."""

    max_forget_accuracy: Share = 0.0
    min_retain_accuracy: Share = 0.0


# DiHyFo tells no smaller losses apart.
Loss = Annotated[float, Field(ge=1e-3, le=100, allow_inf_nan=False)]


class LossPrompt(Strict):
    """Losses to aim at, in nats, instead of the retrained network's.

    Either of the sides (DiHyFo-1) or of single classes (DiHyFo-2); what is not named is free.
    """

    retain_loss: Loss | None = Field(None, description="mean over the retained classes")
    forget_loss: Loss | None = Field(None, description="mean over the forgotten classes")
    class_losses: dict[str, Loss] | None = Field(
        None, min_length=1, max_length=100, description="by class label or name"
    )

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        sides = self.retain_loss is not None or self.forget_loss is not None
        if sides == (self.class_losses is not None):
            raise ValueError("give retain_loss and/or forget_loss, or else class_losses")
        return self


class UnlearnRequest(Strict):
    """The body of `POST /unlearn`."""

    forget: list[Label] = Field(
        min_length=1,
        max_length=1_000,
        description="classes to forget, by label or name: 1 to K-1 distinct ones",
        examples=[[3, 7]],
    )
    generator: str | None = Field(
        None, max_length=64, description="a generator's id; default: the service's default one"
    )
    candidates: Candidates = Field(
        8, description="weight sets drawn; the best on validation is kept"
    )
    seed: Seed | None = Field(None, description="of the noise; default: a random one, recorded")
    prompt: LossPrompt | None = Field(
        None, description="losses to aim at; default: none, the weights are as if retrained"
    )
    refine_steps: Steps | None = Field(
        None,
        description="training steps on the retained classes after sampling; default: the "
        "generator's own, or 0 with a prompt",
    )
    require: Require | None = Field(None, description="a gate; without it the best is returned")
    external_id: str | None = Field(
        None,
        min_length=1,
        max_length=200,
        pattern=PRINTABLE,
        description="your own reference, such as a ticket number",
    )
    deadline_seconds: float | None = Field(
        None,
        ge=1,
        le=MAX_DEADLINE,
        allow_inf_nan=False,
        description="the job fails if it has not ended so soon after it was recorded",
    )
    callback_url: CallbackUrl | None = Field(
        None,
        min_length=1,
        max_length=MAX_URL,
        pattern=r"^https?://[^\s\\#]+$",
        description="told when the job has ended, by a signed POST (Standard Webhooks); https, "
        "to a public address",
        examples=["https://example.com/hooks/hyperforget"],
    )


class BulkRequest(Strict):
    """The body of `POST /unlearn/bulk`."""

    requests: list[UnlearnRequest] = Field(min_length=1, max_length=MAX_BULK)


class Progress(BaseModel):
    """How far a job is."""

    stage: str | None
    fraction: float


class Links(BaseModel):
    """Where to go on from a job; absent what it does not have yet."""

    self: str
    cancel: str | None = None
    weights: str | None = None
    predict: str | None = None
    report: str | None = None
    certificate: str | None = None
    deliveries: str | None = None


class JobView(BaseModel):
    """A job as the API shows it. Times are RFC 3339, UTC."""

    id: str
    status: Status
    generator: str
    forget: list[int]
    request: dict[str, Any]
    external_id: str | None
    callback_url: str | None
    created_at: str
    started_at: str | None
    finished_at: str | None
    deadline_at: str | None
    progress: Progress
    queue_position: int | None = Field(description="jobs that wait before this one, if queued")
    metrics: dict[str, Any] | None
    error: dict[str, Any] | None
    links: Links


class JobList(BaseModel):
    """Jobs in the order of their requests."""

    items: list[JobView]


class JobPage(BaseModel):
    """Some jobs, newest first."""

    items: list[JobView]
    next: str | None = Field(description="pass as `cursor` for the next page")


class DeliveryLinks(BaseModel):
    """Where to go on from a delivery; absent what is not possible now."""

    job: str
    replay: str | None


class DeliveryView(BaseModel):
    """The delivery of an event to a callback URL. Times are RFC 3339, UTC."""

    id: str = Field(description="the event's: the `webhook-id` of every attempt")
    event: str
    job: str
    callback_url: str
    status: State
    created_at: str
    attempts: int
    last_attempt_at: str | None
    last_status: int | None = Field(description="HTTP status of the last answer, if one came")
    last_error: str | None
    next_attempt_at: str | None
    links: DeliveryLinks


class DeliveryPage(BaseModel):
    """Some deliveries, newest first."""

    items: list[DeliveryView]
    next: str | None = Field(description="pass as `cursor` for the next page")


class Rotation(Strict):
    """The body of `POST /webhooks/secret`."""

    overlap_seconds: float = Field(
        86_400.0,
        ge=0,
        le=7 * 86_400,
        allow_inf_nan=False,
        description="for how long the secrets so far go on signing beside the new one; 0 when "
        "one has leaked",
    )


class SecretView(BaseModel):
    """A new signing secret: shown in this answer and never again."""

    secret: str = Field(description="`whsec_` and base64, as Standard Webhooks' libraries take it")
    overlap_ends_at: str


class ClassView(BaseModel):
    """A class of a generator."""

    label: int
    name: str


class GeneratorSummary(BaseModel):
    """A generator in a list."""

    id: str
    default: bool
    available: bool | None = Field(description="null while no worker is up to tell")
    unavailable_because: str | None
    classes: list[ClassView]
    classifier: dict[str, Any]
    digest: str


class GeneratorView(GeneratorSummary):
    """A generator with all that is needed to use and to check its weights."""

    normalize: dict[str, float]
    dataset: dict[str, Any]
    sampler: dict[str, Any]
    refinement: dict[str, Any]
    prompts: dict[str, Any] | None = Field(
        description="losses that 99% of the networks in training had, least and greatest: of "
        "single classes (`retained`, `forgotten`) and of a side's mean by the number of classes on "
        "it (`retain_loss`, `forget_loss`); null: trained without prompts"
    )
    dihyfo: dict[str, Any]
    training: dict[str, Any]
    held_out: list[int] = Field(description="forget sets never trained on; bit c = class c")
    reference: dict[str, Any] = Field(description="test accuracies of original and retrained")
    audit: dict[str, Any]


class GeneratorList(BaseModel):
    """All generators."""

    items: list[GeneratorSummary]


class ProblemView(BaseModel):
    """RFC 9457 problem details."""

    type: str
    title: str
    status: int
    detail: str
    instance: str
    errors: list[dict[str, str]] | None = None
