"""What tests share: the small scenario, and data that only a workbench has."""

import importlib
import os
import signal
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from afdsim.scenario.document import Scenario, load
from tests import scratch

REPOSITORY = Path(__file__).parent.parent

# Draws are fixed in every run of the suite, so that a failure repeats; `make laws` explores.
settings.register_profile("suite", max_examples=30, deadline=None, derandomize=True)
settings.register_profile("laws", max_examples=600, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("suite")


def pytest_configure(config: pytest.Config) -> None:
    """Let pytest-randomly choose the order and nothing else: no test may lean on the global random state.

    And hear Ctrl-C: a shell has what it starts in the background ignore it, and that would be inherited.
    """
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    with suppress(ImportError):  # pandas asks for it late, which a test that hides pyarrow must not be the first to see
        importlib.import_module("pyarrow.compute")
    if hasattr(config.option, "randomly_reset_seed"):
        config.option.randomly_reset_seed = False


def pytest_unconfigure() -> None:
    """Leave nothing behind."""
    scratch.clear()


@pytest.fixture
def small() -> Scenario:
    """Two layers on 1A1F."""
    return load("small")


@pytest.fixture
def repository() -> Path:
    """Root of the checkout."""
    return REPOSITORY


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder of measurements and traces that do not ship; tests that need it are skipped elsewhere."""
    folder = Path(os.environ.get("AFDSIM_SHARED", REPOSITORY.parent / "shared"))
    if not folder.is_dir():
        pytest.skip("no shared data on this machine (AFDSIM_SHARED)")
    return folder
