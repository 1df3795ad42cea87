"""The router is pure: vectors and choices in, a plan out."""

from dataclasses import replace

import pytest
import torch

from assistant.turn.question import holds_number
from assistant.turn.route import Choice, Choices, KeyedBrick, Keyring, Question, SeenPicture, route
from mattoni.errors import MattoniError
from mattoni.methods import Needs

E = torch.eye(4)
ACCEPTS = {"modality": {"picture"}, "task": {"text"}, "knowledge": {"text"}}


def keyed(name, kind, *rest, **more):
    """A brick as the router sees it, made by a method that is usual for its kind."""
    more = {"accepts": frozenset(ACCEPTS[kind]), "chosen_by": "itself" if kind == "knowledge" else "keys", **more}
    return KeyedBrick(name, kind, *rest, **more)


PHOTO = keyed("photo", "modality", "glance", E[:1], 0.6)
DOCUMENT = keyed("document", "modality", "glance", E[1:2], 0.6)
GERMAN = keyed("english-german", "task", "text", E[:1], 0.5)
SQL = keyed("sql", "task", "text", E[1:2], 0.5)
MANUAL = keyed("manual", "knowledge")
KEYRING = Keyring((PHOTO, DOCUMENT, GERMAN, SQL, MANUAL))


def picture(*direction: float, name: str = "cat.png") -> SeenPicture:
    return SeenPicture(name, torch.nn.functional.normalize(torch.tensor(direction, dtype=torch.float32), dim=0))


def names(plan):
    return [chosen and chosen.name for chosen in plan.pictures]


def test_each_picture_goes_to_the_brick_with_the_nearest_key():
    plan = route(Question((picture(1, 0.1, 0, 0), picture(0.2, 1, 0, 0))), KEYRING, Choices())
    assert names(plan) == ["photo", "document"]
    assert plan.notices == ()
    assert plan.pictures[0].reason == "nearest key 1.00, threshold 0.60"


def test_who_is_next_is_known_where_the_router_chose_and_not_where_the_user_did():
    seen = Question((picture(0.2, 1, 0, 0),))
    ((next_best,),) = route(seen, KEYRING, Choices()).runners_up
    assert (next_best.name, next_best.reason) == ("photo", "next best; nearest key 0.20, threshold 0.60")
    assert route(seen, KEYRING, Choices(vision="document")).runners_up == ((),)
    assert route(seen, KEYRING, Choices(bricks={"photo": Choice("off")})).runners_up == ((),)
    assert route(seen, KEYRING, Choices(no_bricks=True)).runners_up == ((),)


def test_every_score_is_kept_for_the_trace():
    plan = route(Question((picture(1, 0, 0, 0, name="a.png"),), texts=E[2:3]), KEYRING, Choices())
    assert [(c.name, c.subject, c.score) for c in plan.candidates] == [
        ("photo", "a.png", 1.0), ("document", "a.png", 0.0), ("english-german", "message", 0.0), ("sql", "message", 0.0)
    ]  # fmt: skip


def test_a_brick_added_later_is_found_by_its_keys_alone():
    chart = keyed("chart", "modality", "glance", E[2:3], 0.6)
    assert names(route(Question((picture(0, 0.1, 1, 0),)), Keyring((*KEYRING.bricks, chart)), Choices())) == ["chart"]


def test_a_brick_added_later_takes_no_picture_that_is_nearer_to_another_brick():
    lenient = keyed("stickers", "modality", "glance", E[2:3], 0.1)
    plan = route(Question((picture(0.5, 0, 0.4, 0.77),)), Keyring((*KEYRING.bricks, lenient)), Choices())
    assert names(plan) == ["photo"]
    assert [notice.code for notice in plan.notices] == ["fallback"]  # it is near to neither


def test_pictures_that_are_compared_are_seen_by_the_brick_that_the_comparison_needs():
    compare = keyed("compare", "task", "text", E[2:3], 0.5, needs=Needs(pictures=2, vision="photo"))
    shop_front = picture(0.7, 0.71, 0, 0, name="shop.png")  # a little nearer to `document`, and near enough to `photo`
    ring, beach = Keyring((*KEYRING.bricks, compare)), picture(1, 0, 0, 0)
    question = Question((beach, shop_front), E[2:3], about_several=True)
    plan = route(question, ring, Choices())
    assert names(plan) == ["photo", "photo"] and [s.name for s in plan.skills] == ["compare"]
    assert plan.pictures[1].reason.startswith("the message is about several pictures")
    assert names(route(replace(question, about_several=False), ring, Choices())) == ["photo", "document"]
    page = picture(0.1, 1, 0, 0, name="page.png")
    assert names(route(replace(question, pictures=(beach, page)), ring, Choices())) == ["photo", "document"]
    assert names(route(question, ring, Choices(bricks={"document": Choice("on")}))) == ["document", "document"]
    assert names(route(question, KEYRING, Choices())) == ["photo", "document"], "where no skill compares"


