"""A graph of the user's in a turn."""

import json

from mattoni.paths import data_folder
from tests.assistant.conftest import done

TRIPLES = "Uganda\tcapital\tKampala\nUganda\tcurrency\tUgandan shilling\nNiger\tcurrency\tfranc\n"


def test_a_graph_is_added_cited_updated_and_removed(assistant, mattoni, tmp_path):
    file = tmp_path / "countries.tsv"
    file.write_text(TRIPLES)
    status, out, err = mattoni("graph", "add", "countries", file)
    assert status == 0, err
    assert out == "countries, version 1: Knows 3 things about 2 entities, from countries.tsv.\n"
    ticket = done(assistant.ask("currency Uganda"))
    assert ticket.error is None
    (cited, *_) = ticket.trace.citations
    assert (cited.brick, cited.document, cited.place) == ("countries", "countries.tsv", "Uganda, currency")
    assert cited.text == "Currency of Uganda: Ugandan shilling."
    assert not done(assistant.ask("Hello there")).trace.citations
    file.write_text(TRIPLES.replace("franc", "CFA franc"))
    assert mattoni("graph", "add", "countries", file)[0] == 1, "it is there already"
    assert "version 2" in mattoni("graph", "add", "countries", file, "--update")[1]
    listed = json.loads(mattoni("bricks", "list", "--json")[1])["bricks"]
    assert any(brick["name"] == "countries" for brick in listed)
    assistant.remove_brick("countries")
    assert not (data_folder() / "bricks" / "countries").exists()
