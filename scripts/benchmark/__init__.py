"""What the benchmarks in scripts/ measure, and how: training regimes, the published code beside them, turns, memory."""
