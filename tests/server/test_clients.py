"""Clients that people use, as they are, against the running server."""

import base64
import json
import math
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from shutil import which

import anthropic
import openai
import pytest

from server.app import Settings
from server.keys import Keys
from tests.assistant.conftest import png, write_adapter

TALK = [{"role": "user", "content": "What burns in the kiln?"}]


def data_url(colour="orange"):
    return "data:image/png;base64," + base64.b64encode(png(colour).content).decode()


@pytest.fixture
def client(serve):
    running = serve()
    with openai.OpenAI(base_url=f"{running.url}/v1", api_key="none needed", max_retries=0) as opened:
        yield opened


@pytest.fixture
def skills(assistant, tmp_path):
    """Two skills that change every answer."""
    return [
        assistant.add_skill(write_adapter(tmp_path / name, assistant.host, seed)).name
        for seed, name in enumerate(("one", "two"))
    ]


def test_openais_sdk_chats_streams_shows_pictures_and_embeds(client):
    model = client.models.list().data[0].id
    told = client.chat.completions.create(model=model, messages=TALK, max_tokens=6, seed=3)
    assert told.choices[0].message.content and told.choices[0].finish_reason == "length"
    assert told.usage.completion_tokens == 6 and told.usage.total_tokens == told.usage.prompt_tokens + 6
    assert told.mattoni["finish"] == "length" and told.mattoni["seed"] == 3
    options = {"include_usage": True}
    chunks = list(
        client.chat.completions.create(
            model=model, messages=TALK, max_tokens=6, seed=3, stream=True, stream_options=options
        )
    )
    said = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert said == told.choices[0].message.content
    assert chunks[-2].choices[0].finish_reason == "length"
    used = chunks[-1].usage
    assert (used.prompt_tokens, used.completion_tokens) == (told.usage.prompt_tokens, 6)
    assert chunks[-1].mattoni["tokens"]["prompt"] == told.mattoni["tokens"]["prompt"]
    seen = client.chat.completions.create(
        model=model,
        max_tokens=4,
        extra_body={"bricks": {"eyes": "auto"}},
        messages=[
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "What is this?"},
                    {"type": "image_url", "image_url": {"url": data_url()}},
                ],
            }
        ],
    )
    assert [brick["name"] for brick in seen.mattoni["bricks"]] == ["eyes"]
    vectors = client.embeddings.create(model="all-minilm-l6-v2", input=["a kiln", "a garden"]).data
    assert [len(one.embedding) for one in vectors] == [48, 48]
    assert sum(x * x for x in vectors[0].embedding) == pytest.approx(1, abs=1e-5)


def test_of_a_history_that_is_sent_again_only_what_is_new_is_read_and_nobody_finds_anothers(serve, tmp_path):
    (tmp_path / "keys.yaml").write_text("a-secret-of-annas: {user: anna}\na-secret-of-berts: {user: bert}\n")
    running = serve(Settings(keys=Keys(tmp_path / "keys.yaml")))

    def ask(who, talk):
        with openai.OpenAI(base_url=f"{running.url}/v1", api_key=f"a-secret-of-{who}", max_retries=0) as client:
            told = client.chat.completions.create(model="", messages=talk, max_tokens=6, extra_body={"bricks": []})
        return told.choices[0].message.content, told.usage.prompt_tokens_details.cached_tokens, told.usage.prompt_tokens

    said, cached, prompt = ask("annas", TALK)
    assert cached == 0
    longer = [*TALK, {"role": "assistant", "content": said}, {"role": "user", "content": "And then?"}]
    again, cached, _ = ask("annas", longer)
    assert cached >= prompt - 1
    assert ask("berts", longer)[:2] == (again, 0)


