"""Receipts as rows of the skills that read them. Knows nothing of pictures or models: lines and fields come as arguments."""

import json
import random
import re
from collections.abc import Mapping, Sequence

FIELDS = ("company", "date", "address", "total")

# How people ask for it; `DEFAULT` also when it is measured.
DEFAULT = "Give me this receipt as JSON."
WORDINGS = (
    DEFAULT,
    DEFAULT,
    DEFAULT,
    "Give me this receipt as JSON with company, date, address and total.",
    "Turn this receipt into JSON.",
    "receipt to json please",
    "Extract company, date, address and total from this receipt as JSON.",
    "Make JSON of this.",
    "Return the shop, date, address and total of this receipt as a JSON object.",
    "Convert the receipt to JSON.",
)

_TELLS = re.compile(r"total|amount|cash|due|round|date|\d[/.-]\d\d?[/.-]\d|jalan|jln|taman|\b\d{5}\b", re.IGNORECASE)
_HEAD = 8  # lines: who it is from, and where


def receipt_json(fields: Mapping[str, str]) -> str:
    """The answer: the four fields in this order, empty where a receipt lacks one."""
    return json.dumps({name: fields.get(name, "").strip() for name in FIELDS}, ensure_ascii=False)


def shortened(lines: Sequence[str], rng: random.Random) -> list[str]:
    """A receipt with some of its goods left out: the head and every line with a date, an amount due or a place stay.

    How many differs from receipt to receipt, and a third stay whole. A row takes less time, and is new in every epoch.
    """
    share = max(0.0, rng.uniform(-0.4, 0.9))
    return [line for n, line in enumerate(lines) if n < _HEAD or _TELLS.search(line) or rng.random() >= share]


def receipt_message(text: str, wording: str = DEFAULT) -> str:
    """What a turn shows the host of a receipt and a message: the text that was read, and the message behind it."""
    return f"{text.strip()}\n\n{wording}"


# What is asked of a receipt by what it asks for; the first is how people mostly say it.
QUESTIONS = {
    "total": (
        "What is the total?",
        "What is the total?",
        "How much was it?",
        "What did I pay?",
        "how much is it all together",
        "What does it come to?",
        "Total?",
        "What is the total amount on this receipt?",
    ),
    "date": (
        "What is the date?",
        "When was it?",
        "Which day was this bought?",
        "What is the date on the receipt?",
        "date?",
        "When did I buy this?",
    ),
    "company": (
        "Which shop is it from?",
        "What shop is this?",
        "Where was this bought?",
        "Who is it from?",
        "What is the name of the shop?",
        "Who issued this receipt?",
    ),
    "address": (
        "What is the address of the shop?",
        "Where is the shop?",
        "What address is on the receipt?",
        "address please",
    ),
    "phone": ("What is the phone number?", "What is their telephone number?", "Is there a phone number on it?"),
    "time": ("At what time was it?", "What time is on the receipt?", "What time did I pay?"),
    "cash": ("How much cash was given?", "How much did I hand over?"),
    "change": ("How much change was there?", "What was the change?", "How much did I get back?"),
    "paid": ("How was it paid?", "How did I pay?", "Was it paid in cash or by card?", "What was the payment method?"),
    "price": (
        "How much is the {}?",
        "What does the {} cost?",
        "How much was the {}?",
        "What did the {} cost?",
        "price of the {}?",
    ),
    "dearest": ("What is the most expensive item?", "Which item cost the most?"),
    "goods": ("What was bought?", "What did I buy?", "What is on it?"),
}
_ANSWERS = {
    "total": "The total is {}.",
    "date": "The date is {}.",
    "company": "It is from {}.",
    "address": "The address is {}.",
    "phone": "The phone number is {}.",
    "time": "It was at {}.",
    "cash": "{} was given in cash.",
    "change": "The change was {}.",
    "paid": "It was paid {}.",
    "price": "It costs {}.",
    "dearest": "The most expensive item is {}.",
    "goods": "Bought: {}.",
}
UNSAID = "The receipt does not say."
_UNSAID_SHARE = 0.5  # of what a receipt says nothing of
_MONEY = r"(?:RM ?|\$ ?)?(\d+[.,]\d\d)"
_SAYS = {
    "phone": re.compile(r"\b(?:tel|phone|hp)\b[^\d+]{0,8}(\+?\d[\d -]{5,14}\d)", re.IGNORECASE),
    "time": re.compile(r"(?<![\d:])([012]?\d:[0-5]\d)(?:(?::[0-5]\d)?(?!\d))"),
    "cash": re.compile(rf"^cash\b[ :]*{_MONEY}$", re.IGNORECASE),
    "change": re.compile(rf"^change\b[^\d]{{0,8}}{_MONEY}$", re.IGNORECASE),
}
_CARDS = re.compile(r"\b(visa|mastercard|master card|credit card|debit card|card)\b", re.IGNORECASE)


