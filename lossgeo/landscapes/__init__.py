"""Landscapes: the loss as a function of one flat parameter vector, of networks on data and of analytic surfaces."""