def test_a_skill_that_computes_is_chosen_only_for_a_message_with_a_number():
    sums = keyed("arithmetic", "task", "text", E[:1], 0.5, needs=Needs(number=True))
    for holds, wanted in ((True, [sums.name]), (False, [])):
        plan = route(Question(texts=E[:1], holds_number=holds), Keyring((sums,)), Choices())
        assert [skill.name for skill in plan.skills] == wanted
    by_hand = Choices(bricks={sums.name: Choice("on")})
    assert route(Question(texts=E[:1], holds_number=False), Keyring((sums,)), by_hand).skills, (
        "what the user sets is never undone"
    )


@pytest.mark.parametrize(
    ("message", "holds"),
    [
        ("Tom has 3 apples.", True),
        ("Ann has twelve eggs and eats half of them.", True),
        ("Seventeen birds sit in a tree.", True),
        ("How many days does a week have?", False),
        ("How many goals did she shoot?", False),
        ("Is one often late for tennis?", False),
    ],
)
def test_a_number_is_found_in_digits_and_in_words(message, holds):
    assert holds_number(message) is holds


def test_a_skill_is_not_chosen_for_a_message_that_its_counter_keys_are_nearer_to():
    german = keyed("english-german", "task", "text", E[:1], 0.5, counter=E[2:3])
    for_french, for_german = torch.tensor([[0.6, 0.0, 0.8, 0.0]]), torch.tensor([[0.8, 0.0, 0.6, 0.0]])
    assert route(Question(texts=for_french), Keyring((german,)), Choices()).skills == ()
    assert [s.name for s in route(Question(texts=for_german), Keyring((german,)), Choices()).skills] == [german.name]


@pytest.mark.parametrize(
    ("sent", "earlier", "several", "chosen"),
    [
        (0, (), True, []),
        (1, (), True, []),
        (2, (), False, ["compare"]),
        (1, ("photo",), True, ["compare"]),
        (1, ("photo",), False, []),
        (1, ("document",), True, []),
        (0, ("photo", "photo"), True, ["compare"]),
        (0, ("photo", "photo"), False, []),
    ],
)
def test_a_skill_for_two_pictures_is_chosen_where_its_image_brick_saw_two_and_the_message_is_about_them(
    sent, earlier, several, chosen
):
    compare = keyed("compare", "task", "text", E[:1], 0.5, needs=Needs(2, "photo"))
    question = Question((picture(1, 0, 0, 0),) * sent, E[:1], about_several=several, earlier_pictures=earlier)
    keyring = Keyring((PHOTO, compare))
    assert [skill.name for skill in route(question, keyring, Choices()).skills] == chosen
    by_hand = Choices(bricks={"compare": Choice("on")})
    assert [skill.name for skill in route(question, keyring, by_hand).skills] == ["compare"]


@pytest.mark.parametrize(
    ("sent", "earlier", "asked", "chosen"),
    [
        (1, (), {}, ["tell"]),
        (1, ("document",), {}, ["tell"]),
        (2, (), {}, []),
        (2, (), {"picture": "second"}, ["tell"]),
        (1, (), {"about_several": True}, []),
        (0, (), {"asks_about_picture": True}, []),
        (0, ("photo",), {"asks_about_picture": True}, ["tell"]),
        (0, ("photo",), {}, []),
        (0, ("photo", "document"), {"asks_about_picture": True}, []),
    ],
)
def test_a_skill_for_one_picture_is_chosen_where_its_image_brick_saw_the_one_that_the_message_is_about(
    sent, earlier, asked, chosen
):
    tell = keyed("tell", "task", "text", E[:1], 0.5, needs=Needs(1, "photo"))
    question = Question((picture(1, 0, 0, 0),) * sent, E[:1], goes_on=False, earlier_pictures=earlier, **asked)
    plan = route(question, Keyring((PHOTO, tell)), Choices())
    assert [skill.name for skill in plan.skills] == chosen
    assert plan.needs_several == bool(asked.get("about_several"))


