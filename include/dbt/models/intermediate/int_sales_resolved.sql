{#- The star join: each line that may have changed, with the versions of its members that were valid at its time. -#}
select
  s.*,
  c.version_key as customer_version_key, {{ member_status('s.customer_key', 'c.member_status') }} as customer_status,
  c.country as customer_country,
  p.version_key as product_version_key, {{ member_status('s.product_key', 'p.member_status') }} as product_status,
  p.description as product_description,
  r.version_key as crm_version_key, {{ member_status('s.customer_key', 'r.member_status') }} as crm_status,
  r.segment as crm_segment,
  k.version_key as catalogue_version_key, {{ member_status('s.product_key', 'k.member_status') }} as catalogue_status,
  k.category as catalogue_category, k.list_price
from (select * from {{ ref('stg_sales_lines') }} where {{ changed('sales_star') }}) s
{% for alias, model, key in [
  ('c', 'stg_customers', 'customer_key'), ('p', 'stg_products', 'product_key'),
  ('r', 'stg_crm_customers', 'customer_key'), ('k', 'stg_catalogue', 'product_key')
] %}
left join {{ ref(model) }} {{ alias }}
  on s.{{ key }} = {{ alias }}.member_key
  and s.invoice_at >= {{ alias }}.valid_from and s.invoice_at < {{ alias }}.valid_to
{% endfor %}
