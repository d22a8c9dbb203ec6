"""Turn pictures into activation ranges: finding pictures, cropping them, streaming statistics, the calibration table."""
