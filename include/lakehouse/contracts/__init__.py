"""Contracts: the model, reading with every problem at once, and what is derived without any engine."""
