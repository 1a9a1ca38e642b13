"""Publishing to the Hugging Face Hub: ``hub://org/name``.

Each release is a branch of its own, ``release-<folder>``, made by one commit; ``main`` is the champion, moved by one commit
that gives it the files of the release's branch and ``champion.json``. So who loads ``org/name`` gets the champion, whole, at
every moment, who loads ``revision="release-<folder>"`` gets that release, and the Hub shows the champion's model card.

What the Hub has is compared by hash (of large files the sha-256, of others git's own), and large files are on the Hub before
the commit that names them; so a publishing that was cut short goes on where it was.

The token is that of huggingface_hub (``HF_TOKEN``, or ``hf auth login``); nothing here keeps or shows it. ``HF_ENDPOINT``
names another Hub than huggingface.co.
"""

import json
import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from logging import ERROR
from typing import TYPE_CHECKING, Any, TypeVar

from ft_assets.core.errors import FineTuneError
from ft_assets.core.publish import Listed, PublishedFile
from ft_assets.recipes.publishing import HUB_REPOSITORY

if TYPE_CHECKING:
    import httpx2
    from huggingface_hub import CommitOperationAdd, CommitOperationCopy, CommitOperationDelete, RepoFile

    Operation = CommitOperationAdd | CommitOperationCopy | CommitOperationDelete

T = TypeVar("T")
SCHEME = "hub://"
TIMEOUT_SECONDS = 60.0  # that a connection may stand still; huggingface_hub itself waits for ever
LONGEST_WAIT_SECONDS = 300  # that a server may ask for before the next try
WAITS_SECONDS = (1.0, 4.0, 15.0)  # between the tries of one step, on top of huggingface_hub's own for single requests
AGAIN = (408, 409, 412, 429, 500, 502, 503, 504)  # 409 and 412: another commit came first
ADVICE = {
    400: "what was sent is not accepted",
    401: "there is no token, or it is not accepted: set HF_TOKEN to a token that may write to {repo}, or run: hf auth login",
    402: "the account's plan does not allow it (private storage, perhaps)",
    403: "the token may not write to {repo}: give it write permission there, or name another repository in publish.to",
    404: "there is no {repo}, or the token may not see it: check publish.to and the token",
    409: "others write to {repo} at the same time: run again when they are done",
    412: "others write to {repo} at the same time: run again when they are done",
    413: "a file or the commit is too large for the Hub",
    429: "the Hub has had too many requests of this account: run again later",
}
FAILING = "the Hub fails at the moment: run again later"
NO_ANSWER = "it cannot be reached: check the network, a proxy, HF_ENDPOINT"
KEPT = "What is uploaded stays, and running again goes on from there."
OWN = (".gitattributes", "champion.json")  # what is on main and of no release