def test_bricks_are_named_in_three_ways_and_an_empty_list_is_the_bare_host(client, skills):
    model = client.models.list().data[0].id

    def ask(model=model, **extra):
        return client.chat.completions.create(model=model, messages=TALK, max_tokens=6, extra_body=extra)

    def used(told):
        return {brick["name"]: brick["weight"] for brick in told.mattoni["bricks"]}

    half = ask(bricks={"one": 0.5})
    assert used(half) == {"one": 0.5}
    assert used(ask(lora=[{"id": 0, "scale": 0.5}])) == {"one": 0.5}
    assert used(ask(lora=[{"id": 0, "scale": 0}, {"id": 1}])) == {"two": 1.0}
    by_model = ask(model=f"{model}+one")
    assert used(by_model) == {"one": 1.0} and by_model.model == f"{model}+one"
    assert used(ask(bricks=["one", "two"])) == {"one": 1.0, "two": 1.0}
    for nothing in ({"bricks": []}, {"bricks": {}}, {"lora": []}, {"bricks": {"one": 0}}):
        bare = ask(**nothing)
        assert used(bare) == {} and not bare.mattoni["injections"]
    assert bare.choices[0].message.content != by_model.choices[0].message.content
    with pytest.raises(openai.BadRequestError, match="no brick called 'three'"):
        ask(bricks={"three": 1})
    with pytest.raises(openai.NotFoundError, match="no model 'gpt-4'"):
        ask(model="gpt-4")
    with pytest.raises(openai.BadRequestError, match="no brick called"):
        ask(model=f"{model}+../../etc/passwd")


def test_clients_with_different_bricks_at_once_get_what_each_alone_gets(client, skills):
    asked = [{"bricks": bricks} for bricks in ([], ["one"], ["two"], {"one": 0.5, "two": 0.5})]

    def ask(extra):
        return client.chat.completions.create(model="", messages=TALK, max_tokens=12, extra_body=extra)

    alone = [ask(extra).choices[0].message.content for extra in asked]
    assert len(set(alone)) == len(asked)
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(ask, asked * 3))
    assert [told.choices[0].message.content for told in together] == alone * 3


def test_several_answers_have_seeds_and_traces_of_their_own(client):
    def ask(**more):
        return client.chat.completions.create(
            model="", messages=TALK, max_tokens=8, n=2, seed=7, temperature=2, extra_body={"bricks": []}, **more
        )

    told = ask()
    first, second = told.choices
    assert [choice.mattoni["seed"] for choice in told.choices] == [7, 8]
    assert first.message.content != second.message.content
    streamed = ["", ""]
    for chunk in ask(stream=True):
        for choice in chunk.choices:
            streamed[choice.index] += choice.delta.content or ""
    assert streamed == [first.message.content, second.message.content]


def test_a_stop_string_ends_an_answer(client):
    def ask(**more):
        return client.chat.completions.create(model="", messages=TALK, max_tokens=20, **more).choices[0]

    said = ask().message.content
    stop = said[3:5]
    assert ask(stop=stop).message.content == said[: said.index(stop)]
    assert ask(stop=[stop]).finish_reason == "stop"


def test_what_is_not_done_is_refused_by_name_and_what_nobody_knows_is_passed_over(client):
    tool = {"type": "function", "function": {"name": "f", "parameters": {}}}
    for name, value in {
        "tools": [tool],
        "frequency_penalty": 0.5,
    }.items():
        with pytest.raises(openai.BadRequestError, match=f"{name} is not supported by this server") as raised:
            client.chat.completions.create(model="", messages=TALK, **{name: value})
        assert raised.value.param == name
    told = client.chat.completions.create(
        model="", messages=TALK, max_tokens=1, tools=[], user="me", store=False, extra_body={"no_such_field": 1}
    )
    assert told.usage.completion_tokens == 1


PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 8}, "age": {"type": "integer", "minimum": 0, "maximum": 99}},
    "required": ["name", "age"],
    "additionalProperties": False,
}


def schema(schema):
    return {"type": "json_schema", "json_schema": {"name": "it", "schema": schema, "strict": True}}


