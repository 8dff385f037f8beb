select * from {{ ref('int_sales_resolved') }}
