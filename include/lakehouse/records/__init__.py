"""Reading landed files: from bytes to records with an identity, without any engine."""
