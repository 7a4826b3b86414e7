"""The cache of the data, and the download that fills it."""

import gzip
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest

from tests.training.idx_files import (
    CONTENTS,
    LABELS,
    PIXELS,
    corrupt,
    cut,
    empty,
    fill,
    refusal,
)
from training import data
from training.data import MNIST, load_images

pytestmark = pytest.mark.usefixtures("tiny_mnist")


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "dropserve" / "mnist"


class Mirrors:
    """The two servers: what each answers, and what was asked of them."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.answers: list[Callable[[str], httpx.Response]] = [serve_intact, serve_intact]

    def __call__(self, request: httpx.Request) -> httpx.Response:
        url = str(request.url)
        self.asked.append(url)
        number = next(i for i, mirror in enumerate(MNIST.mirrors) if url.startswith(mirror))
        return self.answers[number](url.removeprefix(MNIST.mirrors[number]))


def serve_intact(file: str) -> httpx.Response:
    return httpx.Response(200, content=gzip.compress(CONTENTS[file.removesuffix(".gz")]))


def serve_cut(file: str) -> httpx.Response:
    return httpx.Response(200, content=serve_intact(file).content[:-5])


def serve_another_file(file: str) -> httpx.Response:
    return httpx.Response(200, content=gzip.compress(b"something else"))


def serve_a_web_page(file: str) -> httpx.Response:
    return httpx.Response(200, content=b"<html>Please log in to this network</html>")


def serve_not_found(file: str) -> httpx.Response:
    return httpx.Response(404)


def refuse(file: str) -> httpx.Response:
    raise httpx.ConnectError("[Errno -3] Temporary failure in name resolution")


def time_out(file: str) -> httpx.Response:
    raise httpx.ReadTimeout("")


@pytest.fixture
def mirrors() -> Mirrors:
    return Mirrors()


@pytest.fixture
def client(mirrors: Mirrors) -> Iterator[httpx.Client]:
    with httpx.Client(transport=httpx.MockTransport(mirrors)) as client:
        yield client


def test_the_environment_names_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mirrors: Mirrors, client: httpx.Client
) -> None:
    monkeypatch.setenv("DROPSERVE_DATA_DIR", str(fill(tmp_path / "given")))
    assert len(load_images("train", client=client)) == 3
    assert mirrors.asked == []


def test_a_download_fills_the_cache_and_is_not_repeated(
    cache: Path, mirrors: Mirrors, client: httpx.Client
) -> None:
    first = load_images("train", client=client)
    assert mirrors.asked == [f"{MNIST.mirrors[0]}{PIXELS}.gz", f"{MNIST.mirrors[0]}{LABELS}.gz"]
    again = load_images("train", client=client)
    assert len(mirrors.asked) == 2
    assert first.labels.tolist() == again.labels.tolist() == [7, 0, 9]
    assert np.array_equal(first.pixels, again.pixels)


def test_a_download_leaves_the_files_and_no_temporary_ones(
    cache: Path, client: httpx.Client
) -> None:
    load_images("train", client=client)
    assert {path.name for path in cache.iterdir()} == {f"{PIXELS}.gz", f"{LABELS}.gz"}
    assert gzip.decompress((cache / f"{LABELS}.gz").read_bytes()) == CONTENTS[LABELS]


def test_progress_goes_to_stderr_and_names_the_file(
    client: httpx.Client, capsys: pytest.CaptureFixture[str]
) -> None:
    load_images("train", client=client)
    out, err = capsys.readouterr()
    assert out == ""
    assert PIXELS in err
    assert "100%" in err


@pytest.mark.parametrize(
    "failure",
    [refuse, time_out, serve_not_found, serve_cut, serve_another_file, serve_a_web_page],
)
def test_the_second_mirror_is_asked_where_the_first_fails(
    mirrors: Mirrors, client: httpx.Client, failure: Callable[[str], httpx.Response]
) -> None:
    mirrors.answers[0] = failure
    assert load_images("train", client=client).labels.tolist() == [7, 0, 9]
    assert mirrors.asked == [
        f"{mirror}{name}.gz" for name in (PIXELS, LABELS) for mirror in MNIST.mirrors
    ]


def test_a_mirror_that_gives_the_file_decompressed_is_understood(
    cache: Path, mirrors: Mirrors, client: httpx.Client
) -> None:
    """What arrives where a server declares the gzip as the encoding of the transfer."""

    def serve_encoded(file: str) -> httpx.Response:
        return httpx.Response(
            200, content=serve_intact(file).content, headers={"content-encoding": "gzip"}
        )

    mirrors.answers[0] = serve_encoded
    assert load_images("train", client=client).labels.tolist() == [7, 0, 9]
    assert load_images("train", client=client).labels.tolist() == [7, 0, 9]
    assert len(mirrors.asked) == 2


@pytest.mark.parametrize("damage", [corrupt, cut, empty])
def test_a_damaged_cached_file_is_named_and_fetched_again(
    cache: Path,
    mirrors: Mirrors,
    client: httpx.Client,
    damage: Callable[[bytes], bytes],
    capsys: pytest.CaptureFixture[str],
) -> None:
    load_images("train", client=client)
    mirrors.asked.clear()
    path = cache / f"{LABELS}.gz"
    path.write_bytes(damage(path.read_bytes()))
    capsys.readouterr()
    assert load_images("train", client=client).labels.tolist() == [7, 0, 9]
    assert mirrors.asked == [f"{MNIST.mirrors[0]}{LABELS}.gz"]
    out, err = capsys.readouterr()
    assert out == ""
    assert f"{path} is corrupt or partial; fetching it again" in err
    assert gzip.decompress(path.read_bytes()) == CONTENTS[LABELS]


@pytest.mark.parametrize("failure", [refuse, time_out, serve_not_found])
def test_offline_without_data_is_one_line_that_says_what_to_do(
    cache: Path,
    mirrors: Mirrors,
    client: httpx.Client,
    failure: Callable[[str], httpx.Response],
) -> None:
    mirrors.answers = [failure, failure]
    message = refusal(client=client)
    assert f"neither in {cache} nor can it be downloaded" in message
    assert "connect to the internet" in message
    assert "--data-dir or DROPSERVE_DATA_DIR" in message
    assert all(mirror in message for mirror in MNIST.mirrors)
    assert not cache.exists()


def test_a_mirrors_refusal_and_a_broken_connection_are_named(
    mirrors: Mirrors, client: httpx.Client
) -> None:
    mirrors.answers = [serve_not_found, refuse]
    message = refusal(client=client)
    assert f"{MNIST.mirrors[0]}{PIXELS}.gz: status 404" in message
    assert f"{MNIST.mirrors[1]}{PIXELS}.gz: ConnectError: [Errno -3]" in message


@pytest.mark.parametrize("failure", [serve_cut, serve_another_file, serve_a_web_page])
def test_nothing_unverified_reaches_the_cache(
    cache: Path,
    mirrors: Mirrors,
    client: httpx.Client,
    failure: Callable[[str], httpx.Response],
) -> None:
    mirrors.answers = [failure, failure]
    assert "the file is corrupt or partial" in refusal(client=client)
    assert not cache.exists()


def test_a_connection_that_breaks_off_leaves_nothing_behind(
    cache: Path, mirrors: Mirrors, client: httpx.Client
) -> None:
    class BrokenOff(httpx.SyncByteStream):
        def __iter__(self) -> Iterator[bytes]:
            yield b"\x1f\x8b"
            raise httpx.ReadError("Connection reset by peer")

    def break_off(file: str) -> httpx.Response:
        return httpx.Response(200, stream=BrokenOff())

    mirrors.answers = [break_off, break_off]
    assert "Connection reset by peer" in refusal(client=client)
    assert not cache.exists()


def test_a_cache_that_cannot_be_written_is_one_line_that_says_what_to_do(
    tmp_path: Path, client: httpx.Client
) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")
    message = refusal(client=client)
    assert "cannot write" in message
    assert "XDG_CACHE_HOME" in message
    assert "--data-dir or DROPSERVE_DATA_DIR" in message


def test_a_given_client_stays_open(client: httpx.Client) -> None:
    load_images("train", client=client)
    assert not client.is_closed


def test_without_xdg_cache_home_the_cache_is_in_the_home_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert data.cache_dir() == tmp_path / ".cache" / "dropserve" / "mnist"
