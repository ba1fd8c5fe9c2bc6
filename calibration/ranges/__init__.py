"""Value ranges of activations, through the swap executor: what fills a calibration cache."""
