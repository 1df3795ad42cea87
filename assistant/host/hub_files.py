"""Single files and whole repositories of the Hugging Face Hub, without pickles. Knows nothing of what they are for."""

import errno
import os
import shutil
from pathlib import Path

from huggingface_hub import constants, get_hf_file_metadata, hf_hub_download, hf_hub_url, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

from assistant.host.wheels import Unavailable
from mattoni.files import sha256_of

# Where a firewall drops what it does not like, nothing answers; waiting longer would only keep the other source waiting.
_PROBE_S = 5


def fetch_file(source: str, sha256: str, target: Path) -> bool:
    """Put a file of the Hub, `owner/name/path`, at `target`, if the Hub can be reached and has those very bytes there.

    A download that was interrupted is gone on with. Raises OSError when the disk is full.
    """
    owner, name, path = source.split("/", 2)
    repository, scratch = f"{owner}/{name}", target.with_name(f"{target.name}.hub")
    if constants.HF_HUB_OFFLINE or _digest(repository, path) != sha256:
        return False
    try:
        got = Path(hf_hub_download(repository, path, local_dir=scratch))
    except (HfHubHTTPError, OSError, ValueError) as problem:
        if isinstance(problem, OSError) and problem.errno == errno.ENOSPC:
            raise
        return False
    same = sha256_of(got) == sha256
    if same:
        os.replace(got, target)
    shutil.rmtree(scratch)
    return same


def _digest(repository: str, path: str) -> str | None:
    """The sha256 that the Hub states for a large file, asked once: its downloads would try for half a minute."""
    try:
        return get_hf_file_metadata(hf_hub_url(repository, path), timeout=_PROBE_S).etag
    except Exception:  # of whatever HTTP library it is made; there are other sources
        return None


def fetch_repository(repository: str, folder: Path) -> None:
    """Put a repository's safetensors, configuration and tokenizer into `folder`; pickles stay there."""
    patterns = ["*.json", "*.safetensors", "*.jinja", "*.model", "*.txt"]
    try:
        snapshot_download(repository, local_dir=folder, allow_patterns=patterns)
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as problem:
        if isinstance(problem, OSError) and problem.errno == errno.ENOSPC:
            raise
        raise Unavailable(
            f"Cannot fetch {repository} from the Hub ({type(problem).__name__}): check the id and the network, or "
            "name a local folder."
        ) from problem
    shutil.rmtree(folder / ".cache", ignore_errors=True)
