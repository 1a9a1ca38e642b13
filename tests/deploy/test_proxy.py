"""The proxy's own nginx.conf in a real nginx, before real webservers: who gets in, and what a foreign page cannot do."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from browsing import browser, console_errors
from conftest import ROOT
from waiting import until
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

pytestmark = [pytest.mark.graph, pytest.mark.xdist_group("proxy")]

TINY = "import dagster as dg\n\n@dg.asset\ndef one(): ...\n\ndefs = dg.Definitions([one])\n"
ASKS = "{ version }"
ACTS = 'mutation { reloadRepositoryLocation(repositoryLocationName: "none") { __typename } }'
OPERATOR, READER = "ft=operator", "ft=reader"


class Login(BaseHTTPRequestHandler):
    """oauth2-proxy's answer to an auth request: 202, 401 without a session, 403 without the group. Who signs in is an operator."""

    def do_GET(self) -> None:
        if self.path == "/oauth2/sign_in":
            self.send_response(200)
            self.send_header("Set-Cookie", f"{OPERATOR}; Path=/; HttpOnly; SameSite=Lax")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        groups = urllib.parse.parse_qs(urllib.parse.urlsplit(self.path).query).get("allowed_groups")
        session = self.headers.get("Cookie")
        known, belongs = (
            session in (OPERATOR, READER),
            groups is None or (groups == ["ft-operators"] and session == OPERATOR),
        )
        self.send_response(401 if not known else 202 if belongs else 403)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing."""


class Site:
    """The proxy's two ports, one for operators and one for readers."""

    def __init__(self, operators: int, readers: int):
        self.operators, self.readers = operators, readers

    def ask(self, path: str, query: str | None = None, port: int | None = None, **headers: str) -> tuple[int, str]:
        """Status and body (or where to) of a GET, or of a POST where there is a GraphQL query."""
        body = None if query is None else json.dumps({"query": query}).encode()
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        url = f"http://127.0.0.1:{port or self.operators}{path}"
        request = urllib.request.Request(url, body, {"Content-Type": "application/json", **named})
        try:
            with urllib.request.build_opener(NoRedirect).open(request, timeout=30) as reply:
                return reply.status, reply.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.headers.get("Location") or error.read().decode()

    def origin(self, port: int | None = None) -> str:
        return f"http://127.0.0.1:{port or self.operators}"


class NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *args: object) -> None:
        return None


