"""The customers' columns, and the types of those that are no text, as DuckDB calls them. Imports nothing."""

COLUMNS = (
    "customer_id full_name email phone street city country segment credit_limit birth_date marketing_consent "
    "registered_at"
).split()
TYPES = {"credit_limit": "DECIMAL(12,2)", "birth_date": "DATE", "marketing_consent": "BOOLEAN"}
TYPES |= {"registered_at": "TIMESTAMPTZ"}
