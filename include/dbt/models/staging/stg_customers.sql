{{ intervals(source('silver', 'dim_customer'), ['country'], before_first('fact_sales_line', 'dim_customer')) }}
