"""Quality: what the contract expects, as suites of Great Expectations; their results, and Data Docs."""
