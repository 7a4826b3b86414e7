"""MLServer: a model of the Open Inference Protocol; its batching joins tensors along their rows."""

import numpy as np
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse

from tests.load.peers.digits import Digits


class DigitsModel(MLModel):
    async def load(self) -> bool:
        self.digits = Digits()
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        answers = self.digits.answer(NumpyCodec.decode_input(payload.inputs[0]))
        return InferenceResponse(
            model_name=self.name,
            outputs=[
                NumpyCodec.encode_output(name, np.asarray([answer[name] for answer in answers]))
                for name in answers[0]
            ],
        )
