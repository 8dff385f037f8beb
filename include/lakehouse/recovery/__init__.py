"""Getting the lake back: restore, check, repair, drill."""
