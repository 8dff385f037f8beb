with products as (
  select
    product_key, max(stock_code) as stock_code, max(is_product) as is_product,
    max_by(product_description, struct(invoice_at, line_key)) as description,
    max_by(catalogue_category, struct(invoice_at, line_key)) as category,
    min(sales_date) as first_sold, max(sales_date) as last_sold,
    count(distinct customer_key) as customers,
    count(distinct invoice_no) filter (where line_kind = 'sale') as invoices,
    cast(coalesce(sum(quantity) filter (where line_kind = 'sale'), 0) as bigint) as quantity_sold,
    cast(coalesce(-sum(quantity) filter (where line_kind = 'cancellation'), 0) as bigint) as quantity_cancelled,
    cast(sum(amount) as decimal(38, 4)) as net_amount
  from {{ ref('sales_star') }}
  group by product_key
)
select
  *,
  cast(try_divide(quantity_cancelled, quantity_sold) as decimal(18, 4)) as cancellation_rate,
  cast(row_number() over (order by net_amount desc, stock_code) as int) as revenue_rank
from products
