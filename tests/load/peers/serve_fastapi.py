"""Plain FastAPI routes, as one would write them first; they have no batching of their own."""

import base64
import os
from typing import Any

import numpy as np
import uvicorn
from fastapi import FastAPI, Request

from tests.load.peers.digits import Digits, decode

app = FastAPI()
digits = Digits()


@app.post("/predict")
async def predict(request: Request) -> dict[str, Any]:
    pixels = decode(await request.body())
    return digits.answer(pixels[None])[0]


@app.post("/predict/batch")
async def predict_batch(pictures: list[str]) -> list[dict[str, Any]]:
    files = map(base64.b64decode, pictures)
    return digits.answer(np.stack([decode(file) for file in files]))


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(os.environ["PEER_PORT"]), log_level="warning")
