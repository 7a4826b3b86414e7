"""Both pages behind a real nginx that serves them below a path: they ask for nothing outside."""

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, expect

from tests.browser.conftest import Seen
from tests.browser.test_docs import execute, opened
from tests.conftest import RunningServer
from tests.deployment.nginx import nginx_before

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def site(server: RunningServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with nginx_before(server.address, tmp_path_factory.mktemp("nginx")) as address:
        yield f"{address}/digits/"


def test_the_playground_and_the_docs_work_below_a_path(browser: Browser, site: str) -> None:
    seen = Seen()
    page = browser.new_page()
    seen.watch(page)
    page.goto(site)
    expect(page.locator("#votes circle").first).to_be_attached()  # of the example

    page.get_by_role("link", name="API").first.click()
    page.locator(".opblock").first.wait_for()
    assert page.url == f"{site}docs"
    assert "mnist" in execute(opened(page, "get", "/model"))

    page.close()
    assert seen.complaints == []
    assert {url for url in seen.requests if not url.startswith(site)} == set()
