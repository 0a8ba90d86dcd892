"""What `make ui` serves answers its user only: pages of other sites and other users of the machine are refused.

An attacker's page in a real browser tries all that a page can send to the server of `make ui` on the same machine. The
prize is a run of `pipeline/manual` with another command, which the worker would execute.
"""

from __future__ import annotations

import json
import re
import shutil
import threading
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import psutil
import pytest
from playwright.sync_api import Page, expect

from flows.login import LOGIN_VARIABLE, authorization
from flows.server import HOST, temporary_server
from tasks.workspace import SERVER_LOGIN, Workspace
from tests.flows.browser import PROGRAM, browser, log_in
from tests.flows.conftest import serve
from tests.flows.project import Api, Project, copy_project
from tests.waiting import wait_until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.browser,
    pytest.mark.skipif(PROGRAM is None, reason="there is no Chromium (Debian: apt-get install chromium)"),
]
WAYS = ("json", "text", "no type", "no-cors", "beacon", "form")
SECRETS = ("/api/admin/settings", "/api/deployments/name/pipeline/manual", "/api/csrf-token?client=attacker")
OPEN = ("/health", "/ready")
"""For programs that watch the server; they tell nothing else."""
HOSTS = ("127.0.0.1", "localhost", "evil.example", "127.0.0.1.evil.example")
SOCKETS = ("/api/events/in", "/api/events/out", "/api/logs/out")
PAGE = """<!doctype html><title>A page of another site</title><script>
async function send(way, url, body) {
  const typeless = new Blob([body]);  // Prefect reads a body without a type as JSON
  const options = {credentials: 'include', method: 'POST'};
  if (way === 'json') await fetch(url, {...options, body, headers: {'Content-Type': 'application/json'}});
  if (way === 'text') await fetch(url, {...options, body, headers: {'Content-Type': 'text/plain'}});
  if (way === 'no type') await fetch(url, {...options, body: typeless});
  if (way === 'no-cors') await fetch(url, {...options, body: typeless, mode: 'no-cors'});
  if (way === 'beacon') { navigator.sendBeacon(url, typeless); await new Promise(go => setTimeout(go, 2000)); }
  if (way === 'form') {
    const frame = document.createElement('iframe');
    frame.name = 'target';
    document.body.appendChild(frame);
    const form = document.body.appendChild(document.createElement('form'));
    Object.assign(form, {action: url, method: 'POST', enctype: 'text/plain', target: 'target'});
    const field = form.appendChild(document.createElement('input'));
    [field.name, field.value] = [body.slice(0, -2) + ', "x": "', '"}'];
    const sent = new Promise(go => frame.addEventListener('load', go));
    form.submit();
    await Promise.race([sent, new Promise(go => setTimeout(go, 5000))]);
  }
}
async function read(url) { return (await fetch(url)).text(); }
function talk(url, protocols, messages) {
  return new Promise(end => {
    const heard = [];
    const socket = new WebSocket(url, protocols);
    socket.onopen = () => messages.forEach(message => socket.send(JSON.stringify(message)));
    socket.onmessage = message => heard.push(message.data);
    socket.onclose = () => end({refused: true, heard});
    setTimeout(() => end({refused: false, heard}), 10000);
  });
}
</script>"""


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(PAGE.encode())

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def evil() -> Iterator[str]:
    """The address of a page of another origin."""
    with ThreadingHTTPServer((HOST, 0), _Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://{HOST}:{server.server_port}/"
        server.shutdown()


@pytest.fixture(scope="module")
def served(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Project, Api]]:
    folder = tmp_path_factory.mktemp("attacked")
    with serve(copy_project(template, folder / "project"), folder) as opened:
        yield opened


@pytest.fixture
def page(evil: str) -> Iterator[Page]:
    with browser() as opened:
        opened.goto(evil)
        yield opened


def address(api: Api, path: str = "") -> str:
    return api.url.removesuffix("/api") + path


def run_script(page: Page, function: str, *arguments: Any) -> Any:
    """Call a function of the page; gives its result, or the text of its error."""
    call = f"arguments => {function}(...arguments).catch(error => String(error))"
    return page.evaluate(call, list(arguments))


@pytest.fixture(params=["stranger", "remembered"])
def attacking(page: Page, served: tuple[Project, Api], request: pytest.FixtureRequest) -> Page:
    """The page in a browser that knows no login, and in one that adds the login to every request by itself."""
    if request.param == "remembered":
        page.set_extra_http_headers({"Authorization": authorization(served[1].client[LOGIN_VARIABLE])})
    return page


@pytest.mark.parametrize("way", WAYS)
def test_page_of_another_site_starts_no_run(served: tuple[Project, Api], attacking: Page, way: str) -> None:
    api = served[1]
    deployment = api.get("/deployments/name/pipeline/manual")["id"]
    body = json.dumps({"name": f"attack by {way}", "job_variables": {"command": "touch stolen"}})
    run_script(attacking, "send", way, address(api, f"/api/deployments/{deployment}/create_flow_run"), body)
    assert [run["name"] for run in api.post("/flow_runs/filter") if run["name"].startswith("attack")] == []


@pytest.mark.parametrize("path", SECRETS)
def test_page_of_another_site_reads_nothing(served: tuple[Project, Api], attacking: Page, path: str) -> None:
    assert run_script(attacking, "read", address(served[1], path)) == "TypeError: Failed to fetch"


