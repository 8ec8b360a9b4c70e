"""What a localiser is worth: maps to figures, beside the baselines, and the verdict on them."""
