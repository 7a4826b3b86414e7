"""Skips what needs torch where it is not installed, and says so."""

from collections.abc import Generator

import pytest

_MISSING = "No module named 'torch'"
_REASON = "needs torch, which is not installed"


class WithoutTorch:
    """A plugin of pytest: hooks in a conftest do not see another conftest fail."""

    @pytest.hookimpl(wrapper=True)
    def pytest_make_collect_report(
        self, collector: pytest.Collector
    ) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
        """A file, or a folder's conftest, that cannot be imported is skipped as a whole."""
        report = yield
        if report.failed and _MISSING in str(report.longrepr):
            report.outcome = "skipped"
            report.longrepr = (str(collector.path), 0, _REASON)
        return report

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """So is a test that imports torch itself, or whose failure shows a process that did."""
        report = yield
        if report.failed and _MISSING in str(report.longrepr):
            report.outcome = "skipped"
            report.longrepr = (str(item.path), 0, _REASON)
        return report
