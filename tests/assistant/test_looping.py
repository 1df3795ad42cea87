"""What a reader would call a loop, and what only repeats as lists, tables and poems do."""

import pytest

from assistant.evaluation.looping import goes_round

LOOPS = {
    "a word": "Deploying " * 12,
    "a sum": "The total is " + " + ".join(["10.00"] * 20),
    "a sentence, three times": "The dog is white and black. " * 3,
    "a list of one thing": "\n".join(f"{n}. Carrots" for n in range(1, 30)),
    "a list that begins again": "Green vegetables are: " + "kale, spinach, green peas, broccoli, " * 4,
    "a table of one row": "| Item | Price |\n|---|---|\n" + "| Rye loaf | 4.10 |\n" * 12,
    "steps that count on": " ".join(f"Step {n}: mix the flour with the water and stir." for n in range(1, 12)),
    "after a good beginning": "Tomatoes are boiled with onions, garlic and salt until they are soft. "
    + "Add salt. " * 20,
    "with small changes": " ".join(
        f"The {animal} is in the garden, and the garden is behind the house of the man."
        for animal in ("dog", "cat", "cow", "hen", "fox", "owl")
    ),
    "letters": "ha" * 60,
    "digits": "1." + "0" * 80,
    "Japanese": "延滞料は十円です。" * 5,
}
NO_LOOPS = {
    "nothing": "",
    "twice": "A dog is running in the water. A dog is running in the water.",
    "laughter": "Ha ha ha, that is a good one.",
    "a poem with a refrain": (
        "Rain on the roof and rain on the tree,\nrain on the river and rain on me.\n"
        "Soft is the sound that the water makes,\nfilling the gutters, the ponds and the lakes.\n"
        "Rain on the roof and rain on the tree,\nthe clouds roll over the hill to the sea."
    ),
    "a table of numbers": "\n".join(f"| 20{n:02} | {n}.00 | {n * 7}.00 | {n * 13}.00 |" for n in range(1, 25)),
    "a price list": "\n".join(
        f"| {thing} | {price}.50 |"
        for price, thing in enumerate("apples pears plums bread milk eggs cheese honey soap salt rice oats".split())
    ),
    "counting": " ".join(map(str, range(80))),
    "a list of ten": "\n".join(
        f"{n}. {name}"
        for n, name in enumerate("kale spinach peas beans leek cabbage lettuce cress celery broccoli".split(), 1)
    ),
}


@pytest.mark.parametrize("answer", LOOPS.values(), ids=LOOPS)
def test_an_answer_that_goes_round_is_a_loop(answer):
    assert goes_round(answer)


@pytest.mark.parametrize("answer", NO_LOOPS.values(), ids=NO_LOOPS)
def test_an_answer_that_goes_on_is_none(answer):
    assert not goes_round(answer)
