"""What the benchmarks of a CPU and of a GPU share."""
