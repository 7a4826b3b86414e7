"""Reading MNIST: the format, a given folder, the cache, and the download that fills it."""

import gzip
import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest

from training import data
from training.data import FILES, MNIST, find_folder, load_images, parse_idx
from training.errors import TrainingError

PIXELS, LABELS = FILES["train"]


def idx(shape: tuple[int, ...], values: bytes) -> bytes:
    """An IDX file of unsigned bytes: two zeros, 8, how many dimensions, their sizes, the data."""
    sizes = b"".join(size.to_bytes(4, "big") for size in shape)
    return bytes([0, 0, 8, len(shape)]) + sizes + values


# Three 2x2 images and their labels stand for the 60,000.
CONTENTS = {
    "train-images-idx3-ubyte": idx((3, 2, 2), bytes(range(244, 256))),
    "train-labels-idx1-ubyte": idx((3,), bytes([7, 0, 9])),
    "t10k-images-idx3-ubyte": idx((1, 2, 2), bytes([1, 2, 3, 4])),
    "t10k-labels-idx1-ubyte": idx((1,), bytes([5])),
}


@pytest.fixture(autouse=True)
def tiny_mnist(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The checksums of the tiny files, and a cache of the test's own."""
    for name, content in CONTENTS.items():
        monkeypatch.setitem(data.MNIST.md5, name, hashlib.md5(content).hexdigest())
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("DROPSERVE_DATA_DIR", raising=False)


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


def fill(folder: Path, *, gzipped: bool = False) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in CONTENTS.items():
        if gzipped:
            (folder / f"{name}.gz").write_bytes(gzip.compress(content))
        else:
            (folder / name).write_bytes(content)
    return folder


def refusal(data_dir: Path | None = None, client: httpx.Client | None = None) -> str:
    """The message of the refusal: one line."""
    with pytest.raises(TrainingError) as caught:
        load_images("train", data_dir, client=client)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    return message


# The format


def test_an_idx_file_is_an_array_in_row_major_order() -> None:
    array = parse_idx(idx((2, 3), bytes([1, 2, 3, 4, 5, 255])))
    assert array.dtype == np.uint8
    assert array.tolist() == [[1, 2, 3], [4, 5, 255]]


def test_sizes_are_big_endian_and_four_bytes_long() -> None:
    assert parse_idx(idx((300,), bytes(300))).shape == (300,)


def test_a_parsed_array_can_be_written_to() -> None:
    array = parse_idx(idx((2,), bytes(2)))
    array[0] = 1
    assert array.tolist() == [1, 0]


def test_an_empty_array_is_read() -> None:
    assert parse_idx(idx((0, 28, 28), b"")).shape == (0, 28, 28)


@pytest.mark.parametrize("length", range(len(CONTENTS[PIXELS])))
def test_a_file_cut_anywhere_is_refused(length: int) -> None:
    with pytest.raises(TrainingError, match="IDX"):
        parse_idx(CONTENTS[PIXELS][:length])


def test_bytes_after_the_end_are_refused() -> None:
    with pytest.raises(TrainingError, match=r"promises shape \(3,\) has 12 bytes"):
        parse_idx(idx((3,), bytes(4)))


@pytest.mark.parametrize("kind", [0x09, 0x0B, 0x0D, 0x0E])
def test_another_element_type_is_refused(kind: int) -> None:
    """Signed bytes, 16-bit integers, floats and doubles."""
    with pytest.raises(TrainingError, match="unsigned bytes"):
        parse_idx(bytes([0, 0, kind, 1]) + (1).to_bytes(4, "big") + b"\0")


@pytest.mark.parametrize("content", [b"", b"\x89PNG\r\n\x1a\n", b"<html></html>"])
def test_another_format_is_refused(content: bytes) -> None:
    with pytest.raises(TrainingError, match="not an IDX file"):
        parse_idx(content)


def test_a_size_that_overflows_is_refused() -> None:
    # 65536^4 = 2^64, which is 0 in 64 bits: as if no data were promised.
    with pytest.raises(TrainingError, match="promises shape"):
        parse_idx(idx((65536,) * 4, b""))


# A given folder


@pytest.mark.parametrize("gzipped", [False, True])
@pytest.mark.parametrize("subfolder", ["", "mnist"])
def test_a_given_folder_is_read(tmp_path: Path, subfolder: str, gzipped: bool) -> None:
    fill(tmp_path / "given" / subfolder, gzipped=gzipped)
    images = load_images("train", tmp_path / "given")
    assert images.pixels.tolist() == [
        [[244, 245], [246, 247]],
        [[248, 249], [250, 251]],
        [[252, 253], [254, 255]],
    ]
    assert images.labels.tolist() == [7, 0, 9]
    assert images.pixels.dtype == np.uint8
    assert images.labels.dtype == np.int64


def test_the_test_split_has_files_of_its_own(tmp_path: Path) -> None:
    images = load_images("test", fill(tmp_path / "given"))
    assert (len(images), images.labels.tolist()) == (1, [5])


def test_a_slice_of_the_images_keeps_pixels_and_labels_together(tmp_path: Path) -> None:
    rest = load_images("train", fill(tmp_path / "given"))[1:]
    assert (len(rest), rest.labels.tolist()) == (2, [0, 9])
    assert rest.pixels[0].tolist() == [[248, 249], [250, 251]]


def test_an_empty_subfolder_does_not_hide_the_files_beside_it(tmp_path: Path) -> None:
    fill(tmp_path)
    (tmp_path / "mnist").mkdir()
    assert find_folder(tmp_path) == tmp_path


def test_the_environment_names_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mirrors: Mirrors, client: httpx.Client
) -> None:
    monkeypatch.setenv("DROPSERVE_DATA_DIR", str(fill(tmp_path / "given")))
    assert len(load_images("train", client=client)) == 3
    assert mirrors.asked == []