@pytest.mark.parametrize(("at", "chosen"), [(0, ["tell"]), (1, []), (2, ["tell"]), (3, [])])
def test_of_several_pictures_it_is_the_named_one_that_its_image_brick_must_have_seen(at, chosen):
    tell = keyed("tell", "task", "text", E[:1], 0.5, needs=Needs(1, "photo"))
    own, earlier = (picture(1, 0, 0, 0), picture(0, 1, 0, 0)), ("photo", "document")
    question = Question(own, E[:1], goes_on=False, earlier_pictures=earlier, picture="named", picture_at=at)
    plan = route(question, Keyring((PHOTO, DOCUMENT, tell)), Choices())
    assert names(plan) == ["photo", "document"] and [skill.name for skill in plan.skills] == chosen


def test_a_picture_that_is_like_nothing_known_is_looked_at_all_the_same_and_a_notice_says_so():
    plan = route(Question((picture(0.1, 0.2, 0, 1),)), KEYRING, Choices())
    assert names(plan) == ["document"]
    assert [(n.code, n.text) for n in plan.notices] == [
        ("fallback", "cat.png is like nothing that an image brick knows; 'document' looked at it all the same.")
    ]
    assert plan.pictures[0].reason.startswith("fallback: nearest key 0.20")


def test_an_image_brick_without_keys_is_the_fallback_when_there_is_no_other():
    plan = route(Question((picture(1, 0, 0, 0),)), Keyring((keyed("own", "modality"),)), Choices())
    assert names(plan) == ["own"]
    assert plan.notices[0].code == "fallback"


def test_without_any_image_brick_a_notice_says_that_nobody_looked():
    plan = route(Question((picture(1, 0, 0, 0),)), Keyring((GERMAN,)), Choices())
    assert plan.pictures == (None,)
    assert plan.notices[0].text == "cat.png was not looked at: no image brick is installed and switched on."


def test_the_users_choice_of_vision_wins_over_every_score():
    plan = route(Question((picture(1, 0, 0, 0),) * 2), KEYRING, Choices(vision="document"))
    assert names(plan) == ["document", "document"]
    assert plan.pictures[0].reason == "chosen by hand"
    assert plan.pictures[0].score == 0.0
    assert plan.notices == ()


def test_an_image_brick_that_is_off_is_not_chosen_and_one_that_is_on_is():
    photo = Question((picture(1, 0.3, 0, 0),))
    assert names(route(photo, KEYRING, Choices(bricks={"photo": Choice("off")}))) == ["document"]
    assert names(route(photo, KEYRING, Choices(bricks={"document": Choice("on")}))) == ["document"]
    assert names(route(photo, KEYRING, Choices(bricks={"document": Choice("on"), "photo": Choice("on")}))) == ["photo"]


def test_a_skill_on_auto_is_chosen_when_the_message_is_near_enough():
    assert [s.name for s in route(Question(texts=E[:1]), KEYRING, Choices()).skills] == ["english-german"]
    assert route(Question(texts=E[2:3]), KEYRING, Choices()).skills == ()


def test_one_part_of_a_message_is_enough_to_choose_a_skill():
    assert [s.name for s in route(Question(texts=torch.stack([E[2], E[0]])), KEYRING, Choices()).skills] == [
        "english-german"
    ]


def test_a_skill_that_is_on_runs_with_its_strength_and_one_that_is_off_does_not():
    on = route(Question(texts=E[2:3]), KEYRING, Choices(bricks={"sql": Choice("on", 0.5)}))
    assert [(s.name, s.weight, s.reason) for s in on.skills] == [("sql", 0.5, "switched on by hand")]
    assert route(Question(texts=E[:1]), KEYRING, Choices(bricks={"english-german": Choice("off")})).skills == ()


def test_of_several_skills_on_auto_only_the_nearest_is_chosen():
    both = torch.nn.functional.normalize(torch.tensor([[0.9, 1.0, 0, 0]]), dim=1)
    assert [s.name for s in route(Question(texts=both), KEYRING, Choices()).skills] == ["sql"]


def test_knowledge_is_searched_unless_it_is_off():
    assert route(Question(), KEYRING, Choices()).knowledge == ("manual",)
    assert route(Question(), KEYRING, Choices(bricks={"manual": Choice("off")})).knowledge == ()


def test_no_bricks_means_none_and_a_picture_is_not_dropped_silently():
    plan = route(Question((picture(1, 0, 0, 0),), texts=E[:1]), KEYRING, Choices(no_bricks=True))
    assert (plan.pictures, plan.skills, plan.knowledge) == ((None,), (), ())
    assert [(n.code, n.text) for n in plan.notices] == [("refused", "cat.png was not looked at: bricks are off.")]


