{#- Services and stock movements have rows of their own: they are told apart by stock_code and line_kind. -#}
select
  sales_date, country, stock_code, max(is_product) as is_product,
  max_by(product_description, struct(invoice_at, line_key)) as product_description,
  count_if(line_kind = 'sale') as sale_lines,
  count_if(line_kind = 'cancellation') as cancellation_lines,
  cast(coalesce(sum(quantity) filter (where line_kind = 'sale'), 0) as bigint) as quantity_sold,
  cast(coalesce(-sum(quantity) filter (where line_kind = 'cancellation'), 0) as bigint) as quantity_cancelled,
  cast(coalesce(sum(quantity) filter (where line_kind = 'stock_movement'), 0) as bigint) as quantity_moved,
  cast(coalesce(sum(amount) filter (where line_kind = 'sale'), 0) as decimal(38, 4)) as gross_amount,
  cast(sum(amount) as decimal(38, 4)) as net_amount
from {{ ref('sales_star') }}
group by sales_date, country, stock_code
