"""What every test may use: golden files, and how hard the property tests try."""

from __future__ import annotations

import gc
import importlib.util
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

import tests.draws

if TYPE_CHECKING:
    from tests.browser import Browser

GOLDEN = Path(__file__).parent / "golden"

SLOW = (HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much)
# Each run draws afresh, unless it is given a seed. What fails is printed as a blob for `@reproduce_failure`.
always = settings(deadline=None, suppress_health_check=SLOW, derandomize=False, print_blob=True)
settings.register_profile("dev", always, max_examples=10)
settings.register_profile("ci", always, max_examples=80)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "dev"))


# Reports fit the terminal that these name; a test says which it has. (xdist gives its workers the columns of its own.)
for variable in ("COLUMNS", "NO_COLOR", "FORCE_COLOR"):
    os.environ.pop(variable, None)


def pytest_configure(config: pytest.Config) -> None:
    """Let the cases that a run takes besides those of hypothesis depend on its seed too."""
    tests.draws.SEED = config.getoption("hypothesis_seed", None)


def pytest_collection_finish() -> None:
    """Search for cycles as rarely as `planc` does: to search what all tests share took a quarter of their time."""
    gc.set_threshold(100_000, 50, 50)
    gc.freeze()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="rewrite the expected half of golden tests")


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[str, str], None]:
    """Compare a text with a file below tests/golden, which `--update-golden` writes."""

    def check(path: str, text: str) -> None:
        file = GOLDEN / path
        if request.config.getoption("--update-golden"):
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, encoding="utf-8")
        assert file.exists(), f"there is no {file.name} yet: run pytest --update-golden"
        assert text == file.read_text(encoding="utf-8")

    return check


@pytest.fixture
def drawing() -> None:
    """For tests of a picture, through whichever program draws here; `make test` sees to it that there is one."""
    if shutil.which("dot") is None and importlib.util.find_spec("pygraphviz") is None:
        pytest.skip("a picture needs the program dot or the extra [render]")


@pytest.fixture
def texts_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """In every chart that a test draws, no text lies on another one."""
    from plandsl import plotting
    from tests.plots import overlaps

    save = plotting.save

    def checked(figure: object, path: Path) -> None:
        assert overlaps(figure) == []
        save(figure, path)

    monkeypatch.setattr(plotting, "save", checked)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A Chromium without a window, for tests of pages; they carry the marker `extras`."""
    from tests.browser import missing, open_browser

    if why := missing():
        pytest.skip(why)
    with open_browser() as found:
        yield found