def test_an_unknown_name_is_an_error_that_lists_the_valid_ones():
    with pytest.raises(MattoniError, match=r"no image brick 'fotos' \(there are: document, photo\)"):
        route(Question(), KEYRING, Choices(vision="fotos"))
    with pytest.raises(MattoniError, match=r"no image brick 'sql' \(there are: document, photo\)"):
        route(Question(), KEYRING, Choices(vision="sql"))
    with pytest.raises(
        MattoniError, match=r"no brick 'greman' \(there are: document, english-german, manual, photo, sql\)"
    ):
        route(Question(), KEYRING, Choices(bricks={"greman": Choice("on")}))


def test_a_question_about_a_picture_without_one_is_answered_with_a_notice():
    asked = Question(asks_about_picture=True)
    assert [n.code for n in route(asked, KEYRING, Choices()).notices] == ["no-picture"]
    assert [n.code for n in route(asked, KEYRING, Choices(no_bricks=True)).notices] == ["no-picture"]


@pytest.mark.parametrize(
    "question",
    [
        Question((picture(1, 0, 0, 0),), asks_about_picture=True),
        Question(asks_about_picture=True, history_has_pictures=True),
        Question(asks_about_picture=True, has_documents=True),
    ],
)
def test_there_is_no_such_notice_when_there_is_something_to_look_at(question):
    assert route(question, KEYRING, Choices()).notices == ()


def test_pictures_of_earlier_messages_matter_unless_the_message_stands_alone():
    alone = Question(texts=E[2:3], goes_on=False, earlier_pictures=("photo",))
    assert not route(alone, KEYRING, Choices()).needs_seen
    for changes in ({"goes_on": True}, {"asks_about_picture": True}, {"about_several": True}):
        assert route(replace(alone, **changes), KEYRING, Choices()).needs_seen
    own = replace(alone, goes_on=True, asks_about_picture=True, pictures=(picture(1, 0, 0, 0),))
    assert not route(own, KEYRING, Choices()).needs_seen, "a message is about the picture that it brings"
    assert route(replace(own, about_several=True), KEYRING, Choices()).needs_seen
    page = replace(alone, goes_on=True, asks_about_picture=True, has_documents=True)
    assert not route(page, KEYRING, Choices()).needs_seen, "and about its document"
    assert route(Question(), KEYRING, Choices()).needs_seen, "nothing is known of a message without text"


def test_a_skill_that_compares_pictures_gets_the_earlier_ones():
    alone = Question(texts=E[:1], goes_on=False, about_several=True, earlier_pictures=("photo", "photo"))
    compare = keyed("compare", "task", "text", E[:1], 0.5, needs=Needs(2))
    assert route(alone, Keyring((compare,)), Choices()).needs_seen
    assert not route(replace(alone, about_several=False), Keyring((GERMAN,)), Choices()).needs_seen


def test_a_message_that_is_clearly_for_a_skill_misses_no_picture_and_a_doubtful_one_is_left_to_the_picture():
    asks = {"asks_about_picture": True}
    clear = route(Question(texts=E[:1], **asks), KEYRING, Choices())
    assert ([skill.name for skill in clear.skills], clear.notices) == (["english-german"], ())
    doubtful = 0.55 * E[:1] + 0.83 * E[3:4]
    assert route(Question(texts=doubtful, **asks), KEYRING, Choices()).skills == ()
    assert [s.name for s in route(Question(texts=doubtful), KEYRING, Choices()).skills] == ["english-german"]


def test_a_message_that_goes_on_with_what_was_said_misses_no_picture():
    assert route(Question(asks_about_picture=True, has_past=True), KEYRING, Choices()).notices == ()


def test_what_came_with_the_message_goes_before_knowledge_unless_the_user_says_otherwise():
    def plan(choices=None, **changes):
        found = route(Question(texts=E[2:3], **changes), KEYRING, choices or Choices())
        return found.knowledge, found.waiting

    assert plan() == (("manual",), ())
    assert plan(has_documents=True) == plan(pictures=(picture(1, 0, 0, 0),)) == ((), ("manual",))
    assert plan(history_has_pictures=True, goes_on=True) == ((), ("manual",))
    assert plan(history_has_pictures=True, goes_on=False) == (("manual",), ())
    by_hand = Choices(bricks={"manual": Choice("on")})
    assert plan(by_hand, has_documents=True) == (("manual",), ())
    assert plan(Choices(bricks={"manual": Choice("off")}), has_documents=True) == ((), ())