@pytest.mark.parametrize("protocols", [[], ["prefect"]], ids=["old protocol", "prefect"])
@pytest.mark.parametrize("path", SOCKETS)
def test_page_of_another_site_gets_no_socket(
    served: tuple[Project, Api], attacking: Page, path: str, protocols: list[str]
) -> None:
    api = served[1]
    event = {"event": "attack", "resource": {"prefect.resource.id": "x"}, "id": str(uuid.uuid4())}
    event["occurred"] = datetime.now(UTC).isoformat()
    wanted = {"type": "filter", "filter": {}}
    messages = [{"type": "auth", "token": ""}] if protocols else []
    messages += [event if path.endswith("/in") else wanted]
    told = run_script(attacking, "talk", address(api, path).replace("http:", "ws:"), protocols, messages)
    assert told == {"refused": True, "heard": []}
    assert api.events("attack") == []


def ask(method: str, url: str, **headers: str) -> int:
    """The status of an answer."""
    request = urllib.request.Request(url, b"{}" if method != "GET" else None, headers, method=method)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as refusal:
        refusal.close()
        return refusal.code


def test_other_user_of_the_machine_is_refused_everywhere(served: tuple[Project, Api]) -> None:
    api = served[1]
    routes = [
        (method.upper(), re.sub(r"\{[^}]*\}", "x", path))
        for path, methods in api.get("/openapi.json")["paths"].items()
        for method in methods
        if path not in OPEN
    ]
    assert len(routes) > 100
    answers = {(method, path): ask(method, f"{api.url}{path}") for method, path in routes}
    refusals = {"GET": 401}  # other methods are asked for their token before
    assert {route: status for route, status in answers.items() if status != refusals.get(route[0], 403)} == {}


@pytest.mark.parametrize("path", ["/", "/ui-settings", "/api/health", "/api/admin/version"])
def test_name_of_another_site_that_points_to_this_machine_is_refused(served: tuple[Project, Api], path: str) -> None:
    api = served[1]
    login = authorization(api.client[LOGIN_VARIABLE])
    port = address(api).rsplit(":")[-1]
    asked = {host: ask("GET", address(api, path), Host=f"{host}:{port}", Authorization=login) for host in HOSTS}
    assert asked == {"127.0.0.1": 200, "localhost": 200, "evil.example": 400, "127.0.0.1.evil.example": 400}


def test_password_is_in_no_process_arguments_and_in_no_file_but_its_own(served: tuple[Project, Api]) -> None:
    project, api = served
    password = api.client[LOGIN_VARIABLE].partition(":")[2]
    api.finish(api.start_run())
    assert not any(password in " ".join(process.info["cmdline"] or ()) for process in psutil.process_iter(["cmdline"]))
    files = [file for file in project.folder.parent.rglob("*") if file.is_file()]
    assert [file for file in files if password.encode() in file.read_bytes()] == [project.folder / SERVER_LOGIN]
    assert (project.folder / SERVER_LOGIN).stat().st_mode & 0o777 == 0o600
    assert password not in str([api.post(f"/{kind}/filter") for kind in ("logs", "flow_runs", "artifacts")])


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_user_logs_in_with_what_make_ui_prints(served: tuple[Project, Api], host: str) -> None:
    api = served[1]
    with browser() as page:
        log_in(page, address(api).replace("127.0.0.1", host), api.client[LOGIN_VARIABLE])
        page.get_by_role("link", name="Deployments", exact=True).click()
        expect(page.get_by_role("link", name="manual", exact=True)).to_be_visible()


def test_programs_of_the_clone_find_the_login(served: tuple[Project, Api]) -> None:
    project, api = served
    project.environment["PREFECT_API_URL"] = api.url
    assert project.run("-m", "flows.alerts")[0] == 0
    log = project.folder.parent / "worker.log"
    with project.command("-m", "flows.worker", "--pool", "gpu", output=log) as worker:
        wait_until(lambda: worker.poll() is not None or "Worker '" in log.read_text(), "the worker to start")
        worker.terminate()
    assert "Worker '" in log.read_text()


@pytest.mark.parametrize("module", ["pipeline", "worker", "alerts"])
def test_program_of_another_clone_says_where_the_login_is(
    served: tuple[Project, Api], project: Project, module: str
) -> None:
    project.environment["PREFECT_API_URL"] = url = served[1].url
    code, text = project.run("-m", f"flows.{module}")
    assert code == 2, text
    assert f"RootstockError: The Prefect server at {url} asks for a login. Set PREFECT_API_AUTH_STRING" in text
    assert SERVER_LOGIN in text
    project.environment[LOGIN_VARIABLE] = "rootstock:wrong"
    code, text = project.run("-m", f"flows.{module}")
    assert code == 2, text
    assert "refuses the login in PREFECT_API_AUTH_STRING" in text


def test_server_of_one_run_refuses_others_too(template: Path, tmp_path: Path) -> None:
    workspace = Workspace.at(tmp_path)
    shutil.copytree(Workspace.at(template).prefect_home, workspace.prefect_home)
    with temporary_server(workspace) as server:
        server.wait_until_ready()
        login = {"Authorization": authorization(server.login)}
        assert ask("GET", f"{server.api_url}/admin/version") == 401
        assert ask("GET", f"{server.api_url}/admin/version", **login) == 200
        assert ask("GET", f"{server.api_url}/admin/version", **login, Host="evil.example") == 400
        assert ask("POST", f"{server.api_url}/flows/", **login) == 403
    assert not workspace.server_login.exists()
