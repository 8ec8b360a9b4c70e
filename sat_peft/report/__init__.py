"""What is drawn and printed from the results of a run."""
