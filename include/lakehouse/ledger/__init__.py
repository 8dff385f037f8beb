"""The ledger: what landed, what was decided, what is live, and how far each table has consumed it. No engine."""
