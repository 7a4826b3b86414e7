"""From the passes to an answer: statistics, calibration, prediction sets and decisions."""
