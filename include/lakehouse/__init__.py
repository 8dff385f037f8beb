"""The lakehouse: contracts, landing, the ledger, the engine and the command line.

Layers, each importing only those below: cli > landing, samples, stack > engine > ledger > contracts > core.
"""

__version__ = "0.1.0"
