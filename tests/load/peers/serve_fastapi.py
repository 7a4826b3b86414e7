"""A plain FastAPI route, as one would write it first; it has no batching of its own."""

import os
from typing import Any

import uvicorn
from fastapi import FastAPI, Request

from tests.load.peers.digits import Digits, decode

app = FastAPI()
digits = Digits()


@app.post("/predict")
async def predict(request: Request) -> dict[str, Any]:
    pixels = decode(await request.body())
    return digits.answer(pixels[None])[0]


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(os.environ["PEER_PORT"]), log_level="warning")
