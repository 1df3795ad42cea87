"""What clients send, in OpenAI's shapes. Fields that nobody here knows are ignored, as OpenAI does; those that are known
and not done are refused by name. Knows nothing of how an answer is made."""

import json
import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from server.problems import ApiError

MOST_MESSAGES = 2000
MOST_ANSWERS = 8
MOST_TEXTS = 2048
_MOST_STOPS = 16
# Half a pair of UTF-16, which JSON can bring, is no character: no tokenizer takes it.
_HALF = re.compile("[\ud800-\udfff]")


class Wire(BaseModel):
    """What comes over the wire."""

    model_config = ConfigDict(extra="ignore", allow_inf_nan=False)

    @field_validator("*")
    @classmethod
    def _can_be_said(cls, value: Any) -> Any:
        """Look at every text of the field, in lists and mappings too."""
        left = [value]
        while left:
            match left.pop():
                case str() as text if _HALF.search(text):
                    raise ValueError("half a pair of UTF-16 is no character: send the whole")
                case list() as items:
                    left += items
                case dict() as items:
                    left += [*items, *items.values()]
        return value


class TextPart(Wire):
    """Words."""

    type: Literal["text"]
    text: str


class ImageUrl(Wire):
    """Where a picture is: `data:image/png;base64,…`, or an address where the server may fetch."""

    url: str


class ImagePart(Wire):
    """A picture."""

    type: Literal["image_url"]
    image_url: ImageUrl | str


class FileData(Wire):
    """A file's name and its bytes, as base64 or as a data URL."""

    filename: str | None = None
    file_data: str | None = None
    file_id: str | None = None


class FilePart(Wire):
    """A document."""

    type: Literal["file"]
    file: FileData


class AudioData(Wire):
    """A recording's bytes as base64, and what they are: wav, mp3."""

    data: str
    format: str = "wav"


class AudioPart(Wire):
    """A recording."""

    type: Literal["input_audio"]
    input_audio: AudioData


Part = Annotated[TextPart | ImagePart | FilePart | AudioPart, Field(discriminator="type")]


class WireMessage(Wire):
    """One message. What an assistant said with a tool's help keeps its words."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[Part] | None = None


class StreamOptions(Wire):
    """What a stream tells beside the answer."""

    include_usage: bool | None = False


class Plain(Wire):
    """An answer of any form."""

    type: Literal["text"]


class JsonObject(Wire):
    """An answer that is a JSON object."""

    type: Literal["json_object"]


class NamedSchema(Wire):
    """A JSON schema."""

    name: str | None = None
    schema_: dict[str, Any] = Field(default_factory=dict, alias="schema")


class JsonSchema(Wire):
    """An answer that a JSON schema allows."""

    type: Literal["json_schema"]
    json_schema: NamedSchema


ResponseFormat = Annotated[Plain | JsonObject | JsonSchema, Field(discriminator="type")]


class LoraScale(Wire):
    """llama.cpp's way to name an adapter: its number in `/lora-adapters`, or its name."""

    id: int | str
    scale: float = 1.0


class ChatRequest(Wire):
    """A body of `/v1/chat/completions`.

    bricks  {name: strength, "on", "off" or "auto"} or a list of names; what is not named is off, unless "*" says otherwise
    """

    model: str | None = None
    messages: list[WireMessage] = Field(min_length=1, max_length=MOST_MESSAGES)
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, ge=0, le=1)
    top_k: int | None = Field(None, ge=-1, le=1_000_000)
    repetition_penalty: float | None = Field(None, gt=0, le=10)
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    seed: int | None = None
    stop: str | Annotated[list[str], Field(max_length=_MOST_STOPS)] | None = None
    n: int | None = Field(None, ge=1, le=MOST_ANSWERS)
    bricks: dict[str, float | str] | list[str] | None = None
    lora: list[LoraScale] | None = None
    response_format: ResponseFormat | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)
    # Known, and not done.
    tools: Any = None
    tool_choice: Any = None
    functions: Any = None
    function_call: Any = None
    logit_bias: Any = None
    presence_penalty: Any = None
    frequency_penalty: Any = None
    modalities: Any = None
    audio: Any = None


# For each field that is not done, what asks for nothing and is let through.
_ASKS_NOTHING: dict[str, tuple[Any, ...]] = {
    "tools": ([],),
    "tool_choice": ("none", "auto"),  # without tools
    "functions": ([],),
    "function_call": ("none", "auto"),
    "logit_bias": ({},),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "modalities": (["text"], []),
    "audio": (),
}
_INSTEAD = {
    "tools": "it speaks and does not act",
    "presence_penalty": "repetition_penalty is there",
    "frequency_penalty": "repetition_penalty is there",
}


def refuse_what_is_not_done(asked: ChatRequest) -> None:
    """Raise ApiError for the first field that asks for something this server does not do, rather than pass over it."""
    for name, nothing in _ASKS_NOTHING.items():
        value = getattr(asked, name)
        if value is not None and not any(value == one for one in nothing):
            why = f" ({_INSTEAD[name]})" if name in _INSTEAD else ""
            raise ApiError(
                400,
                f"{name} is not supported by this server{why}: leave it out.",
                code="unsupported_parameter",
                param=name,
            )


def json_schema_of(form: ResponseFormat | None) -> str | None:
    """What the answer is to keep to, as JSON; None: nothing."""
    match form:
        case JsonObject():
            return json.dumps({"type": "object"})
        case JsonSchema():
            return json.dumps(form.json_schema.schema_)
    return None


class EmbeddingsRequest(Wire):
    """A body of `/v1/embeddings`."""

    model: str | None = None
    input: str | Annotated[list[str], Field(min_length=1, max_length=MOST_TEXTS)]
    encoding_format: Literal["float", "base64"] | None = "float"
    dimensions: int | None = None
