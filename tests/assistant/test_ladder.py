"""Which host answers on which machine, and what it gives way to."""

from dataclasses import replace

import pytest

from assistant.bricks import settle as module
from assistant.bricks.settle import ladder, lends_to, lost_bricks, settle
from assistant.bricks.variants import hosts_of
from assistant.host import catalogue as catalogue_module
from assistant.host import speed as speed_module
from assistant.host.catalogue import BUILTIN_HOST, catalogue, check_host_memory, model_folder
from assistant.host.host import load_host
from assistant.host.ladder import Choice, Rung, choose
from assistant.host.speed import Speed, measured, remember
from assistant.host.wheels import Unavailable
from assistant.registry import Registry
from mattoni.errors import MattoniError
from mattoni.paths import shipped_models

GB = 10**9
MIDDLE, LARGE = "qwen2.5-coder-0.5b-instruct", "qwen2.5-coder-1.5b-instruct"


def rungs(middle: dict = {}, large: dict = {}, turn_s: tuple[float, float, float] = (2, 5, 20)) -> list[Rung]:  # noqa: B006
    return [
        Rung("small", 1 * GB, turn_s[0]),
        Rung("middle", **{"memory_bytes": 2 * GB, "turn_s": turn_s[1], **middle}),
        Rung("large", **{"memory_bytes": 4 * GB, "turn_s": turn_s[2], **large}),
    ]


# The choice, pure


@pytest.mark.parametrize(
    ("device", "memory_gb", "given", "name"),
    [
        ("cpu", 16, rungs(), "middle"),
        ("cpu", 16, rungs(turn_s=(2, 3, 7.9)), "large"),
        ("cpu", 16, rungs(turn_s=(6, 12, 40)), "small"),
        ("cpu", 16, rungs(turn_s=(20, 40, 90)), "small"),  # the smallest answers, however slow
        ("mps", 16, rungs(), "middle"),
        ("cuda", 16, rungs(), "large"),
        ("cuda", 3, rungs(), "middle"),
        ("cpu", 1.5, rungs(), "small"),
        ("cpu", 16, rungs(middle={"lost": ("photo",)}), "small"),
        ("cpu", 16, rungs(middle={"lost": ("photo",)}, turn_s=(1, 2, 3)), "large"),
        ("cpu", 16, rungs(middle={"is_here": False}), "small"),
        ("cuda", 16, rungs(large={"is_here": False}), "middle"),
        ("cpu", 16, rungs(middle={"turn_s": None}), "middle"),
    ],
)
def test_the_largest_host_that_loses_nothing_fits_and_is_fast_enough(device, memory_gb, given, name):
    assert choose(device, int(memory_gb * GB), given).name == name


def test_the_reason_says_what_stood_against_each_larger_host():
    lost = rungs(middle={"lost": ("chart", "photo")})
    assert choose("cpu", 16 * GB, lost) == Choice(
        "small",
        "small: the smallest, 2.0 s a turn on this CPU; no chart, photo yet for middle (--host takes one all the same); "
        "20 s a turn with large",
    )
    both = rungs(middle={"lost": ("photo",)}, large={"lost": ("photo",)})
    assert "; no photo yet for middle, large (" in choose("cuda", 16 * GB, both).reason
    assert choose("cpu", 3 * GB, rungs()).reason == (
        "middle: the largest that fits, 5.0 s a turn on this CPU; 4.0 GB of memory for large and 3.0 GB are free"
    )
    absent = choose("cuda", 16 * GB, rungs(large={"is_here": False}))
    assert absent.better == "large"
    assert absent.reason == "middle: the largest that fits; `mattoni models pull large` fetches a better one"


# Settling on a host of this machine


@pytest.fixture
def machine(monkeypatch):
    """A CPU with 16 GB, and no network: what is asked for is not there."""

    def no_network(name: str) -> None:
        raise Unavailable(f"Cannot download {name}: connect to the network once.")

    monkeypatch.setattr(module, "free_memory", lambda: 16 * GB)
    monkeypatch.setattr(module, "fetch", no_network)


SHIPPED = [shipped_models() / "bricks"]


def test_auto_says_which_shipped_bricks_a_host_lacks_and_counts_the_skills_that_it_borrows_as_there(machine, tiny_host):
    model_folder(BUILTIN_HOST).parent.mkdir(parents=True)
    assert "english-german" in lost_bricks(ladder()[MIDDLE], Registry(SHIPPED)), "there is nobody to borrow from"
    model_folder(BUILTIN_HOST).symlink_to(tiny_host, target_is_directory=True)
    choice = settle("auto", "cpu", Registry(SHIPPED))
    assert choice.name == BUILTIN_HOST
    assert " yet for " not in choice.reason and choice.better == MIDDLE, "the next, as no speed is known"
    cards = {brick.name: brick.card for brick in Registry(SHIPPED).scan().usable}
    assert hosts_of(cards["english-german"]).lent == {MIDDLE: BUILTIN_HOST, LARGE: BUILTIN_HOST}
    assert hosts_of(cards["photo"]).lent == {LARGE: BUILTIN_HOST}, "its stitch was carried over to the other"
    assert hosts_of(cards["reading"]).missing == (LARGE,) and not hosts_of(cards["reading"]).lent
    said = "\n".join(hosts_of(cards["photo"]).sentences)
    assert f"not yet: {LARGE}, and {BUILTIN_HOST} answers instead; `" in said


def test_what_is_named_as_done_by_a_host_itself_is_a_shipped_skill():
    skills = {brick.name for brick in Registry(SHIPPED).scan().usable if brick.card.kind == "task"}
    for entry in catalogue().values():
        assert entry.does_itself <= skills and (entry.borrows_from or not entry.does_itself)


