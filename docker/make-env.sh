#!/bin/sh
# Makes .env beside docker-compose.yaml: a password for each role, keys for Airflow, an access key for S3. Once.
#
#   sh docker/make-env.sh [FILE]
#
# A file that is there is never changed: its passwords are those of the data in the volumes.
set -eu

env_file=${1:-"$(cd "$(dirname "$0")/.." && pwd)/.env"}

stop() {
  printf '%s\n' "$1" >&2
  exit 1
}

# random BYTES LETTERS: so many random bytes as letters that mean nothing to URLs, JSON, .env files and shells.
random() {
  text=$(head -c "$1" /dev/urandom | base64 | tr '+/' '-_' | tr -d '\n')
  [ "${#text}" -eq "$2" ] || stop "there are no random bytes to be had from /dev/urandom; $env_file was not made"
  printf '%s' "$text"
}

password() { random 24 32; }

[ ! -e "$env_file" ] || stop "$env_file is there already, and was left as it is: its passwords are those of your data.
What to do: keep it. To begin anew, with empty volumes: docker compose down --volumes, and remove the file."

ingest=$(password)
source_owner=$(password)
airflow=$(password)
crm=@postgres:5432/sources

# mktemp's files are their owner's alone.
unfinished=$(mktemp "$env_file.XXXXXX")
trap 'rm -f "$unfinished"' EXIT
cat >"$unfinished" <<END
# Made by docker/make-env.sh. Keep it: without these passwords there is no way to the data in the volumes.
# Everything that may stand here is in docs/docker.md.
STACK_ENV=1
COMPOSE_PROFILES=postgres,s3,backups

# PostgreSQL: one password for each role.
LAKEHOUSE_SUPERUSER_PASSWORD=$(password)
LAKEHOUSE_CATALOG_PASSWORD=$(password)
LAKEHOUSE_READER_PASSWORD=$(password)
LAKEHOUSE_BACKUP_PASSWORD=$(password)
LAKEHOUSE_RESTORER_PASSWORD=$(password)
LAKEHOUSE_SOURCE_OWNER_PASSWORD=$source_owner
LAKEHOUSE_INGEST_PASSWORD=$ingest
LAKEHOUSE_AIRFLOW_PASSWORD=$airflow

# Source databases, by the names that contracts use: for jobs, and for the command line, which also makes samples.
LAKEHOUSE_CONNECTIONS='{"crm": "postgresql://lakehouse_ingest:$ingest$crm"}'
STACK_ALL_CONNECTIONS='{"crm": "postgresql://lakehouse_ingest:$ingest$crm", "crm_owner": "postgresql://crm_owner:$source_owner$crm"}'

LAKEHOUSE_S3_ACCESS_KEY_ID=$(password)
LAKEHOUSE_S3_SECRET_ACCESS_KEY=$(password)

# Backups: the root of their server, who writes, who removes and who only reads them, and the key that signs them.
# Without that key a backup cannot be told from a forged one: keep a copy of it somewhere else.
LAKEHOUSE_BACKUP_ROOT_ACCESS_KEY_ID=$(password)
LAKEHOUSE_BACKUP_ROOT_SECRET_ACCESS_KEY=$(password)
LAKEHOUSE_BACKUP_S3_ACCESS_KEY_ID=$(password)
LAKEHOUSE_BACKUP_S3_SECRET_ACCESS_KEY=$(password)
LAKEHOUSE_BACKUP_PRUNER_S3_ACCESS_KEY_ID=$(password)
LAKEHOUSE_BACKUP_PRUNER_S3_SECRET_ACCESS_KEY=$(password)
LAKEHOUSE_BACKUP_READER_S3_ACCESS_KEY_ID=$(password)
LAKEHOUSE_BACKUP_READER_S3_SECRET_ACCESS_KEY=$(password)
LAKEHOUSE_BACKUP_SIGNING_KEY=$(random 32 44)

# Spark settings of every job, as JSON. With the secret, a cluster takes work from this stack only.
LAKEHOUSE_SPARK_CONF='{"spark.authenticate": "true", "spark.authenticate.secret": "$(password)"}'

# Spark Connect servers. Who knows a token can run programs there.
LAKEHOUSE_CONNECT_TOKEN=$(password)
LAKEHOUSE_CONNECT_READER_TOKEN=$(password)

# Airflow. You sign in as admin, operator or viewer, with the passwords that stand here.
STACK_AIRFLOW_USERS='{"admin": "$(password)", "operator": "$(password)", "viewer": "$(password)"}'
STACK_AIRFLOW_DATABASE_URL=postgresql+psycopg2://lakehouse_airflow:$airflow@postgres:5432/lakehouse_airflow
STACK_AIRFLOW_FERNET_KEY=$(random 32 44)
STACK_AIRFLOW_JWT_SECRET=$(random 48 64)
STACK_AIRFLOW_SECRET_KEY=$(random 48 64)
END
# `ln` refuses where another run was first.
ln "$unfinished" "$env_file" 2>/dev/null || stop "$env_file cannot be made: the folder cannot be written to, or another run was first"
printf '%s\n' "$env_file was made, for your account only. You sign in to Airflow as admin, with the password in STACK_AIRFLOW_USERS."
