"""Asks models with tritonclient for one input each: `python triton_tensors.py HOST:PORT FILE`.

The .npz file has the input of each model by its name. The outputs are printed as JSON. A process of
its own, since tritonclient brings gevent.
"""

import json
import sys
from typing import Any

import numpy as np
from tritonclient import http

DATATYPES = {"float32": "FP32", "uint8": "UINT8"}


def ask(
    client: http.InferenceServerClient, model: str, values: np.ndarray[Any, Any]
) -> dict[str, list[Any]]:
    (described,) = client.get_model_metadata(model)["inputs"][:1]
    assert client.is_model_ready(model)
    assert described["datatype"] == DATATYPES[values.dtype.name]
    batch = values.reshape(1, *described["shape"][1:])
    tensor = http.InferInput(described["name"], list(batch.shape), described["datatype"])
    tensor.set_data_from_numpy(batch)
    parameters = {"seed": 5} if model.endswith("-mc") else None
    answer = client.infer(model, [tensor], parameters=parameters)
    names = [each["name"] for each in answer.get_response()["outputs"]]
    return {
        name: answer.as_numpy(name).ravel().tolist()
        for name in names
        if answer.as_numpy(name).dtype != np.object_
    }


if __name__ == "__main__":
    with http.InferenceServerClient(sys.argv[1]) as client, np.load(sys.argv[2]) as inputs:
        found = {
            name + suffix: ask(client, name + suffix, inputs[name])
            for name in inputs.files
            for suffix in ("", "-mc")
        }
    sys.stdout.write(json.dumps(found))
