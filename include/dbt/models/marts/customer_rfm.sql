{#- Recency is counted from the latest day in the data, never from a clock. Ties are broken by the key. -#}
with customers as (
  select
    customer_key, max(customer_id) as customer_id, max_by(customer_country, struct(invoice_at, line_key)) as country,
    max_by(crm_segment, struct(invoice_at, line_key)) as crm_segment,
    min(sales_date) as first_purchase, max(sales_date) as last_purchase,
    count(distinct invoice_no) filter (where line_kind = 'sale') as frequency,
    cast(sum(amount) as decimal(38, 4)) as monetary
  from {{ ref('sales_star') }}
  where customer_key is not null
  group by customer_key
),
measured as (
  select *, datediff(max(last_purchase) over (), last_purchase) as recency_days from customers where frequency > 0
),
scored as (
  select
    *,
    ntile(5) over (order by recency_days desc, customer_key) as recency_score,
    ntile(5) over (order by frequency, customer_key) as frequency_score,
    ntile(5) over (order by monetary, customer_key) as monetary_score
  from measured
)
select
  *,
  case
    when recency_score >= 4 and frequency_score >= 4 then 'champion'
    when frequency_score >= 4 then 'loyal'
    when recency_score >= 4 and frequency_score <= 2 then 'new'
    when recency_score <= 2 and frequency_score >= 3 then 'at risk'
    when recency_score <= 2 then 'lost'
    else 'regular'
  end as segment
from scored