def test_an_answer_keeps_to_a_json_schema_whole_and_streamed_while_others_speak_as_ever(client):
    def ask(number, **more):
        told = client.chat.completions.create(
            model="", messages=TALK, max_tokens=100, temperature=1.5, seed=number, extra_body={"bricks": []}, **more
        )
        return (
            told.choices[0].message.content
            if not more.get("stream")
            else "".join(chunk.choices[0].delta.content or "" for chunk in told)
        )

    alone = [ask(number) for number in range(3)]
    with ThreadPoolExecutor(8) as pool:
        plain = [pool.submit(ask, number) for number in range(3)]
        formed = [pool.submit(ask, number, response_format=schema(PERSON)) for number in range(3)]
    assert [one.result() for one in plain] == alone
    people = [json.loads(one.result()) for one in formed]
    assert all(set(one) == {"name", "age"} and 0 <= one["age"] <= 99 and len(one["name"]) <= 8 for one in people)
    assert ask(0, response_format=schema(PERSON), stream=True) == formed[0].result()
    listed = schema({"type": "array", "items": {"enum": ["a", "b"]}, "minItems": 2, "maxItems": 2})
    assert set(json.loads(ask(0, response_format=listed))) <= {"a", "b"}
    assert ask(0, response_format={"type": "json_object"}).startswith("{")
    assert ask(0, response_format={"type": "text"}) == alone[0]


def test_a_schema_that_cannot_be_kept_to_and_a_notice_where_json_was_asked_for_are_one_sentence(client):
    for wrong in (
        {"type": "nope"},
        {"$ref": "http://127.0.0.1:1/x"},
        {"not": {}},
        {"type": "number", "minimum": 5, "maximum": 1},
        {"type": "string", "pattern": "(("},
        {"enum": ["x" * 200_000]},
    ):
        with pytest.raises(openai.BadRequestError, match="The JSON schema") as raised:
            client.chat.completions.create(model="", messages=TALK, response_format=schema(wrong))
        assert "\n" not in raised.value.body["message"]
    for form in ({"type": "yaml"}, {"type": "json_schema"}, schema(3)):
        with pytest.raises(openai.BadRequestError, match="response_format"):
            client.chat.completions.create(model="", messages=TALK, response_format=form)
    damaged = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    for stream in (False, True):
        with pytest.raises(openai.BadRequestError, match="image-1.png"):
            client.chat.completions.create(
                model="",
                messages=[{"role": "user", "content": [damaged]}],
                response_format={"type": "json_object"},
                stream=stream,
            )


def test_log_probabilities_are_of_the_tokens_that_were_said(client):
    def ask(**more):
        return client.chat.completions.create(
            model="", messages=TALK, max_tokens=6, extra_body={"bricks": []}, logprobs=True, top_logprobs=3, **more
        )

    choice = ask().choices[0]
    tokens = choice.logprobs.content
    said = b"".join(bytes(token.bytes) for token in tokens)
    assert len(tokens) == 6 and said.decode("utf-8", "replace").startswith(choice.message.content[:3])
    for token in tokens:  # the likeliest are said at temperature 0
        assert len(token.top_logprobs) == 3 and token.logprob == token.top_logprobs[0].logprob <= 0
        assert sum(math.exp(other.logprob) for other in token.top_logprobs) <= 1.0001
    streamed = [chunk.choices[0].logprobs for chunk in ask(stream=True)]
    again = [token for told in streamed if told is not None for token in told.content]
    assert [token.bytes for token in again] == [token.bytes for token in tokens]
    # The second time the prompt's keys and values were kept, and one position was read alone.
    assert [token.logprob for token in again] == pytest.approx([token.logprob for token in tokens], abs=1e-4)
    with pytest.raises(openai.BadRequestError, match="ask for logprobs too"):
        client.chat.completions.create(model="", messages=TALK, top_logprobs=2)


