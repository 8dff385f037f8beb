select
  _key as line_key, invoice_no, line_kind, is_product, stock_code, description, quantity, invoice_at, sales_date,
  unit_price, amount, customer_id, country, customer_key, product_key,
  _unit
from {{ source('silver', 'fact_sales_line') }}