class HubTarget:
    """A model repository of the Hub, as a :class:`ft_assets.core.publish.Target`.

    Args:
        to: ``hub://org/name``.
        private: a repository that must not be seen by others, made so where there is none.
        endpoint: another Hub than that of ``HF_ENDPOINT``.
        token: another token than that of the environment.

    Raises:
        FineTuneError: ``to`` names no repository.
    """

    def __init__(self, to: str, private: bool = True, endpoint: str | None = None, token: str | None = None):
        from huggingface_hub import HfApi

        if not re.fullmatch(HUB_REPOSITORY, to):
            raise FineTuneError(f"{to!r} names no repository of the Hub; allowed: {SCHEME}org/name")
        self.repo, self.private = to.removeprefix(SCHEME), private
        self.api = HfApi(endpoint=endpoint, token=token, library_name="ft-assets")

    @property
    def url(self) -> str:
        return f"{SCHEME}{self.repo}"

    def at(self, folder: str) -> str:
        return f"{self.api.endpoint}/{self.repo}/tree/{branch_of(folder)}"

    def put(self, folder: str, files: Sequence[PublishedFile], say: Callable[[str], None]) -> None:
        branch = branch_of(folder)
        with _session():
            self._try(f"making {self.repo}", self._make_repository, say)
            self._try(f"making {branch}", lambda: self._make_branch(branch), say)
            self._try("uploading", lambda: self._upload(branch, files, say), say)

    def missing(self, folder: str, files: Iterable[Listed]) -> list[str]:
        with _session():
            there = self._try("comparing", lambda: self._tree(branch_of(folder)))
        return [file.name for file in files if not _same(there.get(file.name), file)]

    def read_pointer(self) -> dict[str, Any] | None:
        with _session():
            content = self._try("reading champion.json", lambda: self._read("champion.json"))
        try:
            found = json.loads(content) if content is not None else None
        except ValueError:
            return None
        return found if isinstance(found, dict) else None

    def write_pointer(self, body: dict[str, Any]) -> None:
        with _session():
            self._try("moving the champion", lambda: self._move_champion(body))

    def _make_repository(self) -> None:
        from huggingface_hub.errors import RepositoryNotFoundError

        try:
            info = self.api.repo_info(self.repo)
        except RepositoryNotFoundError:
            self.api.create_repo(self.repo, private=self.private, exist_ok=True)
            info = self.api.repo_info(self.repo)
        if self.private and info.private is False:
            raise FineTuneError(
                f"{self.url} is public, and the recipe's publish.private is not false: make the repository private, name "
                "another one, or set publish.private to false"
            )

    def _make_branch(self, branch: str) -> None:
        # Asked first: a token may be allowed to commit and not to make branches.
        if self._head(branch) is None:
            self.api.create_branch(self.repo, branch=branch, exist_ok=True)

    def _upload(self, branch: str, files: Sequence[PublishedFile], say: Callable[[str], None]) -> None:
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete

        head, there = self._head(branch), self._tree(branch)
        wanted = [file for file in files if not _same(there.get(file.name), file)]
        extra = sorted(set(there) - {file.name for file in files} - {".gitattributes"})
        if not wanted and not extra:
            return
        size = sum(file.size for file in wanted)
        say(f"uploading {len(wanted)} of {len(files)} files ({size / 1e6:.1f} MB) to {self.url}, revision {branch}")
        operations: list[Operation] = [CommitOperationAdd(file.name, file.content) for file in wanted]
        operations += [CommitOperationDelete(name, is_folder=False) for name in extra]
        self.api.create_commit(
            self.repo, operations, commit_message=f"Release {branch}", revision=branch, parent_commit=head
        )

    def _move_champion(self, body: dict[str, Any]) -> None:
        from huggingface_hub import CommitOperationAdd, CommitOperationCopy, CommitOperationDelete

        branch = branch_of(body["folder"])
        head, there, release = self._head("main"), self._tree("main"), self._tree(branch)
        if not release:
            raise FineTuneError(f"{self.url} has no release {branch}, so it cannot be the champion; publish it again")
        pointer = json.dumps(body).encode()
        operations: list[Operation] = [
            CommitOperationCopy(name, name, src_revision=branch)
            for name, file in release.items()
            if name not in OWN and (name not in there or there[name].blob_id != file.blob_id)
        ]
        operations += [CommitOperationDelete(name, is_folder=False) for name in set(there) - set(release) - set(OWN)]
        operations.append(CommitOperationAdd("champion.json", pointer))
        self.api.create_commit(
            self.repo, operations, commit_message=f"Champion: {branch}", revision="main", parent_commit=head
        )

    def _head(self, revision: str) -> str | None:
        """The commit a branch is at; None where there is none of that name."""
        from huggingface_hub.errors import RevisionNotFoundError

        try:
            return self.api.repo_info(self.repo, revision=revision).sha
        except RevisionNotFoundError:
            return None

    def _tree(self, revision: str) -> "dict[str, RepoFile]":
        """The files of a revision by name; none where there is no such revision or repository."""
        from huggingface_hub import RepoFile
        from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

        try:
            found = list(self.api.list_repo_tree(self.repo, recursive=True, revision=revision))
        except RevisionNotFoundError:
            return {}
        except RepositoryNotFoundError as error:
            if error.response.status_code == 404:
                return {}
            raise
        return {entry.path: entry for entry in found if isinstance(entry, RepoFile)}

    def _read(self, name: str) -> bytes | None:
        from huggingface_hub import hf_hub_url
        from huggingface_hub.utils._headers import build_hf_headers
        from huggingface_hub.utils._http import get_session, hf_raise_for_status

        url = hf_hub_url(self.repo, name, endpoint=self.api.endpoint)
        response = get_session().get(url, headers=build_hf_headers(token=self.api.token))
        if response.status_code == 404:
            return None
        hf_raise_for_status(response)
        return response.content

    def _try(self, what: str, step: Callable[[], T], say: Callable[[str], None] = lambda line: None) -> T:
        """What ``step`` gives, tried again where the fault may pass. A step compares before it writes, so that one whose
        answer was lost is not done twice.

        Raises:
            FineTuneError: it may not be done, or the fault stayed.
        """
        import httpx2
        from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

        for wait in (*WAITS_SECONDS, None):
            try:
                return step()
            except (HfHubHTTPError, httpx2.TransportError, OfflineModeIsEnabled, RuntimeError, ValueError) as error:
                # What fails in a thread that uploads comes as a RuntimeError, what the fault was as its cause.
                fault = error.__cause__ if isinstance(error, RuntimeError) and error.__cause__ else error
                if isinstance(fault, FineTuneError):
                    raise fault from error
                if wait is None or not _may_pass(fault):
                    raise FineTuneError(f"{self.url}: {what} failed: {self._explained(fault)}. {KEPT}") from error
                say(f"{what} failed ({type(fault).__name__}); trying again in {wait:g} seconds")
            time.sleep(wait)
        raise AssertionError("the last try returns or raises")

    def _explained(self, fault: BaseException) -> str:
        import httpx2
        from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

        if isinstance(fault, HfHubHTTPError):
            status = fault.response.status_code
            said = " ".join((fault.server_message or "").split())[:200]
            advice = ADVICE.get(status, FAILING if status >= 500 else "it is not accepted").format(repo=self.repo)
            return f"{advice} (HTTP {status}{', ' + said if said else ''})"
        if isinstance(fault, OfflineModeIsEnabled):
            return "HF_HUB_OFFLINE is set, so nothing is sent: unset it"
        if isinstance(fault, httpx2.TransportError):
            return f"{NO_ANSWER} ({fault or type(fault).__name__})"
        return " ".join(str(fault).split())[:300]


