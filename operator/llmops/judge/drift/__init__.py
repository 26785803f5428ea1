"""Whether a deployment's traffic still is what it was: statistic, baseline, threshold, life cycle, replay."""
