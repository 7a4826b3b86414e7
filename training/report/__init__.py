"""What a checkpoint is worth: measurements, figures, the report and the model card.

Measurements are dictionaries that JSON can hold; figures and pages are made from them alone.
"""
