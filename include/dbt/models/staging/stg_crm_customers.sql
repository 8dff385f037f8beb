{{ intervals(source('silver', 'dim_crm_customer'), ['segment']) }}