def receipt_questions(lines: Sequence[str], fields: Mapping[str, str], rng: random.Random) -> list[tuple[str, str]]:
    """Questions on a receipt with their answers: its fields, and what its lines plainly say, of each kind one.

    Of what it does not say, some are asked for as well: the answer is then `UNSAID`.
    """
    said = {name: fields.get(name, "").strip(" .,") for name in FIELDS}
    for name, pattern in _SAYS.items():
        found = [match[1] for line in lines if (match := pattern.search(line))]
        said[name] = found[0] if len(set(found)) == 1 else "" if found else UNSAID
    cards = {match[1].casefold() for line in lines if (match := _CARDS.search(line))}
    if said["cash"] not in ("", UNSAID):
        said["paid"] = "in cash" if not cards else ""
    elif cards:
        said["paid"] = "by card"
    asked = [(kind, answer) for kind, answer in said.items() if answer]
    asked = [one for one in asked if one[1] != UNSAID or rng.random() < _UNSAID_SHARE]
    return [_asked(kind, answer, rng) for kind, answer in asked]


def _asked(kind: str, answer: str, rng: random.Random, *of: str) -> tuple[str, str]:
    question = rng.choice(QUESTIONS[kind]).format(*of)
    return question, answer if answer == UNSAID else _ANSWERS[kind].format(answer)


_SHOPS = (
    "{} BAKERY", "{} CAFE", "{} STORES", "{} HARDWARE", "{} BOOKS", "{} PHARMACY", "{} GARDEN CENTRE", "{} & SONS", "The {} Kitchen",
    "{} Market", "{} Grocery", "{} Stationery", "Café {}", "{} Bikes",
)  # fmt: skip
_PLACES = (
    "Ash", "River", "Maple", "North Gate", "Sunny", "Old Bridge", "Harvest", "Blue Door", "Cedar", "Lantern", "Fox", "Meadow", "Stone",
    "Willow", "Juniper", "Kestrel", "Orchard", "Pine", "Silver", "Thistle",
)  # fmt: skip
_STREETS = ("High Street", "Church Lane", "Station Road", "Park Avenue", "Elm Street", "Queen's Road", "Canal Street")
_GOODS = (
    "Almond cake", "Apple juice", "Apples 1kg", "Bagel", "Bananas", "Batteries AA", "Beef pie", "Black tea", "Blueberry muffin", "Brown bread",
    "Candles", "Carrots", "Cheddar 200g", "Cheese toastie", "Chicken soup", "Chocolate bar", "Cream bun", "Dish soap", "Door hinge",
    "Eggs x6", "Espresso", "Flat white", "Garden gloves", "Ginger beer", "Glue stick", "Green salad", "Hammer", "Honey jar", "Hot chocolate",
    "Ice cream", "Lemon tart", "Light bulb", "Lined notebook", "Milk 1L", "Mineral water", "Mushrooms", "Oat milk", "Olive oil", "Onions",
    "Orange squash", "Paint brush", "Pancakes", "Pencil set", "Plum jam", "Porridge", "Potatoes 2kg", "Raisin roll", "Rice 1kg", "Screws 50",
    "Scone", "Shampoo", "Sponge", "Sticky tape", "Tea towel", "Tomatoes", "Toothpaste", "Vegetable curry", "Walnut loaf", "Wood screws",
    "Yoghurt",
)  # fmt: skip


