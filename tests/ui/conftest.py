"""A real Prefect server with our deployments and a process worker, and Debian's chromium before its UI."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Locator, Page, Playwright, TimeoutError, sync_playwright

from sifthinker import config
from sifthinker.config import layers
from sifthinker.system.processes import end
from tasks.runtime import links

ROOT = Path(__file__).resolve().parents[2]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
PATIENCE = 120_000  # milliseconds for a click; the form has hundreds of fields
# What `tests/flows/test_end_to_end.py` makes smaller, and then some.
SMALL = {
    "scenes.rows": 12,
    "scenes.benchmark_rows": 2,
    "sft.max_steps": 1,
    "grpo.max_steps": 1,
    "grpo.max_completion": 32,
    "evaluate.max_tokens": 16,
}
ENDED = {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}


@dataclass(frozen=True)
class Site:
    """The server, and a browser's page on it."""

    api: str
    store: Path
    page: Page
    pictures: Path  # screenshots, for people
    configs: Path  # of the worker
    pages: str  # address of the server of the store's pages

    @property
    def ui(self) -> str:
        return self.api.removesuffix("/api")

    def ask(self, method: str, path: str, **body: Any) -> Any:
        headers = {}
        if method != "GET":  # with a CSRF token, as the page itself sends one
            client = str(uuid.uuid4())
            made = httpx.get(
                f"{self.api}/csrf-token", params={"client": client}, timeout=60
            ).raise_for_status()
            headers = {"Prefect-Csrf-Token": made.json()["token"], "Prefect-Csrf-Client": client}
        deadline = time.monotonic() + 60
        while True:
            answer = httpx.request(
                method, f"{self.api}/{path}", json=body or None, headers=headers, timeout=60
            )
            if answer.status_code != httpx.codes.SERVICE_UNAVAILABLE or time.monotonic() > deadline:
                break  # SQLite was locked for a moment
            time.sleep(0.5)
        answer.raise_for_status()
        return answer.json() if answer.content else None

    def deployment(self, name: str) -> dict[str, Any]:
        return next(d for d in self.ask("POST", "deployments/filter", limit=50) if d["name"] == name)

    def form(self, deployment: str) -> None:
        """Opens a deployment's form of a custom run."""
        self.page.goto(f"{self.ui}/deployments/deployment/{self.deployment(deployment)['id']}/run")
        self.page.get_by_role("button", name="Submit", exact=True).wait_for()

    def field(self, *path: str) -> Locator:
        """A field of the form by the labels of its sections and its own."""
        found: Any = self.page
        for label in path:
            own = f'> .p-label__header .schema-form-property__label:text-is("{label} (Optional)")'
            found = found.locator(f".schema-form-property:has({own})")
        assert isinstance(found, Locator)
        return found

    def write(self, label: str, text: str) -> None:
        """Writes into a field of text."""
        self.field(label).locator("textarea").fill(text)

    def choose(self, label: str, option: str) -> None:
        """Picks a stage in a drop-down."""
        field = self.field(label)
        control = field.locator(".p-select-button__control")
        control.focus()
        self.page.keyboard.press("Space")  # Enter does not open a drop-down
        self.page.locator(".p-select-option").filter(has=self.page.get_by_text(option, exact=True)).click()
        self.page.keyboard.press("Escape")

    def submit(self) -> str:
        """The id of the flow run that the form starts."""
        posted = lambda answer: answer.url.endswith("/create_flow_run")  # noqa: E731
        button = self.page.get_by_role("button", name="Submit", exact=True)
        # A click is lost where the page scrolls back to a drop-down that closes, a key where it is still open; a busy
        # SQLite server answers 503: people press the button again.
        for press in (self.press, Locator.click, self.press, Locator.click):
            try:
                with self.page.expect_response(posted, timeout=60_000) as answer:
                    press(button)
            except TimeoutError:
                self.look("not-submitted")
                continue
            if answer.value.status != 503:
                break
        assert answer.value.ok, answer.value.text()
        return str(answer.value.json()["id"])

    def press(self, button: Locator) -> None:
        """By the keyboard, with no drop-down open."""
        self.page.get_by_role("heading").first.click(force=True)
        button.focus()
        self.page.keyboard.press("Enter")

    def ended(self, run: str, seconds: float = 1500) -> dict[str, Any]:
        """The state in which a run ends."""

        def state() -> dict[str, Any] | None:
            found = self.ask("GET", f"flow_runs/{run}")["state"]
            return found if found["type"] in ENDED else None

        return wait_for(state, seconds)

    def stages(self, run: str) -> dict[str, str]:
        """The state of each stage's task run, without shards; a retried run's are the last ones."""
        tasks = self.ask(
            "POST", "task_runs/filter", flow_runs={"id": {"any_": [run]}}, sort="EXPECTED_START_TIME_ASC"
        )
        return {task["name"]: task["state"]["name"] for task in tasks if " part " not in task["name"]}

    def run(self, name: str) -> str:
        """The id of the run of that name."""
        [found] = self.ask("POST", "flow_runs/filter", flow_runs={"name": {"any_": [name]}})
        return str(found["id"])

    def follow(self, link: str) -> None:
        """Opens the page that a link of the present one leads to."""
        address = self.page.get_by_role("link", name=link).first.get_attribute("href")
        assert address
        answer = self.page.goto(address)
        assert answer and answer.status == 200, address

    def name(self, run: str) -> str:
        """What the run is called."""
        return str(self.ask("GET", f"flow_runs/{run}")["name"])

    def artifact(self, run: str, key: str) -> dict[str, Any]:
        """The artifact of that key that a run shows."""
        of_run = {"flow_run_id": {"any_": [run]}, "key": {"any_": [key]}}
        [found] = self.ask("POST", "artifacts/filter", artifacts=of_run)
        return dict(found)

    def ran(self, run: str) -> set[str]:
        return {name for name, state in self.stages(run).items() if state == "Completed"}

    def whole(self, name: str) -> None:
        """Keeps a screenshot of all of the page that is open, as in a window that is high enough."""
        self.page.set_viewport_size({"width": 1280, "height": 1800})
        self.page.screenshot(path=self.pictures / f"{name}.png")
        self.page.set_viewport_size({"width": 1280, "height": 900})

    def look(self, name: str, path: str = "") -> str:
        """Keeps a screenshot of the page that is open, or of `path`; its text."""
        if path:
            self.page.goto(f"{self.ui}/{path}")
            self.page.wait_for_load_state("networkidle")
        self.page.wait_for_timeout(1500)  # the graph is drawn after the last answer
        self.page.screenshot(path=self.pictures / f"{name}.png")
        return self.page.inner_text("body")


