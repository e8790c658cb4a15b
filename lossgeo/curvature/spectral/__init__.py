"""Spectral algorithms: plain linear algebra on a LinearOperator; they know nothing of networks."""
