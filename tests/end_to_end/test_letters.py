"""The split of the uncertainty separates letters from a digit between two classes."""

import httpx
import numpy as np

from tests.conftest import sample
from tests.samples.no_digits import letter


async def test_letters_are_unfamiliar_by_disagreement_and_an_ambiguous_digit_is_not(
    client: httpx.AsyncClient,
) -> None:
    generator = np.random.default_rng(0)
    pictures = [sample("doubtful.png"), *(letter(generator) for _ in range(60))]
    reasons, shares, outcomes = [], [], set()
    for seed, picture in enumerate(pictures):
        answer = (await client.post(f"/predict/mc?seed={seed}", content=picture)).json()
        outcomes.add(answer["decision"]["outcome"])
        reasons.append(answer["decision"]["reason"])
        shares.append(answer["mutual_information"] / answer["predictive_entropy"])

    assert outcomes == {"abstain"}
    assert reasons[0] == "ambiguous"
    assert reasons[1:].count("unfamiliar") >= 59  # a T could be a 7
    assert shares[0] < 0.5 < min(shares[1:])
