"""The sections of calls to models, and of the annotation that is paid by the call."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal, Self

import orjson
from pydantic import Field, field_validator, model_validator

from sifthinker.config.choices import Named
from sifthinker.config.presets import PRESETS
from sifthinker.config.section import Section, added, address, operational

UNNAMED = (
    ""  # as an endpoint's base_url: none was given. A stage that asks it is refused before anything runs
)
SERVED = "served"  # as an endpoint's base_url: a server that the stage starts; its port is known only then
_SECRET = re.compile(
    r"(?i)api.?key|authori[sz]ation|secret|password|(?:access|auth).?token"
)  # a field's name
_KEY = re.compile(r"(?i)\s*(bearer\s+\S|sk-\w)")  # the beginning of a text
LOCAL = "local"  # as an endpoint's base_url: a server of the model in the folder `model` runs while the stage does
STANDIN = "standin"  # as an endpoint's base_url: the embedded stand-in server is started for the stage


class Prices(Section):
    """Money per million tokens; 0 = not counted."""

    currency: str = Field("USD", description="name shown beside amounts")
    prompt: float = Field(0, ge=0, description="per million prompt tokens")
    cached_prompt: float | None = Field(
        None, ge=0, description="per million prompt tokens that the provider had cached; none: as any other"
    )
    completion: float = Field(0, ge=0, description="per million completion tokens")
    batch_discount: float = Field(0.5, ge=0, le=1, description="factor on all prices in batch mode")


class Api(Section):
    """An OpenAI-compatible endpoint."""

    alone: ClassVar[bool] = True  # the default's model is one of another endpoint

    preset: Annotated[str, Named("preset")] | None = operational(
        None, description="a provider by name: fills in what differs there, in the fields that are left out"
    )
    base_url: str = Field(
        UNNAMED,
        description="where it is; there is no default. 'standin' starts the embedded stand-in server, whose replies are "
        "made up; 'local' a server of the model in the folder `model`",
    )
    model: str = Field("standin", description="the endpoint's name of the model; local: its folder")
    standin_sees: Literal["nothing", "miniature", "scenes"] = added(
        "nothing",
        description="standin: what the texts of its chains are made from. nothing: the places of the regions; miniature: "
        "what the miniature says is at each region (a stand-in for seeing); scenes: what scenes.json says is there",
    )
    local_server: Literal["vllm", "transformers"] = added(
        "vllm",
        description="local: what serves the model; transformers is for small ones, and takes two pictures",
    )
    local_gpus: str | None = operational(
        None, description="local: CUDA_VISIBLE_DEVICES of the server, e.g. '6,7'; none: all of the machine's"
    )
    mode: Literal["chat", "batch", "batch_chat"] = Field(
        "chat", description="batch: OpenAI Batch API; batch_chat: a provider's online batch endpoint"
    )
    batch_chat_path: str = Field("/batch/chat/completions", description="batch_chat: path below base_url")
    extra: dict[str, Any] = added({}, description="more fields of every request's body, sent as they are")
    token_limit_field: Literal["max_tokens", "max_completion_tokens", "none"] = added(
        "max_tokens",
        description="the field that limits a reply's tokens. OpenAI's reasoning models want max_completion_tokens; "
        "none: it is not sent",
    )
    leave_out: tuple[Literal["temperature", "seed"], ...] = added(
        (), description="fields that are not sent: models that reason refuse a temperature"
    )
    judge_tokens: int = added(
        1024,
        ge=16,
        description="most tokens of a judge's reply, its reasoning included; a score alone needs 10. Not given in "
        "the paper",
    )
    api_key_env: str = operational(
        "OPENAI_API_KEY",
        description="environment variable that holds the key; empty: the endpoint asks for none. Which variable may "
        "be sent to which host is the machine's choice (SIF_API_KEYS)",
    )
    requests_per_minute: int | None = operational(
        None, ge=1, description="the account's limit; none = no limit. Not in mode batch"
    )
    tokens_per_minute: int | None = operational(
        None, ge=1, description="the account's limit; none = no limit. Not in mode batch"
    )
    concurrency: int = operational(64, ge=1, description="most requests in flight; adapts below it")
    timeout: float = operational(120.0, gt=0, description="seconds for one request")
    retries: int = operational(
        8,
        ge=0,
        description="of the transport: 408, 409, 429, 5xx, time-outs, resets; what may be paid each time is tried 3 times at most",
    )
    max_pause: float = operational(
        600.0,
        gt=0,
        le=86_400,
        description="seconds; the longest pause (Retry-After) that is waited for. A server that then asks for a "
        "longer one again ends the stage",
    )
    budget_tokens: int | None = operational(None, ge=0, description="hard stop; none = no limit")
    budget_money: float | None = operational(None, ge=0, description="hard stop in the prices' currency")
    prices: Prices = operational(Prices())

    @model_validator(mode="before")
    @classmethod
    def _fill_in(cls, values: Any) -> Any:
        """What the preset says, where the configuration says nothing."""
        name = values.get("preset") if isinstance(values, dict) else None
        if not isinstance(name, str) or name not in PRESETS:
            return values  # `Named` refuses an unknown one
        if "model" not in values:
            raise ValueError(f"preset {name} names no model: set `model` to the endpoint's name of one")
        return {**PRESETS[name].fields, **values}

    @field_validator("base_url")
    @classmethod
    def _is_address(cls, base_url: str) -> str:
        return base_url if base_url in (UNNAMED, STANDIN, SERVED, LOCAL) else address(base_url)

    @field_validator("extra")
    @classmethod
    def _is_json(cls, extra: dict[str, Any]) -> dict[str, Any]:
        try:
            json.dumps(extra, allow_nan=False)
            orjson.dumps(extra)
        except (TypeError, ValueError) as error:
            raise ValueError(f"holds what JSON cannot: {error}") from error
        return extra

    @model_validator(mode="after")
    def _names_a_model(self) -> Self:
        if self.base_url not in (UNNAMED, STANDIN, SERVED, LOCAL) and self.model == STANDIN:
            raise ValueError(
                f"no model is named for {self.base_url}: set `model` to the endpoint's name of one ('{STANDIN}' is the embedded "
                "stand-in's)"
            )
        return self

    @model_validator(mode="after")
    def _no_field_twice(self) -> Self:
        refused = {"model": "set `model`", "messages": "the stage writes them"}
        refused |= {"stream": "replies are read whole", "n": "one reply is read"}
        for name in ("temperature", "seed"):
            if name not in self.leave_out:
                refused[name] = f"set it in the stage's section, or add it to leave_out ([{name}])"
        refused[self.token_limit_field] = "it is sent already: see token_limit_field"
        for name in self.extra:
            if name in refused:
                raise ValueError(f"extra must not hold {name}: {refused[name]}")
        if secret := next(_secrets(self.extra), ""):  # it would be in manifests and logs
            raise ValueError(f"extra must not hold {secret}: put a key into the environment (api_key_env)")
        return self

    def __hash__(self) -> int:
        """As a frozen model's, which cannot hash `extra`."""
        return hash(self.model_dump_json())

    @model_validator(mode="after")
    def _money_needs_prices(self) -> Self:
        if self.budget_money is not None and not (self.prices.prompt or self.prices.completion):
            raise ValueError(
                "budget_money cannot be held without prices: set prices.prompt and prices.completion (money per "
                "million tokens), or use budget_tokens"
            )
        return self


