"""What the passes say: statistics, calibration, prediction sets and decisions."""
