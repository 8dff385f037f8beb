select s.city, count(*) as orders, cast(sum(o.amount) as decimal(38, 2)) as amount
from {{ source('silver', 'fact_order') }} o
join {{ source('silver', 'dim_shopper') }} s on s._key = o.shopper_key and s.is_current
group by s.city
