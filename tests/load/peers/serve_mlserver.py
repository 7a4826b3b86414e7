"""MLServer: a model of the Open Inference Protocol; its batching joins tensors along their rows."""

import numpy as np
from mlserver import MLModel
from mlserver.codecs import Base64Codec, NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse

from tests.load.peers.digits import Digits, decode


class DigitsModel(MLModel):
    async def load(self) -> bool:
        self.digits = Digits()
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        (tensor,) = payload.inputs
        if tensor.datatype == "BYTES":
            pixels = np.stack([decode(file) for file in Base64Codec.decode_input(tensor)])
        else:
            pixels = NumpyCodec.decode_input(tensor)
        answers = self.digits.answer(pixels)
        return InferenceResponse(
            model_name=self.name,
            outputs=[
                NumpyCodec.encode_output(name, np.asarray([answer[name] for answer in answers]))
                for name in answers[0]
            ],
        )
