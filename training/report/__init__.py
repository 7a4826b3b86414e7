"""What a checkpoint is worth: measurements, and figures and pages that are made from them alone."""
