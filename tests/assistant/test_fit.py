"""Making things fit: whole exchanges leave, the oldest first; a long text gives its best passages in reading order."""

from hypothesis import given
from hypothesis import strategies as st

from assistant.turn.fit import first_kept, fit_question, fit_text
from knowledge_bricks.passages import DocumentText, PageText, split_document

LENGTHS = st.lists(st.integers(1, 100), min_size=1, max_size=20)


@given(lengths=LENGTHS, room=st.integers(50, 400))
def test_what_is_kept_fits_or_is_the_last_exchange_alone(lengths, room):
    first = first_kept(lengths, room)
    assert 0 <= first < len(lengths)
    assert sum(lengths[first:]) <= room or first == len(lengths) - 1
    assert first == 0 or sum(lengths) > room, "nothing leaves while everything fits"


@given(lengths=LENGTHS, room=st.integers(50, 400))
def test_what_has_left_never_comes_back(lengths, room):
    firsts = [first_kept(lengths[: turn + 1], room) for turn in range(len(lengths))]
    assert firsts == sorted(firsts)


def test_when_one_must_leave_enough_leave_for_some_turns_to_come():
    # Each drop costs reading the history anew, so it should not happen on every turn.
    firsts = [first_kept([10] * turns, 100) for turns in range(1, 21)]
    assert sorted(set(firsts)) == [0, 4, 8, 12]


def test_a_message_keeps_its_beginning_and_its_end():
    text = "Translate this. " + "brick " * 500 + "Thank you."
    fitted, cut = fit_question(text, 300, len)
    assert cut and len(fitted) <= 300
    assert fitted.startswith("Translate this.") and fitted.endswith("Thank you.")
    assert fit_question("short", 300, len) == ("short", False)


def test_a_text_is_whole_or_its_best_passages_in_reading_order_and_the_very_best_behind_them():
    text = "\n\n".join(f"Paragraph {n}. " + "brick " * 60 for n in range(10))
    passages = split_document(DocumentText("a", (PageText(1, text),)))
    asked: list[int] = []

    def ranked():
        asked.append(1)
        return [passages[5], passages[7], passages[2], passages[0]]

    assert fit_text(text, len(text), len, ranked, 0) == (text, False) and not asked
    fitted, cut = fit_text(text, 10, len, ranked, 3 * len(passages[7].text) + 10)
    assert cut and fitted == f"{passages[2].text}\n\n{passages[7].text}\n\n{passages[5].text}"
    assert fit_text(text, 0, len, ranked, 0) == ("", True)
