"""What is measured on other images than the test set's."""

import numpy as np

from training.report.measurements import rotate


def test_images_turn_counter_clockwise_about_their_middle() -> None:
    image = np.zeros((1, 28, 28), dtype=np.uint8)
    image[0, 13:15, 20:26] = 255  # a bar to the right
    (turned,) = rotate(image, 90)
    expected = np.zeros((28, 28), dtype=np.uint8)
    expected[2:8, 13:15] = 255  # now above
    assert np.array_equal(turned, expected)
