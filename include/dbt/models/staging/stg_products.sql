{{ intervals(source('silver', 'dim_product'), ['description']) }}
