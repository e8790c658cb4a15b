"""What reports draw with; matplotlib is imported here and nowhere else."""
