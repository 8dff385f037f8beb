{#- Brings a mart to what its SQL says, on whichever branch the session is set to. The table exists already: the engine
    makes it from the columns in the model's YAML, so that its first commit cannot bypass the branch. The engine says
    how: `overwrite` replaces all rows, `merge` writes only rows that differ (see engine/gold.py). -#}
{% materialization mart, adapter='spark' %}
  {%- set columns = model.columns.values() | map(attribute='name') | list -%}
  {%- if not columns -%}
    {{ exceptions.raise_compiler_error('mart ' ~ this.identifier ~ ' declares no columns in its YAML') }}
  {%- endif -%}
  {%- do check_changed_by(model) -%}
  {{ run_hooks(pre_hooks) }}
  {% call statement('main') -%}
    {%- if said_by_engine(this.identifier, 'how') == 'merge' -%}
      {{ merge_what_differs(columns, model.config.meta.key, sql) }}
    {%- else -%}
      insert overwrite table {{ this }} select {{ columns | join(', ') }} from (
        {{ sql }}
      )
    {%- endif -%}
  {%- endcall %}
  {{ run_hooks(post_hooks) }}
  {{ return({'relations': [this]}) }}
{% endmaterialization %}

{#- One commit with the rows that differ. The rows that are there are read once, with the place where they are stored,
    so that the merge finds them by place and reads no column; one that it did not find would be written a second time,
    and the mart's tests would refuse it. What the SQL gives twice is written twice, so that they find it as they would
    after an overwrite. -#}
{% macro merge_what_differs(columns, key, sql) %}
  {%- set keys = key | join(', ') -%}
  merge into {{ this }} t using (
    with wanted as (
      select {{ keys }}, row_number() over (partition by {{ keys }} order by {{ keys }}) as copy,
        struct({{ columns | join(', ') }}) as line
      from (
        {{ sql }}
      )
    ),
    present as (
      select {{ keys }}, _file as at_file, _pos as at_pos, struct({{ columns | join(', ') }}) as line
      from {{ this }} where {{ changed(this.identifier) }}
    )
    select
      w.line, p.at_file, p.at_pos,
      case when p.line is null then 'insert' when w.line is null then 'delete' else 'update' end as what
    from wanted w full outer join present p
      on {% for each in key %}w.{{ each }} = p.{{ each }} and {% endfor %}w.copy = 1
    where not (w.line <=> p.line)
  ) s
  on t._file = s.at_file and t._pos = s.at_pos
  when matched and s.what = 'delete' then delete
  when matched then update set {% for each in columns %}t.{{ each }} = s.line.{{ each }}{{ ', ' if not loop.last }}{% endfor %}
  when not matched then insert ({{ columns | join(', ') }})
    values ({% for each in columns %}s.line.{{ each }}{{ ', ' if not loop.last }}{% endfor %})
{% endmacro %}

{#- The condition that selects the rows of a mart, and the facts it is made of, that may have changed since it was
    made; true where all may have. -#}
{% macro changed(mart) %}{{ said_by_engine(mart, 'changed') }}{% endmacro %}

{#- What the engine put into the session for this mart. Marts are built by `lakehouse run` only: without a branch and a
    stamp, dbt would change what readers see. -#}
{% macro said_by_engine(mart, what) %}
  {%- if not execute -%}{{ return('1 = 1') }}{%- endif -%}
  {%- set said = run_query('set lakehouse.mart.' ~ mart ~ '.' ~ what).columns[1].values()[0] -%}
  {%- if said == '<undefined>' -%}
    {{ exceptions.raise_compiler_error('marts are built by `lakehouse run`, which puts them on a branch and stamps them') }}
  {%- endif -%}
  {{ return(said) }}
{% endmacro %}

{#- A silver table that is missing in `changed_by` would leave rows stale. -#}
{% macro check_changed_by(model) %}
  {%- set said = model.config.meta.get('changed_by', {}).keys() | list | sort -%}
  {%- set read = sources_of(model.unique_id) | unique | list | sort -%}
  {%- if said and said != read -%}
    {{ exceptions.raise_compiler_error(
      'changed_by of mart ' ~ model.name ~ ' names ' ~ said | join(', ') ~ '; its SQL reads ' ~ read | join(', ')
    ) }}
  {%- endif -%}
{% endmacro %}

{#- The sources that a model reads, by itself or through others. -#}
{% macro sources_of(unique_id) %}
  {%- set found = [] -%}
  {%- for each in graph.nodes[unique_id].depends_on.nodes -%}
    {%- if each in graph.sources -%}
      {%- do found.append(graph.sources[each].name) -%}
    {%- else -%}
      {%- do found.extend(sources_of(each)) -%}
    {%- endif -%}
  {%- endfor -%}
  {{ return(found) }}
{% endmacro %}