def test_documents_come_as_files(client, prompts):
    note = base64.b64encode(b"The kiln burns at 900 degrees.").decode()
    for data in (note, f"data:text/plain;base64,{note}"):
        part = {"type": "file", "file": {"filename": "../../note.txt", "file_data": data}}
        client.chat.completions.create(
            model="",
            max_tokens=1,
            messages=[{"role": "user", "content": [part, {"type": "text", "text": "How hot?"}]}],
        )
        assert "burns at 900 degrees" in prompts[-1] and ".." not in prompts[-1]


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The python of an environment that holds two clients whose requirements are not this project's."""
    folder = tmp_path_factory.mktemp("clients")
    python = folder / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True, timeout=120)
    wanted = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *OTHER_CLIENTS]
    installed = subprocess.run(wanted, capture_output=True, text=True, timeout=300)
    if installed.returncode:
        pytest.skip(f"pip cannot install {' and '.join(OTHER_CLIENTS)} here: {installed.stderr[-200:]}")
    return python


OTHER_CLIENTS = ("litellm==1.110.2", "llm==0.36")
LITELLM = """
import json, sys, litellm
asked = dict(model=f"openai/{sys.argv[1]}", api_base=sys.argv[2], api_key="none", max_tokens=6, messages=json.loads(sys.argv[3]))
told = litellm.completion(**asked)
pieces = [piece.choices[0].delta.content or "" for piece in litellm.completion(**asked, stream=True)]
print(json.dumps([told.choices[0].message.content, "".join(pieces)]))
"""


