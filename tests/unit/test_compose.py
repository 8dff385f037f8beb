"""docker-compose.yaml against the native stack: drift between the two turns this red. Nothing is started."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
from pathlib import Path

import pytest
import yaml
from tests.compose import COMPOSE, SERVICES, TEXT, VARIABLE, environment_of, filled_in, known, make_env, secrets_of

from lakehouse.cli.main import app
from lakehouse.cli.reference import commands
from lakehouse.core.settings import PROJECT_ROOT, Settings
from lakehouse.core.spark_place import DEFAULT_PORT, OWN_PROCESS, ConnectAddress
from lakehouse.stack import airflow, backup_access, credentials, minio, postgres, roles
from lakehouse.stack.prepare import BackupRoot, RolePasswords

PAGE = (PROJECT_ROOT / "docs" / "docker.md").read_text("utf-8")
RUN_SECRETS = "/run/secrets/"

AIRFLOW = {
    "airflow-init": ["python", "/opt/lakehouse/docker/airflow_init.py"],
    "airflow-apiserver": ["airflow", "api-server"],
    "airflow-scheduler": ["airflow", "scheduler", "--skip-serve-logs"],
    "airflow-dag-processor": ["airflow", "dag-processor"],
    "airflow-triggerer": ["airflow", "triggerer", "--skip-serve-logs"],
}
CONNECT = {"spark-connect": "jobs", "spark-connect-reader": "readers"}
OTHERS = {"postgres", "s3", "backups", "prepare", "lakehouse", "spark-master", "spark-worker", *CONNECT}
ONE_SHOTS = {
    "prepare": "ends when it has made roles, databases and buckets",
    "airflow-init": "ends when Airflow's database is migrated and the pools are made",
    "lakehouse": "runs one command for a person",
}
PROFILES = {
    "postgres": "postgres",
    "s3": "s3",
    "backups": "backups",
    "lakehouse": "cli",
    "spark-master": "cluster",
    "spark-worker": "cluster",
    "spark-connect": "connect",
    "spark-connect-reader": "connect",
}

OF_THE_IMAGE = {
    "cache": "jars are in the image",
    "contracts": "part of the image",
    "dbt": "part of the image",
    "dags": "part of the image",
    "s3_port": "for servers that `lakehouse up` starts",
    "ivy_settings": "for `lakehouse setup`",
    "connect_port": "for servers that `lakehouse up` starts",
    "connect_reader_port": "for servers that `lakehouse up` starts",
    "airflow_port": "for servers that `lakehouse up` starts; here it is STACK_AIRFLOW_PORT",
    "airflow_url": "written by `lakehouse up`; here it is STACK_AIRFLOW_URL",
    "airflow_database": "for `lakehouse up`; here it is STACK_AIRFLOW_DATABASE_URL",
    "actor": "given to each command by whoever starts it",
    "reader_s3_access_key_id": "not made yet: readers have the key of jobs",
    "reader_s3_secret_access_key": "not made yet: readers have the key of jobs",
    "backup_data": "for servers that `lakehouse up` starts; here it is STACK_BACKUPS",
    "backup_s3_port": "for servers that `lakehouse up` starts",
}

# What says where something is differs, and how many tasks run at once is for the person to say.
OTHER_PLACES = {
    "AIRFLOW__CORE__DAGS_FOLDER",
    "AIRFLOW__CORE__PLUGINS_FOLDER",
    "AIRFLOW__CORE__EXECUTION_API_SERVER_URL",
    "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE",
    "AIRFLOW__CORE__PARALLELISM",
    "AIRFLOW__API__HOST",
    "AIRFLOW__API__BASE_URL",
}
# Airflow's own default, below AIRFLOW_HOME, is what the volume is mounted over.
LEFT_TO_AIRFLOW = {"AIRFLOW__LOGGING__BASE_LOG_FOLDER"}

COMPILED = ("task_retries", "task_retry_seconds", "spark_master")
"""Settings that DAGs get by way of the contracts' index."""

