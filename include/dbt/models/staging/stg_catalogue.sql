{{ intervals(source('silver', 'dim_catalogue_product'), ['category', 'list_price']) }}
