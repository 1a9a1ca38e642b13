"""The Dagster UI in headless Chromium: the lineage shows every asset, assets show their plots."""

import os
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from browsing import browser
from conftest import ROOT, Workshop
from test_graph import MODEL_ASSETS
from waiting import until

# One webserver serves them all.
pytestmark = [pytest.mark.graph, pytest.mark.browser, pytest.mark.xdist_group("ui")]


@pytest.fixture(scope="module")
def webserver(made: Workshop) -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "dagster_webserver", "-m", "definitions", "-h", "127.0.0.1", "-p", str(port)]
    process = subprocess.Popen(command, env=made.env, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}"

    def answers() -> bool:
        assert process.poll() is None, "the webserver ended"
        try:
            return urllib.request.urlopen(f"{url}/server_info", timeout=2).status == 200
        except (urllib.error.URLError, TimeoutError):
            return False

    try:
        until(answers, 90, "the webserver's answer")
        yield url
    finally:
        process.terminate()
        process.wait(30)


def screenshot(window, name: str) -> None:
    """Kept where the environment asks for it, to look at."""
    if folder := os.environ.get("FT_SCREENSHOTS"):
        window.save_screenshot(str(Path(folder) / name))


def test_the_lineage_shows_every_asset(webserver: str) -> None:
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    with browser(3600, 3400) as window:
        window.get(f"{webserver}/asset-groups/")
        until(lambda: {"data", "model", "release"} <= words_on(window), 60, "the groups in the lineage")
        ActionChains(window).key_down(Keys.ALT).send_keys("e").key_up(Keys.ALT).perform()
        wanted = {*MODEL_ASSETS, "raw_corpus", "validated_dataset"}
        until(lambda: wanted <= words_on(window), 60, "every asset in the lineage")
        screenshot(window, "lineage.png")


def words_on(window) -> set[str]:
    return set(window.find_element("tag name", "body").text.split())


@pytest.mark.parametrize(("asset", "plot"), [("sft_adapter", "loss curve"), ("eval_report", "scores plot")])
def test_an_asset_shows_its_plot(webserver: str, asset: str, plot: str) -> None:
    with browser(1500, 1300) as window:
        window.get(f"{webserver}/assets/{asset}?view=partitions&partition=tiny")
        shows = f"//tr[contains(., '{plot}')]//*[contains(text(), 'Show Markdown')]"
        until(lambda: window.find_elements("xpath", shows), 60, f"the row of the {plot}")
        window.find_element("xpath", shows).click()

        def drawn() -> bool:
            pictures = "[...document.images].some(i => i.src.startsWith('data:image/png') && i.naturalWidth > 100)"
            return bool(window.execute_script(f"return {pictures}"))

        until(drawn, 90, f"the picture of the {plot}")
        screenshot(window, f"{asset}.png")