def written_receipt(rng: random.Random) -> tuple[list[str], list[tuple[str, str]]]:
    """The lines of a receipt that no shop printed, and questions with their answers, goods and payment among them."""
    joiner = rng.choice((" ", "\t", "  "))
    shop = rng.choice(_SHOPS).format(rng.choice(_PLACES))
    shop = shop.upper() if rng.random() < 0.5 else shop
    address = f"{rng.randint(1, 180)} {rng.choice(_STREETS)}"
    day, month, year = rng.randint(1, 28), rng.randint(1, 12), rng.randint(2015, 2026)
    date = rng.choice(
        (
            f"{day:02}/{month:02}/{year}",
            f"{day:02}.{month:02}.{year}",
            f"{year}-{month:02}-{day:02}",
            f"{day} {_MONTHS[month - 1]} {year}",
        )
    )
    goods = [(name, rng.randint(40, 2400)) for name in rng.sample(_GOODS, rng.randint(1, 6))]
    total = sum(cents for _, cents in goods)
    by_card = rng.random() < 0.5
    given = total if by_card else -(-total // 500) * 500
    time = f"{rng.randint(7, 21)}:{rng.randint(0, 59):02}"
    fields = {
        "total": _amount(total),
        "date": date,
        "company": shop,
        "address": address,
        "paid": "by card" if by_card else "in cash",
    }
    lines = [shop, address]
    if rng.random() < 0.5:
        fields["phone"] = f"0{rng.randint(1000, 9999)} {rng.randint(100000, 999999)}"
        lines.append(f"Tel {fields['phone']}")
    has_time = rng.random() < 0.5
    lines.append(f"{rng.choice(('Date ', 'Date: ', ''))}{date}{f' {time}' if has_time else ''}")
    lines += [f"{name}{joiner}{_amount(cents)}" for name, cents in goods]
    lines.append(f"{rng.choice(('TOTAL', 'Total', 'TOTAL DUE'))}{joiner}{_amount(total)}")
    if by_card:
        lines.append(f"{rng.choice(('CARD', 'Card', 'VISA'))}{joiner}{_amount(total)}")
    else:
        lines += [f"CASH{joiner}{_amount(given)}", f"CHANGE{joiner}{_amount(given - total)}"]
        fields |= {"cash": _amount(given), "change": _amount(given - total)}
    lines += rng.sample(
        ("Thank you", "Have a nice day", "VAT no. 418 2261 07", "Please keep this receipt", "Served by Sam"), 2
    )
    fields["time"] = time if has_time else UNSAID
    fields.setdefault("phone", UNSAID)
    pairs = [_asked(kind, answer, rng) for kind, answer in fields.items()]
    for name, cents in rng.sample(goods, min(2, len(goods))):
        pairs.append(_asked("price", _amount(cents), rng, name.lower()))
    pairs.append(_asked("goods", ", ".join(name for name, _ in goods), rng))
    dearest, runner_up = (sorted(goods, key=lambda good: -good[1]) * 2)[:2]
    if len(goods) > 1 and dearest[1] != runner_up[1]:
        pairs.append(_asked("dearest", f"{dearest[0]}, {_amount(dearest[1])}", rng))
    return lines, pairs


_MONTHS = "January February March April May June July August September October November December".split()


def _amount(cents: int) -> str:
    return f"{cents // 100}.{cents % 100:02}"