def free_ports(count: int) -> list[int]:
    probes = [socket.socket() for _ in range(count)]
    for probe in probes:
        probe.bind(("127.0.0.1", 0))
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    nginx = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if nginx is None:
        pytest.skip("nginx is not installed (`make debian`)")
    operators, readers, acting, reading, logins = free_ports(5)
    login = ThreadingHTTPServer(("127.0.0.1", logins), Login)
    threading.Thread(target=login.serve_forever, daemon=True).start()
    processes = []
    # nginx works as another user than root, to whom pytest's folders are closed.
    with tempfile.TemporaryDirectory(prefix="ft-proxy-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "tiny.py").write_text(TINY)
        moved = {
            " /tmp/": f" {folder}/",
            "listen 8080": f"listen 127.0.0.1:{operators}",
            "listen 8081": f"listen 127.0.0.1:{readers}",
            "{ 8081 ": f"{{ {readers} ",
            "dagster-webserver:3000": f"127.0.0.1:{acting}",
            "dagster-webserver-read-only:3000": f"127.0.0.1:{reading}",
            "127.0.0.1:4180": f"127.0.0.1:{logins}",
            "/dev/stdout": f"{folder}/access.log",
            "/dev/stderr": f"{folder}/error.log",
        }
        text = (ROOT / "deploy" / "kubernetes" / "nginx.conf").read_text()
        for old, new in moved.items():
            assert old in text, old
            text = text.replace(old, new)
        (folder / "nginx.conf").write_text(text)
        program = Path(sys.executable).parent / "dagster-webserver"
        try:
            for port, words in ((acting, []), (reading, ["--read-only"])):
                home = folder / str(port)
                home.mkdir()
                (home / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
                command = [str(program), "-f", str(folder / "tiny.py"), "-h", "127.0.0.1", "-p", str(port), *words]
                env = {**os.environ, "DAGSTER_HOME": str(home)}
                quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
                processes.append(subprocess.Popen(command, env=env, cwd=folder, **quiet))
            command = [
                nginx,
                "-e",
                str(folder / "error.log"),
                "-c",
                str(folder / "nginx.conf"),
                "-p",
                str(folder),
                "-g",
                "daemon off;",
            ]
            processes.append(subprocess.Popen(command))
            found = Site(operators, readers)

            def answer() -> bool:
                assert processes[-1].poll() is None, (folder / "error.log").read_text()
                ports = (operators, readers)
                try:
                    return all(found.ask("/server_info", port=port, Cookie=OPERATOR)[0] == 200 for port in ports)
                except OSError:
                    return False

            until(answer, 90, "the webservers' answer")
            yield found
        finally:
            for process in processes:
                process.terminate()
            for process in processes:
                process.wait(30)
            login.shutdown()
            login.server_close()


def test_nobody_gets_in_without_a_login(site: Site) -> None:
    assert site.ask("/runs?status=failed") == (302, "/oauth2/start?rd=/runs?status=failed")
    assert site.ask("/graphql", ASKS, Origin=site.origin())[0] == 401
    assert site.ask("/who", Cookie=OPERATOR)[0] == 404
    assert site.ask("/healthy")[0] == 204


def test_a_page_of_this_site_may_ask_and_act(site: Site) -> None:
    status, body = site.ask("/graphql", ASKS, Origin=site.origin(), Cookie=OPERATOR, Sec_Fetch_Site="same-origin")
    assert status == 200
    assert re.search(r'"version": *"1\.13', body)
    assert site.ask("/graphql", ACTS, Origin=site.origin(), Cookie=OPERATOR)[0] == 200
    status, page = site.ask("/", Cookie=OPERATOR, Sec_Fetch_Site="cross-site")  # a link from elsewhere
    assert status == 200
    assert "<html" in page


@pytest.mark.parametrize("path", ["/graphql", "/graphql/", "//graphql", "/%67raphql", "/x/../graphql"])
def test_a_mutation_by_get_is_refused_however_it_is_spelt(site: Site, path: str) -> None:
    query = "?query=" + urllib.parse.quote(ACTS)
    for extra in ({}, {"Origin": site.origin()}, {"Upgrade": "h2c", "Origin": site.origin()}):
        assert site.ask(path + query, Cookie=OPERATOR, **extra)[0] == 405


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://elsewhere.example"},
        {"Origin": "null"},
        {},
        {"Origin": "http://127.0.0.1:1"},
        {"Origin": "http://127.0.0.1", "Sec_Fetch_Site": "same-site"},
        {"Origin": "SAME", "Sec_Fetch_Site": "cross-site"},
        {"Origin": "SAME.elsewhere.example"},
    ],
)
def test_a_foreign_page_cannot_act_in_the_users_name(site: Site, headers: dict[str, str]) -> None:
    sent = {name: value.replace("SAME", site.origin()) for name, value in headers.items()}
    for path in ("/graphql", "/report_asset_materialization/one"):
        assert site.ask(path, ACTS, Cookie=OPERATOR, **sent)[0] == 403


def test_a_subscription_passes_for_this_site_alone(site: Site) -> None:
    url = f"ws://127.0.0.1:{site.operators}/graphql"
    own, foreign = site.origin(), "https://elsewhere.example"
    with connect(url, origin=own, additional_headers={"Cookie": OPERATOR}, subprotocols=["graphql-ws"]) as socket:
        socket.send(json.dumps({"type": "connection_init"}))
        assert json.loads(socket.recv(timeout=30)) == {"type": "connection_ack"}
    for origin, cookie, status in ((foreign, OPERATOR, 403), (None, OPERATOR, 403), (own, READER, 403), (own, "", 401)):
        with pytest.raises(InvalidStatus) as refused:
            connect(url, origin=origin, additional_headers={"Cookie": cookie}, subprotocols=["graphql-ws"]).close()
        assert refused.value.response.status_code == status


def test_readers_look_and_do_not_touch(site: Site) -> None:
    own = site.origin(site.readers)
    assert site.ask("/graphql", ASKS, Origin=site.origin(), Cookie=READER)[0] == 403
    assert site.ask("/graphql", ASKS, port=site.readers, Origin=own, Cookie=READER)[0] == 200
    status, body = site.ask("/graphql", ACTS, port=site.readers, Origin=own, Cookie=READER)
    assert status == 200
    assert "UnauthorizedError" in body


@pytest.mark.browser
def test_the_ui_works_through_it(site: Site) -> None:
    with browser(1400, 900) as window:
        window.get(site.origin() + "/oauth2/sign_in")
        window.get(site.origin() + "/assets")
        until(lambda: "one" in window.find_element("tag name", "body").text.split(), 60, "the asset on its page")
        assert console_errors(window) == []
