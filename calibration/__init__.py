"""Pictures -> activation ranges: where pictures are, streaming statistics, the calibration table."""