def test_the_argument_comes_before_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DROPSERVE_DATA_DIR", str(tmp_path / "nowhere"))
    assert len(load_images("train", fill(tmp_path / "given"))) == 3


def test_a_missing_file_is_named_with_what_to_do(tmp_path: Path) -> None:
    given = fill(tmp_path / "given")
    (given / LABELS).unlink()
    message = refusal(given)
    assert f"{given} has no {LABELS} or {LABELS}.gz" in message
    assert "put MNIST's four IDX files there" in message
    assert "--data-dir and DROPSERVE_DATA_DIR" in message


def test_a_missing_folder_is_named_with_what_to_do(tmp_path: Path) -> None:
    message = refusal(tmp_path / "nowhere")
    assert f"{tmp_path / 'nowhere'} has no {PIXELS}" in message
    assert "leave out --data-dir" in message


def corrupt(content: bytes) -> bytes:
    return content[:-1] + bytes([content[-1] ^ 1])


def cut(content: bytes) -> bytes:
    return content[:-3]


def empty(content: bytes) -> bytes:
    return b""


@pytest.mark.parametrize("damage", [corrupt, cut, empty])
@pytest.mark.parametrize("gzipped", [False, True])
def test_a_damaged_given_file_is_named_and_never_replaced(
    tmp_path: Path, gzipped: bool, damage: Callable[[bytes], bytes]
) -> None:
    given = fill(tmp_path / "given", gzipped=gzipped)
    path = given / (f"{LABELS}.gz" if gzipped else LABELS)
    damaged = damage(path.read_bytes())
    path.write_bytes(damaged)
    message = refusal(given)
    assert f"{path} is corrupt or partial" in message
    assert "replace or delete it" in message
    assert path.read_bytes() == damaged


# The cache and the download


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


def test_the_checksums_are_those_of_the_official_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    assert data.MNIST.md5 == {
        "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
        "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
        "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
        "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
    }