def test_skills_are_borrowed_from_a_host_that_is_here(machine, tiny_host):
    middle, others = replace(load_host(str(tiny_host)), name=MIDDLE), (BUILTIN_HOST, "owner/name")
    assert lends_to(middle) is None, "the smallest cannot be had"
    model_folder(BUILTIN_HOST).parent.mkdir(parents=True)
    model_folder(BUILTIN_HOST).symlink_to(tiny_host, target_is_directory=True)
    identity, load, left = lends_to(middle)
    assert identity == ladder()[BUILTIN_HOST].identity and load().dtype == middle.dtype
    assert not left and "reading" in lends_to(replace(middle, name=LARGE)).except_for
    assert not [name for name in others if lends_to(replace(middle, name=name))]


def test_without_bricks_auto_takes_the_larger_host_that_is_here_and_fast_and_measures_it_once(
    machine, monkeypatch, tiny_host, capsys
):
    model_folder(MIDDLE).parent.mkdir(parents=True)
    model_folder(MIDDLE).symlink_to(tiny_host, target_is_directory=True)
    for _ in range(2):
        assert settle("auto", "cpu", Registry([])).name == MIDDLE
    assert capsys.readouterr().err.count(f"Measuring {MIDDLE} on this machine (once)") == 1
    assert set(measured(MIDDLE)) == {"cpu"}
    monkeypatch.setattr(module, "measured", lambda name: {"cpu": Speed(prefill=100, decode=5)})
    slow = settle("auto", "cpu", Registry([]))
    assert slow.name == BUILTIN_HOST and f"15 s a turn with {MIDDLE}" in slow.reason


def test_auto_fetches_nothing_and_says_what_would_be_better(machine, monkeypatch):
    fast = {"cpu": Speed(prefill=1000, decode=60)}
    monkeypatch.setattr(module, "measured", lambda name: fast if name == BUILTIN_HOST else {})
    choice = settle("auto", "cpu", Registry([]))
    assert (choice.name, choice.better) == (BUILTIN_HOST, MIDDLE)
    assert f"`mattoni models pull {MIDDLE}` fetches a better one" in choice.reason
    assert f" s a turn with {LARGE}" in choice.reason, "guessed from the smallest's speed"


def test_a_named_host_that_cannot_be_had_gives_way_to_the_smallest_and_says_why(machine):
    choice = settle(LARGE, "cpu", Registry([]))
    assert choice.name == BUILTIN_HOST
    assert choice.reason == (
        f"{BUILTIN_HOST} answers, as {LARGE} cannot be had: Cannot download {LARGE}: connect to the network once."
    )


@pytest.mark.parametrize("named", ["builtin", BUILTIN_HOST, "owner/name", "/some/folder"])
def test_what_needs_no_decision_is_taken_as_it_is(machine, named):
    assert settle(named, "cpu", Registry([])) == Choice(named, "")


def test_every_rung_says_what_it_needs_and_which_bricks_are_made_for_it():
    rows = ladder()
    assert list(rows) == [BUILTIN_HOST, MIDDLE, LARGE]
    unknown = rows[BUILTIN_HOST].model_copy(update={"identity": None})
    unfit, middle, large = (lost_bricks(host, Registry(SHIPPED)) for host in (unknown, rows[MIDDLE], rows[LARGE]))
    assert set(middle) < set(unfit) and "photo" not in middle, "its stitch was carried over"
    assert set(unfit) - set(large) == rows[LARGE].does_itself
    assert all(entry.identity for entry in rows.values())
    sizes = [entry.memory_bytes for entry in rows.values()]
    assert sizes == sorted(sizes)
    assert lost_bricks(rows[BUILTIN_HOST], Registry(SHIPPED)) == ()


# Speed and memory


def test_a_speed_is_kept_for_this_machine_and_a_damaged_file_costs_a_measurement(tiny_host, home, monkeypatch):
    host = load_host(str(tiny_host), "cpu", "float32")
    speed = remember(host)
    assert measured(host.name) == {"cpu": speed} and speed.turn_s > 0
    monkeypatch.setattr(speed_module.platform, "node", lambda: "another-machine")
    assert measured(host.name) == {}
    second = remember(host)
    monkeypatch.undo()
    monkeypatch.setenv("MATTONI_HOME", str(home))
    assert measured(host.name) == {"cpu": speed}, "each machine's own stays"
    assert second.prefill > 0
    (home / "cache" / "speeds.json").write_text("{")
    assert measured(host.name) == {}
    assert {"cpu": remember(host)} == measured(host.name)


def test_too_little_memory_is_said_with_what_would_fit(monkeypatch):
    monkeypatch.setattr(catalogue_module, "free_memory", lambda: int(1.95 * GB))
    with pytest.raises(
        MattoniError,
        match=rf"{LARGE} needs about \d\.\d GB of memory and 1\.9 GB are free: end other programs, or choose",
    ):
        check_host_memory(LARGE)
    check_host_memory(BUILTIN_HOST)
    check_host_memory("a-folder-of-the-users")
    monkeypatch.setattr(catalogue_module, "free_memory", lambda: GB // 10)
    with pytest.raises(MattoniError, match=r"0\.1 GB are free: end other programs\.$"):
        check_host_memory(LARGE)


def test_the_built_in_hosts_identity_is_the_one_that_shipped_bricks_name():
    """The built-in host's card, as shipped bricks were made for it."""
    from mattoni.card import read_card

    assert catalogue()[BUILTIN_HOST].identity == read_card(shipped_models() / "bricks" / "photo").host