def wait_for(look: Any, seconds: float) -> Any:
    """The first true value of `look()`."""
    deadline = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < deadline, f"not seen within {seconds} s"
        time.sleep(0.5)
    return found


_playwright: list[Playwright] = []  # the one of this process


@contextmanager
def browsing() -> Iterator[Page]:
    """A page of a browser with a profile of its own."""
    if CHROMIUM is None:
        missing = "no chromium here: apt-get install chromium"
        pytest.fail(missing) if os.environ.get("CI") == "true" else pytest.skip(missing)
    with ExitStack() as stack:
        if not _playwright:  # a second one in a thread is refused, and `site` has one until its worker ends
            _playwright.append(stack.enter_context(sync_playwright()))
            stack.callback(_playwright.clear)
        browser = _playwright[0].chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.set_default_timeout(PATIENCE)
        yield page
        browser.close()


@contextmanager
def serving(store: Path, log: Path) -> Iterator[str]:
    """The address of a server of a store's pages while the block runs."""
    store.mkdir(parents=True, exist_ok=True)
    environment = {name: value for name, value in os.environ.items() if name != links.URL}
    command = [sys.executable, "-m", "flows", "pages", "--store", str(store), "--port", "0"]
    with log.open("ab") as output:
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=output, stderr=output, start_new_session=True
        )
    try:
        yield str(wait_for(lambda: links.server(store), 180))
    finally:
        end(process.pid)


@contextmanager
def working(api: str, folder: Path, configs: Path, pages: str) -> Iterator[None]:
    """Our deployments on a server, and a worker of the pool `cpu`, with configurations of its own, while the block runs."""
    environment = {
        **os.environ,
        "PREFECT_API_URL": api,
        "SIF_HOME": str(ROOT),
        layers.OWN: str(configs),
        links.URL: pages,
        "PYTHONPATH": str(ROOT),
        "PREFECT_LOGGING_TO_API_ENABLED": "true",
        "PREFECT_WORKER_QUERY_SECONDS": "1",
    }
    deploy = [sys.executable, "infra/deploy.py"]
    done = subprocess.run(deploy, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", "cpu", "--type", "process"]
    with (folder / "worker.log").open("ab") as log:
        worker = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=log, stderr=log, start_new_session=True
        )
    try:
        yield
    finally:
        end(worker.pid)


def settings(name: str, store: Path, **fields: Any) -> str:
    """A file of flows/configs, smaller, with a store of its own: as a machine has it for its own."""
    loaded = config.load(ROOT / "flows" / "configs" / f"{name}.yaml", {"store": str(store), **fields})
    return config.as_yaml(loaded, whole=False)


@pytest.fixture(scope="session")
def site(prefect_server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """The site with small deployments; the whole reproduction has run once."""
    folder = tmp_path_factory.mktemp("site")
    pictures = Path(os.environ.get("SIF_PICTURES", folder))
    pictures.mkdir(parents=True, exist_ok=True)
    configs = folder / "configs"
    configs.mkdir()
    night = {name: SMALL[name] for name in SMALL if name.split(".")[0] in ("scenes", "evaluate")}
    (configs / "demo.yaml").write_text(settings("smoke", folder / "store", **SMALL))  # in the place of ours
    (configs / "nightly.yaml").write_text(settings("nightly", folder / "store", **night))
    with (
        serving(folder / "store", folder / "pages.log") as pages,
        browsing() as page,
        working(prefect_server, folder, configs, pages),
    ):
        made = Site(prefect_server, folder / "store", page, pictures, configs, pages)
        whole = made.ask(
            "POST", f"deployments/{made.deployment('reproduce')['id']}/create_flow_run", name="whole"
        )
        state = made.ended(whole["id"])
        assert state["type"] == "COMPLETED", (state["message"], (folder / "worker.log").read_text()[-3000:])
        yield made
