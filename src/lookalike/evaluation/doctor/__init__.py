"""What is wrong in a data set or a catalogue."""

from lookalike.evaluation.doctor.diagnosis import Diagnosis, Finding, draw_findings
from lookalike.evaluation.doctor.examination import examine_catalogue, examine_dataset

__all__ = ["Diagnosis", "Finding", "draw_findings", "examine_catalogue", "examine_dataset"]
