"""What reports compute with: runs as tables, statistics with intervals. No torch."""
