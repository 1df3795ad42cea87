"""Whether the page asks who somebody is, and whom its provider says they are: Streamlit's own OIDC. Knows nothing of what is theirs.

The settings are Streamlit's (`[auth]` in secrets.toml), and `[people]` beside them, which is ours. They are checked before the page
is served: Streamlit would let everybody in where its file cannot be read, and say what is missing only when somebody signs in.
"""

import importlib.util
import time
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import streamlit as st
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from assistant.people.person import Person, person_of
from mattoni.errors import MattoniError

_CALLBACK = "/oauth2callback"
_LOCAL = ("localhost", "127.0.0.1", "::1")
_SHORTEST_SECRET = 32  # characters: whoever guesses it is whom they like
_OF_PROVIDER = ("client_id", "client_secret", "server_metadata_url")
_ONLY = "default"  # what Streamlit calls the provider whose settings stand in [auth] itself


class SignIn(BaseModel):
    """Who may use the page, and as what. Holds no secret: it is an argument of the page's script.

    providers       as Streamlit calls them
    redirect_uri    where a provider sends people back to; {port} stands for the page's
    administrators  addresses that a provider vouches for, or ids that `mattoni people list --json` shows
    hours           after so long people sign in again
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    providers: tuple[str, ...]
    redirect_uri: str
    administrators: frozenset[str] = frozenset()
    hours: float = Field(default=24.0, gt=0)

    def to_arguments(self) -> list[str]:
        """What stands on the command line of the page's script, behind the host."""
        return [self.model_dump_json()]

    @classmethod
    def from_arguments(cls, arguments: Sequence[str]) -> "SignIn | None":
        """What they say; where they say nothing, what Streamlit's files do. Raises MattoniError."""
        if arguments:
            return cls.model_validate_json(arguments[0]) if arguments[0] else None
        return read_sign_in(secrets_files())

    def is_administrator(self, person: Person) -> bool:
        """Whether somebody may see how much everybody uses."""
        named = {one.casefold() for one in self.administrators}
        return person.id in named or (person.is_verified and bool(person.email) and person.email.casefold() in named)

    def has_expired(self, person: Person) -> bool:
        """Whether it is too long ago that they signed in."""
        return time.time() > person.since + self.hours * 3600


def secrets_files() -> list[Path]:
    """Where Streamlit looks for its settings: in the home and in the working folder."""
    return [Path(path) for path in st.config.get_option("secrets.files")]


def read_sign_in(files: Sequence[Path]) -> SignIn | None:
    """What the files say of signing in; None where they say nothing: then nobody signs in.

    Raises MattoniError, in which no secret is written.
    """
    told: dict[str, Any] = {}
    named = files[-1] if files else Path("secrets.toml")
    for path in files:
        if path.exists():
            told |= _read(path)
            named = path
    auth, people = told.get("auth"), told.get("people")
    if auth is None and people is None:
        return None
    if not isinstance(auth, Mapping):
        raise MattoniError(
            f"{named}: signing in needs a section [auth] with {', '.join(_OF_PROVIDER)}; see docs/serving.md."
        )
    redirect = _text(auth, "redirect_uri", named)
    address = urlsplit(redirect)
    if address.scheme not in ("http", "https") or not address.netloc or not address.path.endswith(_CALLBACK):
        raise MattoniError(
            f"{named}: redirect_uri is the page's own address and {_CALLBACK}, as http://localhost:8501{_CALLBACK}."
        )
    if len(_text(auth, "cookie_secret", named)) < _SHORTEST_SECRET:
        raise MattoniError(
            f"{named}: cookie_secret is shorter than {_SHORTEST_SECRET} characters: make one with "
            "python -c 'import secrets; print(secrets.token_hex(32))'."
        )
    providers = _providers(auth, named)
    if any(importlib.util.find_spec(name) is None for name in ("authlib", "httpx")):
        raise MattoniError(
            f'{named} asks people to sign in, and what does that is missing: pip install "mattoni[sign-in]".'
        )
    if people is not None and not isinstance(people, Mapping):
        raise MattoniError(f"{named}: people is a section: write [people] and its settings below; see docs/serving.md.")
    try:
        return SignIn(providers=providers, redirect_uri=redirect, **(people or {}))
    except ValidationError as problem:
        error = problem.errors()[0]
        where = ".".join(["people", *map(str, error["loc"])])
        raise MattoniError(f"{named}: {where}: {error['msg'].lower()}; see docs/serving.md.") from problem
    except TypeError as problem:  # a setting of [auth] in [people]
        raise MattoniError(f"{named}: [people] has only administrators and hours; see docs/serving.md.") from problem


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as problem:
        raise MattoniError(
            f"{path} cannot be read ({problem.strerror}): correct its rights, or remove it."
        ) from problem
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as problem:
        # What the parser says quotes nothing but signs and places.
        raise MattoniError(f"{path} is no TOML file ({problem}): correct it, or remove it.") from problem


def _providers(auth: Mapping[str, Any], file: Path) -> tuple[str, ...]:
    """The names of the providers, each with all that it needs."""
    sections = {name: told for name, told in auth.items() if isinstance(told, Mapping) and name != "client_kwargs"}
    if any(name in auth for name in _OF_PROVIDER) or not sections:
        sections = {_ONLY: auth, **sections}
    for name, told in sections.items():
        if "_" in name:
            raise MattoniError(
                f"{file}: [auth.{name}]: Streamlit takes no underscore in a provider's name: write another."
            )
        place = file if name == _ONLY else Path(f"{file}: [auth.{name}]")
        for key in _OF_PROVIDER:
            _text(told, key, place)
        address = urlsplit(str(told["server_metadata_url"]))
        if address.scheme != "https" and not (address.scheme == "http" and address.hostname in _LOCAL):
            raise MattoniError(f"{place}: server_metadata_url begins with https:// (http:// on this machine only).")
    return tuple(sections)


def _text(told: Mapping[str, Any], key: str, place: Path) -> str:
    value = told.get(key)
    if not isinstance(value, str) or not value.strip():
        raise MattoniError(f"{place}: {key} is missing, and nobody can sign in without it: see docs/serving.md.")
    return value


def check_port(sign_in: SignIn, port: int) -> None:
    """Raise MattoniError where a provider would send people back to another port of this machine."""
    address = urlsplit(sign_in.redirect_uri.replace("{port}", str(port)))
    found = address.port or (443 if address.scheme == "https" else 80)
    if address.hostname in _LOCAL and found != port:
        raise MattoniError(
            f"redirect_uri leads to port {found}, and the page is on port {port}: free that port, choose --port {found}, or write "
            "{port} there."
        )


def who_is_here(sign_in: SignIn) -> Person | None:
    """Who has signed in on this page. Raises MattoniError where their provider does not say who, or it is too long ago."""
    claims = st.user.to_dict()
    if claims.get("is_logged_in") is not True:
        return None
    person = person_of(claims)
    if sign_in.has_expired(person):
        raise MattoniError(f"You signed in more than {sign_in.hours:g} hours ago: sign in again.")
    return person


def draw_sign_in(sign_in: SignIn, sentence: str | None) -> None:
    """The page of somebody who is nobody yet.

    sentence  why they are not who they were
    """
    st.header("Mattoni", anchor=False)
    if sentence:
        st.error(sentence, icon=":material/lock_clock:")
    st.caption("Sign in to see your conversations.")
    for name in sign_in.providers:
        label = "Sign in" if name == _ONLY else f"Sign in with {name}"
        if st.button(label, key=f"sign-in-{name}", type="primary", icon=":material/login:"):
            st.login(None if name == _ONLY else name)