def test_a_skill_that_reads_the_message_alone_is_shown_no_past():
    skill = keyed("german", "task", "text", E[:1], 0.5, needs=Needs(reads="message"))
    assert route(Question(texts=E[:1]), Keyring((skill,)), Choices()).reads == "message"
    assert route(Question(texts=E[1:2]), Keyring((skill,)), Choices()).reads == "conversation"


def test_a_skill_that_needs_a_text_is_chosen_where_something_was_read_or_by_hand():
    skill = keyed("json", "task", "text", E[:1], 0.5, needs=Needs(reads="last", text=True))
    ring = Keyring((skill, keyed("reader", "modality", "glance", E[:1], 0.5, accepts=frozenset({"picture", "page"}))))

    def names(choices=None, **changes):
        return [chosen.name for chosen in route(Question(texts=E[:1], **changes), ring, choices or Choices()).skills]

    assert names() == [] and names(Choices(bricks={"json": Choice("on")})) == ["json"]
    assert names(has_documents=True) == names(earlier_text=True) == names(pictures=(picture(1, 0, 0, 0),)) == ["json"]
    assert names(earlier_pictures=("photo",)) == []


def test_auto_adds_no_skill_where_the_message_is_for_one_that_is_on():
    ring = Keyring((keyed("maths", "task", "text", E[:1], 0.5), keyed("sums", "task", "text", E[:1], 0.4)))
    on = Choices(bricks={"maths": Choice("on")})
    assert [s.name for s in route(Question(texts=E[:1]), ring, on).skills] == ["maths"]
    other = Keyring((keyed("maths", "task", "text", E[1:2], 0.5), keyed("sums", "task", "text", E[:1], 0.4)))
    assert [s.name for s in route(Question(texts=E[:1]), other, on).skills] == ["maths", "sums"]


def test_of_ten_thousand_skills_a_route_looks_at_the_near_ones_alone_and_scores_them_as_each_would():
    generator = torch.Generator().manual_seed(0)

    def drawn(count):
        return torch.nn.functional.normalize(torch.randn(count, 16, generator=generator), dim=1)

    skills = [keyed(f"s{n}", "task", "text", drawn(1 + n % 3), 0.9, counter=drawn(n % 4)) for n in range(10_000)]
    ring, texts = Keyring(tuple(skills)), drawn(3)
    scores = ring.text_index.scores(texts)
    assert [float(score) for score in scores[:50]] == pytest.approx(
        [skill.score(texts) for skill in skills[:50]], abs=1e-6
    )
    plan = route(Question(texts=texts), ring, Choices(bricks={"s7": Choice("on")}))
    best = max(skills, key=lambda skill: skill.score(texts))
    assert plan.candidates[0].name == best.name
    assert plan.skills[0].name == "s7" and plan.skills[0].score == pytest.approx(skills[7].score(texts), abs=1e-6)
    assert len(plan.candidates) < 200, "the trace holds what was near, not all"
    assert ("s7", best.name) == tuple(chosen.name for chosen in plan.skills) or best.score(texts) < 0.9


def test_skills_that_make_way_for_one_another_do_not_leave_a_message_to_nobody():
    """Tom has 12 apples and buys 7 more: it lay nearer to the counter-keys of both skills that compute, each for the other's messages."""
    message = torch.nn.functional.normalize(E[:1] + E[1:2], dim=1)
    towards = lambda row: torch.nn.functional.normalize(message + row, dim=1)  # noqa: E731
    sums = keyed("sums", "task", "text", E[:1], 0.5, counter=towards(E[1:2]))
    maths = keyed("maths", "task", "text", E[1:2], 0.5, counter=towards(E[:1]))
    names = lambda *bricks: [s.name for s in route(Question(texts=message), Keyring(bricks), Choices()).skills]  # noqa: E731
    assert max(sums.score(message), maths.score(message)) < 0, "a counter-key is nearer than every key"
    assert names(sums, maths) in (["sums"], ["maths"])
    assert names(sums) == names(maths) == [], "nobody else is there for it"
    # What is for neither stays with the host: its counter-key is taken by no other skill.
    chat = towards(E[2:3] / 2)
    both = [keyed(name, "task", "text", E[n : n + 1], 0.5, counter=chat) for n, name in enumerate(("sums", "maths"))]
    assert names(*both) == []
