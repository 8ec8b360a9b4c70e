"""Trained models inside the tools that people annotate with; each module needs the package of its tool."""
