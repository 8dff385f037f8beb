{{ intervals(source('silver', 'dim_product'), ['description'], before_first('fact_sales_line', 'dim_product')) }}
