"""What a calibrated score is worth on samples that neither training nor calibration has seen."""