def _secrets(value: Any, place: str = "") -> Iterator[str]:
    """What in a JSON value is or holds a key, at any depth: its place, and never the key."""
    if isinstance(value, dict):
        for name, item in value.items():
            inside = f"{place}.{name}" if place else str(name)
            if _SECRET.search(str(name)):
                yield inside
            yield from _secrets(item, inside)
    elif isinstance(value, (list, tuple)):
        for number, item in enumerate(value):
            yield from _secrets(item, f"{place}[{number}]")
    elif isinstance(value, str) and _KEY.match(value):
        yield f"{place}, whose text looks like a key"


class Annotate(Section):
    """The chains' texts, written by a model behind an API."""

    api: Api = Api(model="doubao-1.5-vision-pro")  # paper: Doubao-1.5-vision-pro
    attempts: int = Field(
        3, ge=1, description="calls a sample may take, the reason fed back (release: 3 tries)"
    )
    temperature: float = Field(0.7, ge=0, description="not given in the paper")
    max_tokens: int = Field(2048, ge=64, description="of a reply; not given in the paper")
    max_pixels: int = Field(589_824, ge=3136, description="images are sized down to this before sending")
    jpeg_quality: int = Field(90, ge=1, le=100, description="percent, of the images sent")
    prompt: str = Field("", description="the system text; none: prompts.ANNOTATOR_SYSTEM")
    seed: int | None = Field(None, description="sent with every request, for models that know one")
    probe: bool = operational(
        True, description="one row is asked before the stage, and its reply shown; not in mode batch"
    )
    give_up_after: int = operational(
        50,
        ge=0,
        description="the stage stops when so many rows were rejected and none was accepted before; 0 = never",
    )


class Again(Section):
    """One pass over rows that were rejected: what differs from `annotate`. Fields left out are annotate's."""

    reasons: tuple[str, ...] = Field((), description="rows rejected for these reasons; none = for any")
    model: str | None = Field(None, description="another model of the same endpoint")
    api: Api | None = Field(None, description="another endpoint")
    prompt: str | None = Field(None, description="another system text")
    temperature: float | None = Field(None, ge=0, description="another temperature")
    seed: int | None = Field(
        None, description="another seed: an equal request has its answer in the ledger already"
    )
    attempts: int | None = Field(None, ge=1, description="calls a sample may take in this pass")


class Retry(Section):
    """Dead letters: the rows that annotate rejected, asked again, alone."""

    passes: tuple[Again, ...] = Field(
        (), description="one after the other, each over what is rejected by then; none = no such stage"
    )
