{#- Every moment of a dimension's keys, for the join as of an event's time: one row for each version, and one for each
    gap. The first version also covers the time before it, unless `before_first` says unknown. -#}
{% macro intervals(dimension, columns, before_first='first_version') %}
with versions as (
  select
    _key, _version_key, effective_from, effective_to, {{ columns | join(', ') }},
    row_number() over (partition by _key order by effective_from) as version_number,
    lead(effective_from) over (partition by _key order by effective_from) as next_from
  from {{ dimension }}
)
select
  _key as member_key, _version_key as version_key, 'known' as member_status,
  {% if before_first == 'first_version' -%}
  case when version_number > 1 then effective_from else timestamp '0001-01-01 00:00:00' end as valid_from,
  {%- else -%}
  effective_from as valid_from,
  {%- endif %}
  coalesce(effective_to, timestamp '9999-12-31 00:00:00') as valid_to, {{ columns | join(', ') }}
from versions
union all
select
  _key, cast(null as string), 'deleted', effective_to, coalesce(next_from, timestamp '9999-12-31 00:00:00'),
  {% for column in columns %}null as {{ column }}{{ ', ' if not loop.last }}{% endfor %}
from versions
where effective_to is not null and (next_from is null or next_from > effective_to)
{% endmacro %}

{#- What a fact's reference resolves to: known, deleted, unknown (never seen, healed when the member arrives) or
    not_stated (the fact has no key). -#}
{% macro member_status(key, status) -%}
case when {{ key }} is null then 'not_stated' else coalesce({{ status }}, 'unknown') end
{%- endmacro %}

{#- Which version holds before a member's first, as the contract of the fact says. -#}
{% macro before_first(fact, dimension) -%}
  {%- if not execute -%}{{ return('first_version') }}{%- endif -%}
  {{ return(graph.sources['source.' ~ project_name ~ '.silver.' ~ fact].config.meta.before_first[dimension]) }}
{%- endmacro %}
