"""Upload a finished run's student, card and report to a Hub repository."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass

from muki.errors import MukiError, RunFolderError, first_line
from muki.run_folder import RunFolder

logger = logging.getLogger(__name__)

_LEFT_OUT = (".lock", ".tmp")


class HubError(MukiError):
    """The Hub could not be reached, or refused."""


@dataclass(frozen=True)
class Pushed:
    """What was uploaded, and where it is to be seen."""

    url: str
    files: tuple[str, ...]


def push(run: RunFolder, repo: str, *, public: bool = False, report: bool = True, message: str | None = None) -> Pushed:
    """Upload in one commit; a second call updates the repository.

    The token is the one that huggingface_hub keeps itself (`hf auth login`); none is taken from here.

    Args:
        run: an evaluated run.
        repo: `name` or `owner/name`; made where it is not there yet.
        public: a new repository can be seen by everyone; private by default.
        report: upload the report too, which quotes texts of the pool.
        message: of the commit.

    Raises:
        RunFolderError: there is no student, or it has no card yet.
        HubError: no token, no network, or no permission.
    """
    from huggingface_hub import CommitOperationAdd, HfApi
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError

    if not (run.student / "README.md").exists():
        raise RunFolderError(f"{run.student}: no student with a card yet; run `muki run {run.root}` first")
    files = {path.relative_to(run.student).as_posix(): path for path in run.student.rglob("*") if path.is_file()}
    files = {name: path for name, path in files.items() if not name.endswith(_LEFT_OUT)}
    if report:
        files |= {f"report/{path.name}": path for path in (run.report, run.metrics) if path.exists()}
    adding = [CommitOperationAdd(path_in_repo=name, path_or_fileobj=path) for name, path in sorted(files.items())]
    api = HfApi(endpoint=os.environ.get("HF_ENDPOINT") or None, token=True)  # refuses before it asks without one
    try:
        made = api.create_repo(repo, private=not public, exist_ok=True)
        api.create_commit(made.repo_id, adding, commit_message=message or "A student made with muki")
    except LocalTokenNotFoundError:
        raise HubError(f"push to '{repo}': no token of the Hub on this machine; run `hf auth login` first") from None
    except HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else "no answer"
        raise HubError(f"push to '{repo}': the Hub refused ({status}: {_reason(error)}); {_remedy(status)}") from error
    except (OSError, ValueError) as error:
        raise HubError(f"push to '{repo}': not done ({_reason(error)}); check the name and the network") from error
    return Pushed(str(made), tuple(sorted(files)))


def _remedy(status: object) -> str:
    if status == 401:
        return "run `hf auth login` with a token that may write"
    if status == 403:
        return "the token must be allowed to write there; check it, and the repository's owner"
    return "try again later; nothing half-done is left, a push is one commit"


def _reason(error: Exception) -> str:
    return first_line(error, getattr(error, "server_message", None) or "")