# Who may know what. The passwords of roles that no service signs in with are known only where the roles are made.
JOBS = ("airflow-scheduler", "lakehouse")
WHO_KNOWS = {
    "lakehouse_superuser_password": {"postgres", "prepare"},
    "lakehouse_catalog_password": {"prepare", *JOBS, "spark-connect"},
    "lakehouse_reader_password": {"prepare", "airflow-apiserver", *JOBS, "spark-connect-reader"},
    "lakehouse_backup_password": {"prepare"},
    "lakehouse_restorer_password": {"prepare"},
    "lakehouse_source_owner_password": {"prepare"},
    "lakehouse_ingest_password": {"prepare"},
    "lakehouse_airflow_password": {"prepare"},
    "lakehouse_s3_access_key_id": {"s3", "prepare", "airflow-apiserver", *JOBS, *CONNECT},
    "lakehouse_s3_secret_access_key": {"s3", "prepare", "airflow-apiserver", *JOBS, *CONNECT},
    "lakehouse_backup_root_access_key_id": {"backups", "prepare"},
    "lakehouse_backup_root_secret_access_key": {"backups", "prepare"},
    "lakehouse_backup_s3_access_key_id": {"prepare", *JOBS},
    "lakehouse_backup_s3_secret_access_key": {"prepare", *JOBS},
    "lakehouse_backup_pruner_s3_access_key_id": {"prepare", *JOBS},
    "lakehouse_backup_pruner_s3_secret_access_key": {"prepare", *JOBS},
    "lakehouse_backup_reader_s3_access_key_id": {"prepare", "airflow-apiserver", *JOBS},
    "lakehouse_backup_reader_s3_secret_access_key": {"prepare", "airflow-apiserver", *JOBS},
    "lakehouse_backup_signing_key": {*JOBS},
    "lakehouse_connections": {"airflow-scheduler"},
    "all_connections": {"lakehouse"},
    "lakehouse_spark_conf": {*JOBS, "spark-master", "spark-worker", *CONNECT},
    "lakehouse_connect_token": {*JOBS, "spark-connect"},
    "lakehouse_connect_reader_token": {"airflow-apiserver", *JOBS, "spark-connect-reader"},
    "airflow_database_url": set(AIRFLOW),
    "airflow_fernet_key": set(AIRFLOW),
    "airflow_jwt_secret": set(AIRFLOW),
    "airflow_secret_key": set(AIRFLOW),
    "airflow_users": {"airflow-apiserver"},
}


