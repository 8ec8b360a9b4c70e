"""Trained models inside the tools that people annotate and show with; each module needs the package of its tool."""
