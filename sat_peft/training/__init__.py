"""From options to a trained model and its figures."""
