"""The chat template of an imported host: the prompt that its checkpoint was trained on, pictures at their place in it.

Written for `assistant/host/prompt.py`, which hands each message over as `pictures` (a list) and `text`.
"""

import json

import mattoni.torchvision_ops  # noqa: F401

from transformers import AutoProcessor, PreTrainedTokenizerBase

from mattoni.errors import MattoniError
from modality_bricks.importing import Checkpoint

_PICTURES_FIRST = (
    "{%- for message in messages -%}{%- for picture in message['pictures'] -%}{{ picture }}{%- endfor -%}{%- endfor -%}"
)
# Query tokens stand in front of everything, BOS too, where the processors of both put them. Without a text BLIP-2 captions.
_BLIP2 = (
    _PICTURES_FIRST + "{{ BOS }}{%- for message in messages -%}{%- if message['text'] -%}"
    "{%- if message['role'] == 'user' -%}{{ 'Question: ' + message['text'] + ' ' }}"
    "{%- elif message['role'] == 'assistant' -%}{{ 'Answer: ' + message['text'] + '. ' }}"
    "{%- else -%}{{ message['text'] + ' ' }}{%- endif -%}{%- endif -%}{%- endfor -%}"
    "{%- if add_generation_prompt and messages[-1]['text'] -%}Answer:{%- endif -%}"
)
_INSTRUCTBLIP = (
    _PICTURES_FIRST + "{{ BOS }}{%- for message in messages -%}{{ message['text'] }}"
    "{%- if not loop.last -%}{{ ' ' if message['role'] == 'user' else '\\n' }}{%- endif -%}{%- endfor -%}"
)
# LLaVA-1.5's conversation, for a checkpoint that brings no template.
_LLAVA = (
    "{%- for message in messages -%}{%- if message['role'] != 'system' -%}{{ message['role'].upper() + ': ' }}{%- endif -%}"
    "{%- for part in message['content'] -%}{{ IMAGE + '\\n' if part['type'] == 'image' else part['text'] + ' ' }}"
    "{%- endfor -%}{%- endfor -%}{%- if add_generation_prompt -%}{{ 'ASSISTANT:' }}{%- endif -%}"
)
# A checkpoint's own template takes lists of parts and writes a placeholder for each picture; the pictures then take the
# placeholders' places, in their order.
_AROUND_OWN = (
    "{%- set all = namespace(messages=[], pictures=[]) -%}{%- for message in messages -%}"
    "{%- set one = namespace(parts=[]) -%}{%- for picture in message['pictures'] -%}"
    "{%- set one.parts = one.parts + [{'type': 'image'}] -%}{%- set all.pictures = all.pictures + [picture] -%}"
    "{%- endfor -%}{%- if message['text'] -%}"
    "{%- set one.parts = one.parts + [{'type': 'text', 'text': message['text']}] -%}{%- endif -%}"
    "{%- set all.messages = all.messages + [{'role': message['role'], 'content': one.parts}] -%}{%- endfor -%}"
    "{%- set messages = all.messages -%}{%- set rendered %}OWN{% endset -%}"
    "{%- if not rendered.startswith(BOS) -%}{{ BOS }}{%- endif -%}"
    "{%- for part in rendered.split(IMAGE) -%}{{ part }}"
    "{%- if not loop.last -%}{{ all.pictures[loop.index0] }}{%- endif -%}{%- endfor -%}"
)


def chat_template(checkpoint: Checkpoint, tokenizer: PreTrainedTokenizerBase) -> str:
    """The template for the host's tokenizer. Raises MattoniError when a LLaVA tokenizer has no picture placeholder."""
    starts_with_bos = tokenizer("x")["input_ids"][:1] == [tokenizer.bos_token_id]
    bos = json.dumps(str(tokenizer.bos_token) if starts_with_bos else "")
    if checkpoint.config.model_type == "blip-2":
        return _BLIP2.replace("BOS", bos)
    if checkpoint.config.model_type == "instructblip":
        return _INSTRUCTBLIP.replace("BOS", bos)
    image = tokenizer.convert_ids_to_tokens(checkpoint.config.image_token_id)
    if not isinstance(image, str) or image not in tokenizer.get_added_vocab():
        raise MattoniError(
            f"{checkpoint.title}: its tokenizer has no token for a picture; copy or fetch the checkpoint anew."
        )
    around = _AROUND_OWN.replace("BOS", bos).replace("IMAGE", json.dumps(image))
    return around.replace("OWN", _own(checkpoint) or _LLAVA.replace("IMAGE", json.dumps(image)))


def _own(checkpoint: Checkpoint) -> str | None:
    """The checkpoint's own template, if it has one that takes pictures."""
    try:
        template = AutoProcessor.from_pretrained(checkpoint.folder, local_files_only=True).chat_template
    except (
        Exception
    ):  # an incomplete processor raises whatever its class chose; the published template stands in for it
        return None
    return template if isinstance(template, str) and "image" in template else None
