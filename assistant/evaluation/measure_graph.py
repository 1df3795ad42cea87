"""Measures a graph brick on questions over triples: `python -m assistant.evaluation.measure_graph [LIMIT]` prints one JSON object.

Needs MATTONI_DATA. The graph of countries.tsv is made and asked as a user's would be, on countries-dev; beside it stands the same
host with the right triples put before the question in the same words, and the share of unrelated chat messages in which the graph
has something to say.
"""

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from assistant.bricks.graph import add_graph
from assistant.host.catalogue import BUILTIN_EMBEDDER, fetch
from assistant.host.embedder import Embedder
from assistant.host.host import Host, load_host
from assistant.host.job import Job, answers_of
from assistant.host.local import LocalEngine
from assistant.host.prompt import Turn, build_prompt, opening
from assistant.host.sampling import Sampling
from assistant.registry import Registry
from assistant.turn.passages import best_passages, knowledge_segments
from knowledge_bricks.graph import Graph, Triple, read_triples
from knowledge_bricks.methods.graph import GraphRuntime
from mattoni.injections import Text
from mattoni.lines import json_rows
from mattoni.metrics import bootstrap, f1
from mattoni.paths import training_data
from mattoni.runtime import Asked
from mattoni.trace import Citation


def main() -> None:
    """Print the figures."""
    limit = int(sys.argv[1]) if len(sys.argv) > 1 else None
    print(json.dumps(measure(training_data() / "text", Embedder(fetch(BUILTIN_EMBEDDER)), limit), indent=2))


def measure(data: Path, embedder: Embedder, limit: int | None) -> dict[str, Any]:
    """Whether the right triples are found; and answers with them, with the right ones pasted, and without any.

    limit  of the questions of one hop and of two, that the host answers
    """
    with tempfile.TemporaryDirectory() as scratch:
        add_graph("countries", data / "countries.tsv", Path(scratch))
        (brick,) = Registry([Path(scratch)]).scan().usable
        content = (data / "countries.tsv").read_text(encoding="utf-8")
        triples = read_triples(content, "countries.tsv")
        graph = Graph(triples)
        runtime = GraphRuntime(brick, graph)
        rows = [row.value for row in json_rows(data / "countries-dev.jsonl")]
        found = {row["id"]: _cited(runtime, row["question"], embedder) for row in rows}
        chat = [row.value["text"] for row in json_rows(data / "chat-dev.jsonl")]
        fired = [bool(_cited(runtime, text, embedder)) for text in chat]
        report: dict[str, Any] = {"chat": {"n": len(chat), "has something to say": sum(fired)}}
        host = load_host()
        engine = LocalEngine(host)
        for hops in (1, 2):
            own = [row for row in rows if row["hops"] == hops]
            right = [any(any(a in c.text for a in row["answers"]) for c in found[row["id"]]) for row in own]
            asked = own[:limit]
            ways: dict[str, list[list[Citation]]] = {
                "graph": [found[row["id"]] for row in asked],
                "right triples": [_right(row, triples) for row in asked],
                "bare host": [[] for _ in asked],
            }
            report[f"{hops} hop"] = {
                "n": len(own),
                "answer among the cited": sum(right) / len(own),
                "answered": len(asked),
                **{name: _answered(host, engine, asked, cited) for name, cited in ways.items()},
            }
        engine.close()
    return report


def _cited(runtime: GraphRuntime, question: str, embedder: Embedder) -> list[Citation]:
    return best_passages([runtime.inject(Asked(question, embedder=lambda: embedder))])


def _right(row: dict[str, Any], triples: list[Triple]) -> list[Citation]:
    """The triples that answer the question, said as the graph says them."""
    *ways, relation = row["relation"].split("/")
    head, way = row["head"], ""
    if ways:
        head = next(t.head for t in triples if t.tail == row["head"] and t.relation == ways[0].removesuffix("^-1"))
        way = f"{row['head']} is the {ways[0].removesuffix('^-1')} of {head}. "
    tails = ", ".join(t.tail for t in triples if (t.head, t.relation) == (head, relation))
    words = relation.replace("_", " ")
    return [
        Citation(
            "countries", "countries.tsv", f"{head}, {words}", 1.0, f"{way}{words.capitalize()} of {head}: {tails}."
        )
    ]


def _answered(
    host: Host, engine: LocalEngine, rows: list[dict[str, Any]], cited: list[list[Citation]]
) -> dict[str, Any]:
    """Token F1 of greedy answers, with its 95 % interval."""
    jobs = []
    for row, citations in zip(rows, cited, strict=True):
        texts = [*knowledge_segments(citations), Text(row["question"])]
        prompt = build_prompt(host.tokenizer, [*opening(host), Turn("user", tuple(texts))])
        jobs.append(Job(prompt, (), Sampling(temperature=0, max_tokens=32), 0))
    scores = [f1(answer, row["answers"]) for row, answer in zip(rows, answers_of(engine, jobs), strict=True)]
    return {"F1": sum(scores) / len(scores), "interval": bootstrap(scores)}


if __name__ == "__main__":
    main()