@pytest.fixture(scope="module")
def env(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What docker/make-env.sh makes."""
    return make_env(tmp_path_factory.mktemp("env") / ".env")


def test_the_services_are_those_of_airflows_own_file_and_ours() -> None:
    assert set(SERVICES) == AIRFLOW.keys() | OTHERS
    assert {name: SERVICES[name]["command"] for name in AIRFLOW} == AIRFLOW
    assert {name: service["profiles"] for name, service in SERVICES.items() if "profiles" in service} == {
        name: [profile] for name, profile in PROFILES.items()
    }


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_says_how_it_is_or_ends_by_itself(name: str) -> None:
    service = SERVICES[name]
    assert ("healthcheck" in service) != (name in ONE_SHOTS)
    assert service["restart"] == ("no" if name in ONE_SHOTS else "unless-stopped")


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_has_no_rights_that_it_does_not_need(name: str) -> None:
    service = SERVICES[name]
    user, group = filled_in(service["user"]).split(":")
    assert int(user) > 0, "runs as root"
    assert group.isdigit()
    assert service["cap_drop"] == ["ALL"] and "cap_add" not in service and "privileged" not in service
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert "network_mode" not in service and "docker.sock" not in json.dumps(service)


def test_ports_are_published_on_loopback_only() -> None:
    published = [filled_in(port) for service in SERVICES.values() for port in service.get("ports", [])]
    assert published == [
        *("127.0.0.1::5432", "127.0.0.1::9000", "127.0.0.1::9000"),
        *("127.0.0.1:8080:8080", "127.0.0.1::8080"),
    ]


def test_no_service_gets_a_secret_by_its_environment() -> None:
    for name in SERVICES:
        for variable, value in environment_of(name).items():
            if re.search(r"PASSWORD|SECRET|KEY|TOKEN|CONN", variable) and variable != "LAKEHOUSE_SECRETS":
                file = value.removeprefix("cat ").removeprefix(RUN_SECRETS)
                assert value.endswith(RUN_SECRETS + file), f"{name}: {variable}"
                assert file in secrets_of(name), f"{name} has no file for {variable}"
    for secret in COMPOSE["secrets"].values():
        assert "${" + secret["environment"] not in TEXT


def test_secrets_are_known_where_they_are_needed() -> None:
    knowing = {name: set() for name in COMPOSE["secrets"]}
    for service in SERVICES:
        for secret in secrets_of(service).values():
            knowing[secret["source"]].add(service)
    assert knowing == WHO_KNOWS


@pytest.mark.parametrize("name", SERVICES)
def test_a_secrets_file_belongs_to_the_services_account_alone(name: str) -> None:
    user = filled_in(SERVICES[name]["user"]).split(":")[0]
    for file, secret in secrets_of(name).items():
        assert filled_in(secret["uid"]) == user
        # Airflow opens the file of its users for writing, even where it has nothing to write.
        assert secret["mode"] == ("0600" if file == "airflow_users" else "0400")


def test_no_variable_without_a_default_but_the_mark_of_the_generated_file(env: dict[str, str]) -> None:
    found = [match.groups() for match in VARIABLE.finditer(TEXT)]
    assert len(found) > 20
    assert TEXT.count("${") == len(found) + len(re.findall(r"\$\{[^}]*\$\{", TEXT)), "a variable was overlooked"
    assert {name for name, operator, _ in found if operator not in (":-", "-")} == {"STACK_ENV"}
    assert TEXT.count("STACK_ENV") == 1, "Compose would say it more than once"
    assert env["STACK_ENV"]


def test_the_generated_file_has_every_secret_and_nothing_else(env: dict[str, str]) -> None:
    secrets = {secret["environment"] for secret in COMPOSE["secrets"].values()}
    assert env.keys() - secrets == {"STACK_ENV", "COMPOSE_PROFILES"}
    assert secrets <= env.keys()
    users = json.loads(env["STACK_AIRFLOW_USERS"])
    assert list(users) == list(airflow.USERS), "Airflow would print a password that it made"
    assert env["COMPOSE_PROFILES"].split(",") == ["postgres", "s3", "backups"]
    made = [value for name, value in env.items() if name in secrets]
    assert all(len(value) >= 32 for value in made) and len(set(made)) == len(made)


def test_what_prepare_knows_is_what_it_asks_for() -> None:
    asked = {f"lakehouse_{name}" for name in RolePasswords.model_fields}
    asked |= {f"lakehouse_{name}" for name in BackupRoot.model_fields}
    whose = ("s3", "backup_s3", "backup_pruner_s3", "backup_reader_s3")
    keys = {f"lakehouse_{each}_{part}" for each in whose for part in ("access_key_id", "secret_access_key")}
    assert secrets_of("prepare").keys() == asked | keys
    assert SERVICES["prepare"]["command"] == ["lakehouse", "prepare"]


def test_addresses_in_the_generated_file_are_those_of_roles_and_databases(env: dict[str, str]) -> None:
    at = f"{environment_of('prepare')['LAKEHOUSE_POSTGRES_HOST']}:5432"
    assert env["STACK_AIRFLOW_DATABASE_URL"] == (
        f"postgresql+psycopg2://{roles.AIRFLOW}:{env['LAKEHOUSE_AIRFLOW_PASSWORD']}@{at}/{roles.AIRFLOW_DATABASE}"
    )
    ingest = f"postgresql://{roles.INGEST}:{env['LAKEHOUSE_INGEST_PASSWORD']}@{at}/{roles.SOURCES_DATABASE}"
    owner = f"postgresql://{roles.SOURCES_OWNER}:{env['LAKEHOUSE_SOURCE_OWNER_PASSWORD']}@{at}/{roles.SOURCES_DATABASE}"
    assert json.loads(env["LAKEHOUSE_CONNECTIONS"]) == {"crm": ingest}
    assert json.loads(env["STACK_ALL_CONNECTIONS"]) == {"crm": ingest, "crm_owner": owner}
    passwords = roles.Passwords(*["p"] * len(roles.Passwords.__dataclass_fields__))
    native = credentials.postgres_lines(Settings(), credentials.Credentials(passwords, "k", "s", "t", "u"), 5432)
    prefix = "LAKEHOUSE_CONNECTIONS__"
    named = {name.removeprefix(prefix).lower() for name in native if name.startswith(prefix)}
    assert json.loads(env["STACK_ALL_CONNECTIONS"]).keys() == named


def test_settings_exist_and_have_the_native_defaults(tmp_path: Path) -> None:
    """Except for where servers are, and that something else starts them."""
    settings = known(COMPOSE["x-lakehouse-settings"])
    fields = {name: name.removeprefix("LAKEHOUSE_").lower() for name in settings}
    elsewhere = {"home", "sources", "secrets", "s3_endpoint", "postgres_host", "postgres_port"}
    elsewhere |= {"s3_server", "postgres_server", "backup_server", "backup_bucket", "backup_s3_endpoint"}
    compared = {field: filled_in(settings[name]) for name, field in fields.items() if field not in elsewhere}
    assert len(compared) >= 8
    assert compared == {field: str(Settings.model_fields[field].default) for field in compared}
    assert settings["LAKEHOUSE_S3_SERVER"] == settings["LAKEHOUSE_POSTGRES_SERVER"] == "external"
    assert settings["LAKEHOUSE_BACKUP_SERVER"] == "external"
    assert filled_in(settings["LAKEHOUSE_BACKUP_BUCKET"]) == backup_access.BUCKET
    assert filled_in(settings["LAKEHOUSE_BACKUP_S3_ENDPOINT"]) == "http://backups:9000"
    for name in ("prepare", "lakehouse", *AIRFLOW):
        assert environment_of(name).items() >= settings.items()


def test_every_setting_can_be_made_in_env_or_says_why_not() -> None:
    given = {name.removeprefix("LAKEHOUSE_").lower() for name in COMPOSE["x-lakehouse-settings"]}
    secret = {name.removeprefix("lakehouse_") for name in COMPOSE["secrets"]} & Settings.model_fields.keys()
    assert given.isdisjoint(secret) and given.isdisjoint(OF_THE_IMAGE)
    missing = Settings.model_fields.keys() - given - secret - OF_THE_IMAGE.keys()
    assert missing == set(), "add them to x-lakehouse-settings, without a value where the default is right"
    assert (given | secret | OF_THE_IMAGE.keys()) - Settings.model_fields.keys() == set()


def test_own_servers_take_the_place_of_ours() -> None:
    settings = COMPOSE["x-lakehouse-settings"]
    own = {"LAKEHOUSE_S3_ENDPOINT": "", "LAKEHOUSE_POSTGRES_HOST": "db.example.com", "LAKEHOUSE_POSTGRES_PORT": "6432"}
    assert {name: filled_in(settings[name], own) for name in own} == own, "an empty S3 endpoint is AWS itself"
    assert filled_in(settings["LAKEHOUSE_S3_ENDPOINT"]) == "http://s3:9000"
    waits = SERVICES["prepare"]["depends_on"]
    assert waits == {
        name: {"condition": "service_healthy", "required": False} for name in ("postgres", "s3", "backups")
    }


def test_postgres_is_made_and_started_as_natively() -> None:
    service = SERVICES["postgres"]
    assert tuple(service["environment"]["POSTGRES_INITDB_ARGS"].split()) == postgres.INITDB_OPTIONS
    program, *options = service["command"]
    assert program == postgres.PROGRAM
    assert dict(option.removeprefix("-c").split("=") for option in options) == postgres.SERVER_OPTIONS
    assert f"--username={postgres.SUPERUSER}" in service["healthcheck"]["test"]
    said = subprocess.run([postgres.binaries() / "postgres", "--version"], capture_output=True, text=True, check=True)
    native = re.search(r"\d+\.\d+", said.stdout)
    assert native and service["image"] == f"postgres:{native[0]}-bookworm"


@pytest.mark.parametrize("name", ["s3", "backups"])
def test_minio_is_started_as_natively(name: str) -> None:
    service = SERVICES[name]
    native = minio.command(Path("minio"), Path("/data"), 9000, 9001, Path("/certificates"))
    assert service["command"][0] == native[1] == "server"
    assert service["command"][-1] == native[-1] == "/data"
    assert service["command"][1:3] == ["--address", ":9000"]
    quiet = minio.environment("user", "password")
    assert service["environment"]["MINIO_UPDATE"] == quiet["MINIO_UPDATE"]
    assert {"MINIO_ROOT_USER", "MINIO_ROOT_PASSWORD"} <= quiet.keys()
    assert {"MINIO_ROOT_USER_FILE", "MINIO_ROOT_PASSWORD_FILE"} <= service["environment"].keys()


def test_images_are_pinned_or_built_once() -> None:
    images = {name: filled_in(service["image"]) for name, service in SERVICES.items()}
    built = {name for name, service in SERVICES.items() if "build" in service}
    assert built == {"prepare", "s3"}
    for name, image in images.items():
        assert re.fullmatch(r"[a-z/-]+:[a-z0-9.-]+", image) and not image.endswith(":latest")
        if name != "postgres":
            assert image in {images[one] for one in built}
            assert filled_in(SERVICES[name]["pull_policy"]) == "never", "an image of ours would be looked for elsewhere"


def test_airflow_is_set_as_natively(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("AIRFLOW__")]:
        monkeypatch.delenv(name)
    mine = Settings(home=tmp_path)
    told = airflow.environment(mine, credentials.load_or_create(mine), "postgresql+psycopg2://…", 8080)
    native = {name: value for name, value in told.items() if name.startswith("AIRFLOW__")}
    here = environment_of("airflow-apiserver")
    by_file = {name for name in native if f"{name}_CMD" in here}
    assert len(by_file) == 4
    assert native.keys() - by_file - LEFT_TO_AIRFLOW <= here.keys()
    compared = native.keys() - by_file - LEFT_TO_AIRFLOW - OTHER_PLACES
    assert len(compared) >= 10
    assert {name: here[name].lower() for name in compared} == {name: native[name].lower() for name in compared}
    said = {name: filled_in(value) for name, value in COMPOSE["x-airflow-settings"].items()}
    assert said["AIRFLOW__CORE__AUTH_MANAGER"].endswith(".SimpleAuthManager")
    for name in AIRFLOW:
        assert environment_of(name).items() >= said.items()


def test_what_dags_are_built_with_is_compiled_into_the_image() -> None:
    dockerfile = (PROJECT_ROOT / "Dockerfile").read_text("utf-8")
    native = {f"LAKEHOUSE_{name.upper()}": str(Settings.model_fields[name].default) for name in COMPILED}
    assert {name: filled_in(value) for name, value in SERVICES["prepare"]["build"]["args"].items()} == native
    until_compiled = dockerfile[: dockerfile.index("RUN lakehouse contract compile")]
    assert dict(re.findall(r"^ARG (LAKEHOUSE_\w+)=(\S+)$", until_compiled, re.MULTILINE)) == native


def test_airflow_knows_every_setting() -> None:
    found = importlib.util.find_spec("airflow")
    assert found and found.origin
    options = yaml.safe_load((Path(found.origin).parent / "config_templates" / "config.yml").read_text("utf-8"))
    by_command = []
    for name in environment_of("airflow-apiserver").keys() - COMPOSE["x-lakehouse-settings"].keys():
        _, section, option = name.split("__")
        is_command = option.endswith("_CMD")
        known = options[section.lower()]["options"][option.removesuffix("_CMD").lower()]
        assert not is_command or known["sensitive"], f"Airflow runs no command for {name}"
        by_command += [name] * is_command
    assert len(by_command) == 4


def test_airflow_starts_when_everything_is_prepared() -> None:
    def waits_for(name: str) -> dict[str, str]:
        return {other: wait["condition"] for other, wait in SERVICES[name]["depends_on"].items()}

    done = "service_completed_successfully"
    assert waits_for("airflow-init") == waits_for("lakehouse") == {"prepare": done}
    for name in AIRFLOW.keys() - {"airflow-init"}:
        assert waits_for(name) == {"airflow-init": done}
    assert waits_for("spark-worker") == {"spark-master": "service_healthy"}


def test_connect_servers_are_started_for_jobs_and_for_readers() -> None:
    for name, role in CONNECT.items():
        service = SERVICES[name]
        assert service["command"] == ["python", "/opt/lakehouse/docker/spark_connect.py", role]
        assert "ports" not in service, "a token would go over the machine's network in the clear"
        assert service["healthcheck"]["test"][-2:] == ["127.0.0.1", str(DEFAULT_PORT)]
        assert environment_of(name)["LAKEHOUSE_SPARK_MASTER"] == OWN_PROCESS
    jobs = re.search(r"^LAKEHOUSE_SPARK_MASTER=(sc:\S+)$", PAGE, re.MULTILINE)
    assert jobs and ConnectAddress.parse(jobs[1], "") == ConnectAddress("spark-connect", DEFAULT_PORT, False)
    readers = re.search(r"^LAKEHOUSE_CONNECT_READER=(sc:\S+)$", PAGE, re.MULTILINE)
    assert readers and ConnectAddress.parse(readers[1], "").host == "spark-connect-reader"


def test_data_are_in_named_volumes() -> None:
    mounts = [filled_in(mount).split(":") for service in SERVICES.values() for mount in service.get("volumes", [])]
    assert {source for source, _ in mounts} == COMPOSE["volumes"].keys()
    assert filled_in(SERVICES["backups"]["volumes"][0], {"STACK_BACKUPS": "/disk2"}) == "/disk2:/data"
    shared = {tuple(mount) for mount in mounts if mount[0] in ("airflow-logs", "lakehouse-sources")}
    assert shared == {
        ("airflow-logs", "/opt/airflow/logs"),
        ("lakehouse-sources", environment_of("lakehouse")["LAKEHOUSE_SOURCES"]),
    }
    own = {"STACK_SOURCES": "/data/daily"}
    assert filled_in(SERVICES["lakehouse"]["volumes"][0], own) == "/data/daily:/var/lib/lakehouse/sources"


def test_the_page_has_every_variable_with_its_default(env: dict[str, str]) -> None:
    rows = dict(re.findall(r"^\| `((?:STACK|COMPOSE)_\w+)` \| (.+?) \|", PAGE, re.MULTILINE))
    defaults = {name: default for name, _, default in (m.groups() for m in VARIABLE.finditer(TEXT)) if "STACK" in name}
    secrets = {secret["environment"] for secret in COMPOSE["secrets"].values()}
    assert rows.keys() == defaults.keys() | {"COMPOSE_PROFILES", "STACK_AIRFLOW_USERS"}
    assert {name for name in re.findall(r"STACK_\w+", PAGE)} <= defaults.keys() | secrets
    assert rows.pop("COMPOSE_PROFILES") == f"`{env['COMPOSE_PROFILES']}`"
    in_words = {
        "STACK_AIRFLOW_USERS",
        "STACK_AUTH_MANAGER",
        "STACK_SOURCES",
        "STACK_BACKUPS",
        "STACK_S3_IMAGE",
        "STACK_ENV",
    }
    for name in rows.keys() - in_words:
        assert rows[name] == (f"`{filled_in(defaults[name])}`" if defaults[name] else "a free one"), name


def test_the_page_tells_of_every_service_volume_and_profile() -> None:
    told = {
        name
        for row in re.findall(r"^\| (`[a-z`, -]+`) \|", PAGE, re.MULTILINE)
        for name in re.findall("[a-z0-9-]+", row)
    }
    assert SERVICES.keys() - {"s3"} <= told and "| `s3` |" in PAGE
    assert [name for name in COMPOSE["volumes"] if f"`{name}`" not in PAGE] == []
    assert [
        name for name in set(PROFILES.values()) - {"postgres", "s3", "backups"} if f"profile `{name}`" not in PAGE
    ] == []


def test_commands_that_the_page_names_exist() -> None:
    named = re.findall(r"docker compose run --rm lakehouse ([a-z]+)", PAGE)
    assert len(named) >= 5
    known = {" ".join(name.split()[:2]) for name, _ in commands(app)}
    assert [command for command in named if f"lakehouse {command}" not in known] == []
    assert SERVICES["lakehouse"]["entrypoint"] == ["lakehouse"]
