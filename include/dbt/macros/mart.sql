{#- Replaces the whole mart in one commit, on whichever branch the session is set to. The table exists already: the
    engine makes it from the columns in the model's YAML, so that its first commit cannot bypass the branch. -#}
{% materialization mart, adapter='spark' %}
  {%- set columns = model.columns.values() | map(attribute='name') | join(', ') -%}
  {%- if not columns -%}
    {{ exceptions.raise_compiler_error('mart ' ~ this.identifier ~ ' declares no columns in its YAML') }}
  {%- endif -%}
  {{ run_hooks(pre_hooks) }}
  {% call statement('main') -%}
    insert overwrite table {{ this }} select {{ columns }} from (
      {{ sql }}
    )
  {%- endcall %}
  {{ run_hooks(post_hooks) }}
  {{ return({'relations': [this]}) }}
{% endmaterialization %}
