"""What bench_curvature.py measures with: workloads, what is true of them, and the libraries as contestants."""
