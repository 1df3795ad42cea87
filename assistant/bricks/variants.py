"""For which hosts a brick is: in names that `--host` takes, with the command that adds what is missing."""

from dataclasses import dataclass

from assistant.bricks.settle import ladder
from assistant.host.catalogue import catalogue
from assistant.registry import can_be_lent, train_command
from mattoni.card import BrickCard


@dataclass(frozen=True)
class Hosts:
    """The hosts of a brick."""

    versions: dict[str, int]  # by the host's name; empty: it is for any
    missing: tuple[str, ...]  # of the hosts that `auto` chooses from
    lent: dict[str, str]  # of those that are missing, the ones that borrow it, each with the host that answers then
    command: str | None  # trains what is missing, with `--host NAME`

    @property
    def sentences(self) -> tuple[str, ...]:
        """For people, a line each."""
        if not self.versions:
            return ("hosts: any",)
        said = ", ".join(f"{name} (version {version})" for name, version in self.versions.items())
        if not self.missing or self.command is None:
            return (f"hosts: {said}",)
        return (
            f"hosts: {said}",
            *(f"{self._instead(name)}; `{self.command} --host {name}` adds it" for name in self.missing),
        )

    def _instead(self, name: str) -> str:
        """What becomes of a turn that wants the brick, with a host that has no variant."""
        lender = self.lent.get(name)
        return f"not yet: {name}, and {lender} answers instead" if lender else f"not yet: {name}"


def hosts_of(card: BrickCard) -> Hosts:
    """The hosts that a brick has variants for, and those of the ladder that it has none for."""
    known = {entry.identity.fingerprint: name for name, entry in catalogue().items() if entry.identity is not None}
    cards = card.for_each_host()
    names = ("", *(variant.name for variant in card.variants))
    versions = {
        known.get(own.host.fingerprint, name or f"a {own.host.model_type} of width {own.host.hidden_size}"): own.version
        for own, name in zip(cards, names, strict=True)
        if own.host is not None
    }
    # Neurons of one host are nothing that another could have.
    wanted = ladder() if versions and card.kind != "emergent" else {}
    missing = tuple(name for name in wanted if name not in versions)
    borrowing = [name for name in missing if can_be_lent(card) and card.name not in wanted[name].does_itself]
    lent = {name: lender for name in borrowing if (lender := wanted[name].borrows_from) in versions}
    return Hosts(versions, missing, lent, train_command(card))
