"""Upload branches to the Hugging Face hub so that any interruption can be followed by the same command.

A branch is one commit, so a reader never sees half of it. Before a branch is uploaded, what lies there is compared by
content (git's SHA-1 for small files, SHA-256 for large ones), and only what differs is sent: a second run uploads
nothing, and after a kill the command goes on with the branch it was at. Weights and files of the tokenizer that lie on
a branch and no longer in the folder (shards beside a later single file) are removed in the same commit; whatever else
lies there stays. Milestones begin at the repository's first commit, so that no file of the final model lies on their
branches.

The access token is read by huggingface_hub (`hf auth login`, or HF_TOKEN) and never passes through our hands: it cannot
be given on the command line, where other users of the machine would see it, and stands in no message.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from babyllama.common.errors import BabyLlamaError, ConfigError
from babyllama.sharing.hub_files import MAIN, Branch, PublishedFile, is_of_model

if TYPE_CHECKING:
    from huggingface_hub.errors import HfHubHTTPError
    from huggingface_hub.hf_api import RepoFile


class HubError(BabyLlamaError):
    """The hub could not be reached, or answered with an error; the same command goes on."""


class Hub:
    """One repository on the hub.

    Args:
        repo_id: "org/name"; "name" alone stands for the user's own.
        endpoint: Address of the hub; None: HF_ENDPOINT, else huggingface.co.
    """

    def __init__(self, repo_id: str, endpoint: str | None = None) -> None:
        from huggingface_hub import HfApi
        from huggingface_hub.errors import HFValidationError
        from huggingface_hub.utils import disable_progress_bars, validate_repo_id

        try:
            validate_repo_id(repo_id)
        except HFValidationError as error:
            raise ConfigError(f"{repo_id!r} is no name of a repository: {str(error).splitlines()[0]}") from None
        disable_progress_bars()
        self.repo_id = repo_id
        self._api = HfApi(endpoint=endpoint)

    def create(self, *, private: bool) -> str:
        """Make the repository where it is not there yet.

        Args:
            private: Whether a new one is private; one that is there stays as it is.

        Returns:
            Its address.
        """
        with _told(self.repo_id):
            url = self._api.create_repo(self.repo_id, private=private, exist_ok=True)
        self.repo_id = url.repo_id
        return str(url)

    def is_private(self) -> bool:
        """Return whether only its owners see the repository."""
        with _told(self.repo_id):
            return bool(self._api.model_info(self.repo_id).private)

    def branch_names(self) -> set[str]:
        """Return names of the branches that are there."""
        with _told(self.repo_id):
            return {branch.name for branch in self._api.list_repo_refs(self.repo_id).branches}

    def add_branch(self, name: str) -> None:
        """Make a branch that begins at the repository's first commit."""
        with _told(self.repo_id):
            first = self._api.list_repo_commits(self.repo_id)[-1].commit_id
            self._api.create_branch(self.repo_id, branch=name, revision=first, exist_ok=True)

    def changed(self, branch: Branch) -> tuple[list[PublishedFile], list[str]]:
        """Return the files of a branch whose content is not on the hub yet, and names of files to be removed there.

        The latter are weights and tokenizer of an earlier publication, which a reader might take for the model's.
        """
        with _told(self.repo_id):
            there = {
                entry.path: entry
                for entry in self._api.list_repo_tree(self.repo_id, revision=branch.name, recursive=True)
                if hasattr(entry, "blob_id")
            }
        wanted = {file.name for file in branch.files}
        files = [file for file in branch.files if file.name not in there or not _same(file, there[file.name])]
        return files, sorted(name for name in there if name not in wanted and is_of_model(name))

    def upload(self, branch: str, files: list[PublishedFile], message: str, removed: Sequence[str] = ()) -> None:
        """Upload files, and remove others, in one commit."""
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete

        operations: list[CommitOperationAdd | CommitOperationDelete] = [
            CommitOperationAdd(path_in_repo=file.name, path_or_fileobj=file.source) for file in files
        ]
        operations += [CommitOperationDelete(path_in_repo=name) for name in removed]
        with _told(self.repo_id):
            self._api.create_commit(self.repo_id, operations, commit_message=message, revision=branch)


def publish_branches(hub: Hub, branches: list[Branch], say: Callable[[str], None]) -> int:
    """Bring branches onto the hub, one after the other.

    Args:
        hub: The repository, which exists.
        branches: What is wanted there, from `hub_files.branches`.
        say: Told a line a branch.

    Returns:
        Number of files that were uploaded.
    """
    uploaded = 0
    there = hub.branch_names()
    for branch in branches:
        if branch.name != MAIN and branch.name not in there:
            hub.add_branch(branch.name)
        files, left = hub.changed(branch)
        if files or left:
            hub.upload(branch.name, files, f"Publish {branch.name} with BabyLlama", left)
        uploaded += len(files)
        rest = "" if files else ", all were there"
        rest += f"; removed, of an earlier publication: {', '.join(left)}" if left else ""
        say(f"{branch.name}: {len(files)} of {len(branch.files)} files uploaded{rest}")
    return uploaded


def _same(file: PublishedFile, there: RepoFile) -> bool:
    """Return whether a file has the content that the hub has."""
    if there.size != file.size:
        return False
    content = file.read()
    if there.lfs is not None:
        return hashlib.sha256(content).hexdigest() == there.lfs.sha256
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest() == there.blob_id


@contextmanager
def _told(repo_id: str) -> Iterator[None]:
    """Turn the library's errors into one line that says what to do.

    Raises:
        ConfigError: Not logged in, no right to write, no such organisation, offline by the user's own setting.
        HubError: The hub cannot be reached, or failed.
    """
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError, OfflineModeIsEnabled

    unreachable = HfHubHTTPError.__bases__[0]  # HTTPError of httpx or of httpx2, as the installed version uses
    try:
        yield
    except LocalTokenNotFoundError:
        raise ConfigError("not logged in at the hub: hf auth login, or set HF_TOKEN") from None
    except OfflineModeIsEnabled:
        raise ConfigError("HF_HUB_OFFLINE is set: unset it to publish (--dry-run needs no network)") from None
    except HfHubHTTPError as error:
        raise _answer(repo_id, error) from None
    except ValueError as error:
        if not str(error).startswith("Invalid metadata in README.md"):
            raise
        raise ConfigError("the hub does not take the head of README.md: " + " ".join(str(error).split()[4:])) from None
    except (unreachable, ConnectionError, TimeoutError) as error:
        raise HubError(f"the hub cannot be reached ({type(error).__name__}); the same command goes on") from None


def _answer(repo_id: str, error: HfHubHTTPError) -> BabyLlamaError:
    status = error.response.status_code if error.response is not None else None
    if status == 401:
        return ConfigError("the hub does not know the token: hf auth login, or set HF_TOKEN")
    if status in (403, 404):
        return ConfigError(f"{repo_id}: the token may not write there (the hub answered {status})")
    if status == 429:
        return HubError("the hub asks for a pause (429); the same command goes on later")
    reason = error.server_message or (error.response.reason_phrase if error.response is not None else "no answer")
    return HubError(f"{repo_id}: the hub answered {status}: {reason}; the same command goes on")