@pytest.mark.slow
def test_litellm_chats_and_streams(serve, elsewhere):
    running = serve()
    command = [str(elsewhere), "-c", LITELLM, running.assistant.host.name, f"{running.url}/v1", json.dumps(TALK)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    told, streamed = json.loads(done.stdout.splitlines()[-1])
    assert told == streamed != ""


SCRIPT = """
import OpenAI from "openai";
const client = new OpenAI({ baseURL: process.argv[2], apiKey: process.argv[3], maxRetries: 0 });
const asked = { model: "", max_tokens: 6, seed: 1, messages: [{ role: "user", content: "What burns in the kiln?" }] };
const told = await client.chat.completions.create(asked);
let streamed = "";
for await (const chunk of await client.chat.completions.create({ ...asked, stream: true }))
  streamed += chunk.choices[0]?.delta?.content ?? "";
let refused = 0;
try { await client.chat.completions.create({ ...asked, bricks: ["no-such-brick"] }); } catch (problem) { refused = problem.status; }
const models = (await client.models.list()).data.map((model) => model.id);
console.log(JSON.stringify({ said: told.choices[0].message.content, streamed, refused, models, finish: told.mattoni.finish }));
"""


@pytest.mark.slow
def test_openais_sdk_for_javascript_chats_and_streams(serve, tmp_path):
    if which("npm") is None:
        pytest.skip("npm is not installed, so OpenAI's SDK for JavaScript is not tried")
    (tmp_path / "package.json").write_text('{"type": "module"}')
    installed = subprocess.run(
        ["npm", "install", "--no-audit", "--no-fund", "openai"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    if installed.returncode:
        pytest.skip(f"npm cannot install openai here: {installed.stderr[-200:]}")
    running = serve()
    (tmp_path / "ask.mjs").write_text(SCRIPT)
    done = subprocess.run(
        ["node", "ask.mjs", f"{running.url}/v1", "none"], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["said"] == told["streamed"] != "" and told["finish"] == "length"
    assert told["refused"] == 400 and told["models"][0] == running.assistant.host.name


def test_an_sdk_sends_its_key_and_is_told_what_is_wrong_with_it(serve, tmp_path: Path):
    file = tmp_path / "keys.yaml"
    file.write_text(
        "a-key-of-anna-0001: {user: anna, bricks: [eyes]}\na-key-of-bert-0001: {user: bert, revoked: true}\n"
    )
    running = serve(Settings(keys=Keys(file)))

    def models(key):
        with openai.OpenAI(base_url=f"{running.url}/v1", api_key=key, max_retries=0) as client:
            return [model.id for model in client.models.list().data]

    host = running.assistant.host.name
    assert models("a-key-of-anna-0001") == [host, f"{host}+eyes", "all-minilm-l6-v2"]
    with pytest.raises(openai.AuthenticationError, match="not known"):
        models("a-key-of-nobody-01")
    with pytest.raises(openai.PermissionDeniedError, match="revoked"):
        models("a-key-of-bert-0001")


def test_anthropics_sdk_chats_streams_and_shows_pictures_and_documents(serve, assistant, prompts, tmp_path):
    file = tmp_path / "keys.yaml"
    file.write_text("a-key-of-anna-0001: {user: anna}\n")
    running = serve(Settings(keys=Keys(file)))
    asked = {"model": assistant.host.name, "max_tokens": 6, "messages": TALK, "system": "Be brief."}
    with anthropic.Anthropic(base_url=running.url, api_key="a-key-of-anna-0001", max_retries=0) as client:
        told = client.messages.create(**asked)
        assert told.content[0].text and told.stop_reason == "max_tokens" and told.usage.output_tokens == 6
        assert told.mattoni["finish"] == "length" and "Be brief." in prompts[-1]
        with client.messages.stream(**asked) as stream:
            streamed = "".join(stream.text_stream)
            last = stream.get_final_message()
        assert streamed == told.content[0].text == last.content[0].text
        assert (last.stop_reason, last.usage.output_tokens) == ("max_tokens", 6)
        picture = {"type": "base64", "media_type": "image/png", "data": data_url().split(",")[1]}
        note = {"type": "text", "media_type": "text/plain", "data": "The kiln burns at 900 degrees."}
        blocks = [{"type": "image", "source": picture}, {"type": "document", "title": "note.txt", "source": note}]
        seen = client.messages.create(
            **{**asked, "messages": [{"role": "user", "content": [*blocks, {"type": "text", "text": "What is it?"}]}]},
            extra_body={"bricks": {"eyes": "on", "document": "auto"}},
        )
        assert {brick["name"] for brick in seen.mattoni["bricks"]} == {"eyes", "document"}
        assert "burns at 900 degrees" in prompts[-1] and "■" in prompts[-1]
        for wrong, said in (
            ({"tools": [{"name": "f", "input_schema": {"type": "object"}}]}, "tools is not supported"),
            ({"max_tokens": 0}, "max_tokens: input should be greater"),
            ({"extra_body": {"bricks": ["none"]}}, "no brick called 'none'"),
        ):
            with pytest.raises(anthropic.BadRequestError, match=said) as raised:
                client.messages.create(**{**asked, **wrong})
            assert raised.value.body["type"] == "error"
    with anthropic.Anthropic(base_url=running.url, api_key="another", max_retries=0) as client:
        with pytest.raises(anthropic.AuthenticationError):
            client.messages.create(**asked)


@pytest.mark.slow
def test_simon_willisons_llm_chats_and_streams(serve, elsewhere, tmp_path):
    running = serve()
    name = running.assistant.host.name
    (tmp_path / "extra-openai-models.yaml").write_text(
        f"- model_id: mattoni\n  model_name: {json.dumps(name)}\n  api_base: {running.url}/v1\n"
    )

    def run(*arguments):
        done = subprocess.run(
            [str(elsewhere), "-m", "llm", *arguments],
            capture_output=True,
            text=True,
            timeout=120,
            env={**os.environ, "LLM_USER_PATH": str(tmp_path), "OPENAI_API_KEY": "none"},
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    asked = ("-m", "mattoni", "-o", "max_tokens", "6", TALK[0]["content"])
    assert run(*asked) == run("--no-stream", *asked) != ""