def branch_of(folder: str) -> str:
    return f"release-{folder}"


def _same(there: "RepoFile | None", file: Listed) -> bool:
    if there is None or there.size != file.size:
        return False
    return there.lfs.sha256 == file.sha256 if there.lfs else there.blob_id == file.git_blob


def _may_pass(fault: BaseException) -> bool:
    """Whether trying again may help: no network, a failing server, or an answer that is cut."""
    import httpx2
    from huggingface_hub.errors import HfHubHTTPError

    if isinstance(fault, HfHubHTTPError):
        return fault.response.status_code in AGAIN
    return isinstance(fault, (httpx2.TransportError, json.JSONDecodeError))


@contextmanager
def _session() -> Iterator[None]:
    """Connections of huggingface_hub that end when they stand still, and waits of a length that a person would wait. It is
    quiet meanwhile: what it would log of a retry holds the signed address of an upload.
    """
    import httpx2
    from huggingface_hub.utils import logging
    from huggingface_hub.utils._http import default_client_factory, hf_request_event_hook, set_client_factory
    from huggingface_hub.utils.tqdm import disable_progress_bars

    def client() -> httpx2.Client:
        hooks: dict[str, list[Callable[..., Any]]] = {
            "request": [hf_request_event_hook],
            "response": [_refuse_long_waits],
        }
        return httpx2.Client(event_hooks=hooks, follow_redirects=True, timeout=TIMEOUT_SECONDS)

    verbosity = logging.get_verbosity()
    logging.set_verbosity(ERROR)
    disable_progress_bars()
    set_client_factory(client)
    try:
        yield
    finally:
        set_client_factory(default_client_factory)
        logging.set_verbosity(verbosity)


def _refuse_long_waits(response: "httpx2.Response") -> None:
    """
    Raises:
        FineTuneError: huggingface_hub would wait for as long as the server asks, however long, or would ask again at once
            and for ever, as it does where another repository of the account is just being made.
    """
    from huggingface_hub.utils._http import parse_ratelimit_headers

    limit = parse_ratelimit_headers(response.headers)
    asked = response.headers.get("Retry-After", "")
    waits = [int(asked)] if asked.isascii() and asked.isdigit() else []
    waits += [limit.reset_in_seconds] if limit is not None and limit.remaining == 0 else []
    if response.status_code in AGAIN and max(waits, default=0) > LONGEST_WAIT_SECONDS:
        raise FineTuneError(
            f"{response.url.host} asks to be left alone for {max(waits)} seconds (HTTP {response.status_code}): run again "
            f"then. {KEPT}"
        )
    if response.status_code == 409 and response.url.path == "/api/repos/create":
        response.read()
        if "another conflicting operation" in response.text:
            raise FineTuneError(f"{response.url.host} is making another repository of this account: run again. {KEPT}")
