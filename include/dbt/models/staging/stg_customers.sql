{{ intervals(source('silver', 'dim_customer'), ['country']) }}
