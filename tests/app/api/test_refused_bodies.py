"""Bodies that are refused: what is wrong with the body itself, its JSON, its pixels or its form."""

import base64
import gzip
import json
import time
from typing import cast

import httpx
import pytest
from PIL import Image

from tests.app.api.bad_requests import (
    DIGIT,
    HEIC,
    HTML,
    IMAGE,
    ROWS,
    SECRET,
    SVG,
    Bad,
    assert_refused,
    bad_pixels,
    flatten,
    one_bit_png,
    pixels_spelt,
    pixels_with,
)
from tests.app.api.request_bodies import BOUNDARY, FORM, JSON, encode, form, part

BODIES: dict[str, Bad] = {
    "no body": Bad(400, "empty_body", b""),
    "no body, of a type": Bad(400, "empty_body", b"", "image/png", names="--data-binary"),
    "no body, JSON": Bad(400, "empty_body", b"", JSON),
    "an empty file in a form": Bad(400, "empty_body", form(part("file", b"", "7.png")), FORM),
    "an empty image in JSON": Bad(400, "empty_body", '{"image": ""}', JSON),
    "text": Bad(415, "unsupported_media_type", f"seven {SECRET}", "text/plain", names="image"),
    "text without a type": Bad(415, "not_an_image", f"seven {SECRET}", names="PNG"),
    "text that calls itself an image": Bad(415, "not_an_image", SECRET, "image/png"),
    "HTML": Bad(415, "unsupported_media_type", HTML, "text/html; charset=utf-8"),
    "HTML without a type": Bad(415, "not_an_image", HTML),
    "an image that calls itself text": Bad(
        415, "unsupported_media_type", DIGIT, "text/plain", names="Content-Type: image/png"
    ),
    "a PDF": Bad(415, "unsupported_media_type", f"%PDF-1.7 {SECRET}", "application/pdf"),
    "XML": Bad(415, "unsupported_media_type", SVG, "application/xml"),
    "a type that is none": Bad(415, "unsupported_media_type", DIGIT, f"{SECRET};/=;"),
    "half a PNG": Bad(400, "truncated_image", DIGIT[: len(DIGIT) // 2], names="whole file"),
    "half a PNG in JSON": Bad(
        400, "truncated_image", f'{{"image": "{base64.b64encode(DIGIT[:300]).decode()}"}}', JSON
    ),
    "half a PNG in a form": Bad(400, "truncated_image", form(part("file", DIGIT[:300], "a")), FORM),
    "81 megapixels": Bad(413, "too_many_pixels", one_bit_png(9000), "image/png", names="scale"),
    "gzip, cut off": Bad(
        400,
        "invalid_encoding",
        gzip.compress(DIGIT)[:-9],
        encoding="gzip",
        names="Content-Encoding",
    ),
    "gzip that is none": Bad(400, "invalid_encoding", f'{{"{SECRET}": 1}}', JSON, encoding="gzip"),
    "a gzip bomb": Bad(413, "body_too_large", gzip.compress(bytes(20 * 2**20)), encoding="gzip"),
    "brotli": Bad(415, "unsupported_media_type", DIGIT, encoding="br", names="gzip"),
    "20 MB": Bad(413, "body_too_large", bytes(20 * 2**20), names="smaller"),
    "20 MB of JSON": Bad(413, "body_too_large", b'{"image": "' + b"A" * 20 * 2**20, JSON),
    "SVG by type": Bad(415, "unsupported_media_type", SVG, "image/svg+xml", names="SVG"),
    "SVG by content": Bad(415, "unsupported_media_type", SVG, "image/png", names="SVG"),
    "SVG without a type": Bad(415, "unsupported_media_type", SVG, names="PNG"),
    "HEIC by type": Bad(415, "unsupported_media_type", HEIC, "image/heic", names="HEIC"),
    "HEIC by content": Bad(415, "unsupported_media_type", HEIC, "image/jpeg", names="JPEG"),
    "HEIC without a type": Bad(415, "unsupported_media_type", HEIC, names="HEIC"),
    "a white page": Bad(422, "no_ink", encode(Image.new("L", (140, 140), 255)), names="no ink"),
    "a grey page": Bad(422, "no_ink", encode(Image.new("RGB", (28, 28), (90, 90, 90)))),
    "140x140 with none": Bad(422, "invalid_pixels", query="preprocess=none", names="28x28"),
    "28x27 with none": Bad(
        422,
        "invalid_pixels",
        encode(Image.new("L", (28, 27), 9)),
        query="preprocess=none",
        names="28x27",
    ),
}
JSON_BODIES: dict[str, Bad] = {
    "no JSON": Bad(400, "invalid_json", SECRET, JSON),
    "half JSON": Bad(400, "invalid_json", f'{{"image": "{SECRET}', JSON),
    "JSON and more": Bad(400, "invalid_json", f'{{"image": "{IMAGE}"}} {SECRET}', JSON),
    "no UTF-8": Bad(400, "invalid_json", b'{"image": "\xff\xfe\xff"}', JSON),
    "a PNG as JSON": Bad(400, "invalid_json", DIGIT, JSON),
    "nested 100,000 deep": Bad(400, "invalid_json", "[" * 100_000 + "]" * 100_000, JSON),
    "objects nested 100,000 deep": Bad(400, "invalid_json", '{"image":' * 100_000, JSON),
    "pixels nested 100,000 deep": Bad(
        400, "invalid_json", '{"pixels": ' + "[" * 100_000 + "]" * 100_000 + "}", JSON
    ),
    "NaN": Bad(400, "invalid_json", f'{{"image": "{IMAGE}", "passes": NaN}}', JSON),
    "-Infinity": Bad(400, "invalid_json", f'{{"image": "{IMAGE}", "seed": -Infinity}}', JSON),
    "a number of 5,000 digits": Bad(
        400, "invalid_json", f'{{"image": "{IMAGE}", "seed": {"1" * 5000}}}', JSON
    ),
    "an array": Bad(422, "invalid_parameter", f'["{SECRET}"]', JSON, names="object"),
    "a string": Bad(422, "invalid_parameter", f'"{SECRET}"', JSON, names="object"),
    "null": Bad(422, "invalid_parameter", "null", JSON, names="object"),
    "nothing in it": Bad(422, "invalid_parameter", "{}", JSON, names="image", param="image"),
    "neither image nor pixels": Bad(
        422, "invalid_parameter", '{"passes": 5}', JSON, names="pixels", param="image"
    ),
    "image and pixels": Bad(
        400, "conflicting_parameters", json.dumps({"image": IMAGE, "pixels": ROWS}), JSON
    ),
    "no base64": Bad(
        422, "invalid_parameter", f'{{"image": "!{SECRET}!"}}', JSON, names="base64", param="image"
    ),
    "base64 cut off": Bad(
        422, "invalid_parameter", f'{{"image": "{IMAGE[:97]}"}}', JSON, names="base64"
    ),
    "letters beyond ASCII": Bad(422, "invalid_parameter", '{"image": "\u00fc\\ud800"}', JSON),
    "a number as image": Bad(422, "invalid_parameter", '{"image": 7}', JSON, param="image"),
    "an object as image": Bad(422, "invalid_parameter", '{"image": {}}', JSON, param="image"),
    "base64 of text": Bad(
        415, "not_an_image", json.dumps({"image": base64.b64encode(SECRET.encode()).decode()}), JSON
    ),
    "a name twice with two values": Bad(
        400, "conflicting_parameters", f'{{"image": "{IMAGE}", "seed": 1, "seed": 2}}', JSON
    ),
    "a misspelt field": Bad(
        422,
        "unknown_parameter",
        f'{{"image": "{IMAGE}", "pases": "{SECRET}"}}',
        JSON,
        names="passes",
        param="passes",
    ),
    "a field of megabytes": Bad(
        422, "unknown_parameter", f'{{"image": "{IMAGE}", "passe{SECRET * 500_000}": 1}}', JSON
    ),
    "a field of no letters": Bad(
        422, "unknown_parameter", f'{{"image": "{IMAGE}", "\\ud800\\u0000": 1}}', JSON
    ),
}
PIXELS: dict[str, Bad] = {
    "27 rows": bad_pixels(json.dumps({"pixels": ROWS[:27]}), names="28 rows of 28"),
    "rows of 27": bad_pixels(json.dumps({"pixels": [row[:27] for row in ROWS]})),
    "rows of 27 and 29": bad_pixels(
        json.dumps({"pixels": [ROWS[0][:27], [0] * 29, *ROWS[2:]]}), names="28 rows of 28"
    ),
    "783 pixels": bad_pixels(json.dumps({"pixels": flatten(ROWS)[:783]})),
    "no pixels": bad_pixels('{"pixels": []}'),
    "28 numbers": bad_pixels(json.dumps({"pixels": [255] * 28})),
    "a string of pixels": bad_pixels(json.dumps({"pixels": SECRET})),
    "null pixels": bad_pixels('{"pixels": null}'),
    "values in 0..1": bad_pixels(json.dumps({"pixels": [[v / 255 for v in row] for row in ROWS]})),
    "integers in 0..1": bad_pixels(
        json.dumps({"pixels": [[v // 255 for v in row] for row in ROWS]}), names="scaled"
    ),
    "nothing but 0": bad_pixels(json.dumps({"pixels": [[0] * 28] * 28})),
    "a float": bad_pixels(pixels_with(127.5)),
    "a whole float": bad_pixels(pixels_with(128.0)),
    "a negative pixel": bad_pixels(pixels_with(-1)),
    "256": bad_pixels(pixels_with(256)),
    "256 in a flat list": bad_pixels(pixels_with(256, flat=True)),
    "10**30": bad_pixels(pixels_with(10**30)),
    "1e999": bad_pixels(pixels_spelt("1e999")),
    '"0.5"': bad_pixels(pixels_with("0.5")),
    "a string": bad_pixels(pixels_with(SECRET)),
    "true": bad_pixels(pixels_with(True)),
    "a null": bad_pixels(pixels_with(None)),
    "a list": bad_pixels(pixels_with([1], flat=True)),
    "NaN": Bad(400, "invalid_json", pixels_spelt("NaN"), JSON),
    "Infinity": Bad(400, "invalid_json", pixels_spelt("Infinity"), JSON),
    "all 255": Bad(422, "no_ink", json.dumps({"pixels": [[255] * 28] * 28}), JSON),
}
FORMS: dict[str, Bad] = {
    "no file": Bad(
        400,
        "invalid_multipart",
        form(part("passes", b"5")),
        FORM,
        names="-F file=@",
        param="file",
    ),
    "text where the file should be": Bad(
        400, "invalid_multipart", form(part("file", DIGIT)), FORM, names="-F file=@"
    ),
    "two files": Bad(
        400,
        "invalid_multipart",
        form(part("file", DIGIT, "1.png"), part("file", DIGIT, "2.png")),
        FORM,
        names="one file",
    ),
    "nine files": Bad(400, "invalid_multipart", form(*[part("file", DIGIT, "7.png")] * 9), FORM),
    "a file in an odd field": Bad(
        400, "invalid_multipart", form(part(SECRET, DIGIT, "7.png")), FORM, names="named file"
    ),
    "a file without a field": Bad(
        400,
        "invalid_multipart",
        form(part("file", DIGIT, "7.png")).replace(b' name="file";', b""),
        FORM,
    ),
    "another boundary": Bad(
        400,
        "invalid_multipart",
        form(part("file", DIGIT, "7.png")),
        f"multipart/form-data; boundary={SECRET}",
    ),
    "no boundary": Bad(
        400, "invalid_multipart", form(part("file", DIGIT, "7.png")), "multipart/form-data"
    ),
    "an empty boundary": Bad(
        400,
        "invalid_multipart",
        form(part("file", DIGIT, "7.png")),
        "multipart/form-data;boundary=",
    ),
    "no form at all": Bad(400, "invalid_multipart", DIGIT, FORM),
    "no body": Bad(400, "invalid_multipart", b"", FORM),
    "cut off within the file": Bad(400, "invalid_multipart", part("file", DIGIT, "7")[:300], FORM),
    "cut off after 2 MB": Bad(400, "invalid_multipart", part("file", bytes(2**21), "7"), FORM),
    "2 MB in a field": Bad(
        422,
        "invalid_parameter",
        form(part("file", DIGIT, "7.png"), part("seed", b"1" * 2**21)),
        FORM,
    ),
    "200 fields": Bad(
        400,
        "invalid_multipart",
        form(part("file", DIGIT, "7.png"), *[part("seed", b"1")] * 200),
        FORM,
    ),
    "an unknown charset": Bad(
        400,
        "invalid_multipart",
        form(part("passes", b"5")),
        f"multipart/form-data; boundary={BOUNDARY}; charset={SECRET}",
    ),
    "a charset that is no charset": Bad(
        400,
        "invalid_multipart",
        form(part("passes", b"5")),
        f"multipart/form-data; boundary={BOUNDARY}; charset=zlib",
    ),
    "a charset that fits nothing": Bad(
        400,
        "invalid_multipart",
        form(part("passes", b"5")),
        f"multipart/form-data; boundary={BOUNDARY}; charset=undefined",
    ),
}
BATCHES: dict[str, Bad] = {
    "no inputs": Bad(
        422, "invalid_parameter", "{}", JSON, path="/predict/batch", names="inputs", param="inputs"
    ),
    "257 images": Bad(
        413,
        "too_many_images",
        json.dumps({"inputs": [{"image": IMAGE}] * 257}),
        JSON,
        path="/predict/mc/batch",
        names="256",
    ),
    "one image as it is": Bad(
        415, "unsupported_media_type", DIGIT, "image/png", path="/predict/batch", names="/predict"
    ),
    "JSON as a form": Bad(
        415,
        "unsupported_media_type",
        json.dumps({"inputs": [{"image": IMAGE}]}),
        "application/x-www-form-urlencoded",
        path="/predict/batch",
        names="Content-Type: application/json",
    ),
    "a file without a name": Bad(
        400,
        "invalid_multipart",
        form(part("file", DIGIT)),
        FORM,
        path="/predict/batch",
        names="no file name",
        param="file",
    ),
    "a misspelt parameter": Bad(
        422,
        "unknown_parameter",
        json.dumps({"inputs": [{"image": IMAGE}], "pases": 5}),
        JSON,
        path="/predict/mc/batch",
        names="passes",
        param="passes",
    ),
}


TABLE: dict[str, Bad] = {
    f"{group}: {name}": bad
    for group, cases in {
        "body": BODIES,
        "JSON": JSON_BODIES,
        "pixels": PIXELS,
        "form": FORMS,
        "batch": BATCHES,
    }.items()
    for name, bad in cases.items()
}


@pytest.mark.parametrize("case", TABLE)
async def test_bad_input_gets_its_status_and_code_and_the_server_keeps_serving(
    client: httpx.AsyncClient, case: str
) -> None:
    await assert_refused(client, TABLE[case])


def test_81_megapixels_fit_into_ten_kilobytes() -> None:
    assert len(cast(bytes, TABLE["body: 81 megapixels"].content)) < 10_000


async def test_a_misspelt_name_of_megabytes_takes_no_time(client: httpx.AsyncClient) -> None:
    started = time.process_time()
    await TABLE["JSON: a field of megabytes"].send(client)

    # Comparing all of it with the known names takes half a minute.
    assert time.process_time() - started < 5
