"""Who may ask, and how much: the keys of a file, and what has been used of them. Knows no endpoint.

Keys are compared by digest and in constant time, all of them each time, so that the time of an answer tells nothing of a key.
The file is read again when it changes: a key that is taken out or revoked is refused with the next request.
"""

import hashlib
import hmac
import logging
import threading
from collections import defaultdict, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from time import time

import yaml
from pydantic import BaseModel, ConfigDict, Field, PositiveInt, TypeAdapter, ValidationError

from mattoni.errors import MattoniError
from server.problems import ApiError

LOG = logging.getLogger(__name__)
_SHORTEST = 16
_DIGEST = "sha256:"
_MINUTE_S = 60.0


class Key(BaseModel):
    """What a key is good for. Limits are a user's, whichever of their keys is used; None: none.

    tokens_per_day  of prompts and answers, by the UTC date; a turn that begins below the limit is finished
    bricks          the only ones that it may use
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    user: str = Field(min_length=1)
    requests_per_minute: PositiveInt | None = None
    tokens_per_day: PositiveInt | None = None
    bricks: frozenset[str] | None = None
    revoked: bool = False


_FILE = TypeAdapter(dict[str, Key])


def read_keys(path: Path) -> dict[str, Key]:
    """The keys of a YAML file by their digests (hexadecimal). A key stands there as it is, or as `sha256:` and its digest.

    Raises MattoniError, in which no key is written.
    """
    try:
        found = _FILE.validate_python(yaml.safe_load(path.read_text(encoding="utf-8")) or {})
    except OSError as problem:
        raise MattoniError(f"{path} cannot be read ({problem.strerror}): check the path.") from problem
    except ValidationError as problem:
        error = problem.errors()[0]
        where = ".".join(map(str, error["loc"][1:]))
        raise MattoniError(f"{path}: {where or 'a key'}: {error['msg'].lower()}; see docs/serving.md.") from problem
    except (yaml.YAMLError, UnicodeDecodeError) as problem:
        raise MattoniError(f"{path} is no YAML file of keys: see docs/serving.md.") from problem
    if short := sum(not key.startswith(_DIGEST) and len(key) < _SHORTEST for key in found):
        raise MattoniError(f"{path}: {short} of the keys are shorter than {_SHORTEST} characters: make longer ones.")
    return {_digest(key): told for key, told in found.items()}


def _digest(key: str) -> str:
    if key.startswith(_DIGEST):
        return key.removeprefix(_DIGEST).lower()
    return hashlib.sha256(key.encode("utf-8", "replace")).hexdigest()


@dataclass
class _Used:
    """What a user has used: when requests came in the last minute, and the tokens of a day."""

    requests: deque[float] = field(default_factory=deque)
    day: str = ""
    tokens: int = 0


class Keys:
    """The keys of a file, and what has been used of them since the server was started."""

    def __init__(self, path: Path, clock: Callable[[], float] = time) -> None:
        """Raises MattoniError where the file is not right."""
        self._path, self._clock = path, clock
        self._stamp = self._stamped()
        self._keys: Mapping[str, Key] = read_keys(path)
        self._used: defaultdict[str, _Used] = defaultdict(_Used)
        self._lock = threading.Lock()

    def key_of(self, authorization: str) -> Key:
        """The key in a request's `Authorization` header. Raises ApiError: 401 it is none, 403 it is revoked."""
        scheme, _, given = authorization.partition(" ")
        if scheme.lower() != "bearer" or not given.strip():
            raise ApiError(401, "A key is needed: send it as 'Authorization: Bearer KEY'.", code="invalid_api_key")
        digest, found = hashlib.sha256(given.strip().encode("utf-8", "replace")).hexdigest(), None
        for known, key in self._current().items():
            if hmac.compare_digest(known.encode(), digest.encode()):
                found = key
        if found is None:
            raise ApiError(
                401, "This key is not known: check it, or ask whoever runs this server.", code="invalid_api_key"
            )
        if found.revoked:
            raise ApiError(403, "This key was revoked: ask whoever runs this server for another.", code="key_revoked")
        return found

    def admit(self, key: Key) -> None:
        """Count a request. Raises ApiError (429) where the user is over a limit; such a request does not count."""
        now = self._clock()
        with self._lock:
            used = self._of(key.user, now)
            while used.requests and used.requests[0] <= now - _MINUTE_S:
                used.requests.popleft()
            if key.requests_per_minute is not None and len(used.requests) >= key.requests_per_minute:
                wait = int(used.requests[0] + _MINUTE_S - now) + 1
                said = f"{key.requests_per_minute} requests a minute are allowed, and so many were sent: wait {wait} s."
                raise ApiError(429, said, code="rate_limit_exceeded", retry_s=wait)
            if key.tokens_per_day is not None and used.tokens >= key.tokens_per_day:
                said = f"{key.tokens_per_day} tokens a day are allowed, and they are used: wait for tomorrow (UTC)."
                raise ApiError(429, said, code="insufficient_quota", retry_s=int(86400 - now % 86400) + 1)
            used.requests.append(now)

    def spend(self, user: str, tokens: int) -> None:
        """Count the tokens of a turn that has ended."""
        with self._lock:
            self._of(user, self._clock()).tokens += tokens

    def _of(self, user: str, now: float) -> _Used:
        used, day = self._used[user], datetime.fromtimestamp(now, UTC).date().isoformat()
        if used.day != day:
            used.day, used.tokens = day, 0
        return used

    def _current(self) -> Mapping[str, Key]:
        stamp = self._stamped()
        with self._lock:
            if stamp != self._stamp:
                self._stamp = stamp
                try:
                    self._keys = read_keys(self._path)
                except MattoniError as problem:
                    # Somebody is in the middle of writing it, or made a mistake: those who had a key keep it.
                    LOG.error("the keys stay as they were: %s", problem)
            return self._keys

    def _stamped(self) -> tuple[int, int] | None:
        try:
            found = self._path.stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_size
