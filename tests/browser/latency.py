"""How long after a stroke's end its first estimate is on the screen.

`python -m tests.browser.latency` starts a server, draws with the mouse in Chromium, and prints the
quantiles. The page itself leaves each time in the browser's timeline.
"""

import argparse
import statistics

from playwright.sync_api import Page

from tests.browser.chromium import FOUR_OR_NINE, SEVEN, draw, launch
from tests.conftest import ServerStarter

MEASURED = "performance.getEntriesByName('stroke end to estimate').map((one) => one.duration)"


def measure(page: Page, drawings: int) -> list[float]:
    """Milliseconds from the end of each stroke to the first frame that shows an estimate of it."""
    ended = 0
    for number in range(drawings):
        for stroke in (SEVEN, FOUR_OR_NINE)[number % 2]:
            draw(page, [stroke])
            ended += 1
            # Playwright's own waiting would be forbidden by the page's policy: it evaluates text.
            while len(page.evaluate(MEASURED)) < ended:
                page.wait_for_timeout(20)
        page.click("#clear")
    durations: list[float] = page.evaluate(MEASURED)
    return durations


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--drawings", type=int, default=60)
    drawings = parser.parse_args().drawings
    servers = ServerStarter()
    try:
        with launch() as browser:
            page = browser.new_page(viewport={"width": 1440, "height": 900})
            page.goto(servers.start().address)
            durations = measure(page, drawings)
    finally:
        servers.end_all()
    quantiles = statistics.quantiles(durations, n=20, method="inclusive")
    print(
        f"stroke end to first painted estimate, {len(durations)} strokes: "
        f"median {statistics.median(durations):.0f} ms, p95 {quantiles[-1]:.0f} ms, "
        f"most {max(durations):.0f} ms"
    )


if __name__ == "__main__":
    main()
