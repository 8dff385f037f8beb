"""Sample sources: seeded, of any size, with the irregularities that reality brings."""
