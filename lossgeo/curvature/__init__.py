"""Curvature: the loss around a point, its symmetric operators, and their spectra."""
