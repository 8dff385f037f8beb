"""A node of a standalone Spark cluster, in the foreground: ``spark_node.py master`` or ``spark_node.py worker``.

It takes work from those only who know the cluster's secret, which is in LAKEHOUSE_SPARK_CONF: an open cluster would run
anyone's programs. Where its master is, and how much a worker may use, comes from STACK_SPARK_MASTER (spark://HOST:PORT),
STACK_WORKER_CORES and STACK_WORKER_MEMORY.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from lakehouse.core.errors import SettingsError, told_on_stderr
from lakehouse.core.jars import spark_jars_folder
from lakehouse.core.settings import Settings, load_settings
from lakehouse.stack.files import private_folder, write_private

MASTER_PAGE, WORKER_PAGE = "8080", "8081"


def conf_of(settings: Settings) -> dict[str, str]:
    """The node's Spark settings; raises :class:`SettingsError` where there is no secret among them."""
    conf = settings.spark_conf
    if conf.get("spark.authenticate") != "true" or not conf.get("spark.authenticate.secret"):
        raise SettingsError(
            "a Spark cluster without a secret would run anyone's programs, so it is not started",
            where="LAKEHOUSE_SPARK_CONF",
            todo='add "spark.authenticate": "true" and "spark.authenticate.secret", as docker/make-env.sh does',
        )
    # Encrypted, as jobs ask for it; and nobody sends or ends a job by the master's pages.
    closed = {"spark.master.rest.enabled": "false", "spark.ui.killEnabled": "false"}
    return {**conf, **closed, "spark.network.crypto.enabled": "true"}


def command(role: str, environment: Mapping[str, str], work: Path) -> list[str]:
    """The node's command line; it holds no secret."""
    master = environment["STACK_SPARK_MASTER"]
    spark_class = str(spark_jars_folder().parent / "bin" / "spark-class")
    if role == "master":
        at = urlsplit(master)
        place = ["--host", str(at.hostname), "--port", str(at.port), "--webui-port", MASTER_PAGE]
        return [spark_class, "org.apache.spark.deploy.master.Master", *place]
    share = ["--cores", environment["STACK_WORKER_CORES"], "--memory", environment["STACK_WORKER_MEMORY"]]
    place = ["--webui-port", WORKER_PAGE, "--work-dir", str(work)]
    return [spark_class, "org.apache.spark.deploy.worker.Worker", *place, *share, master]


def main(role: str) -> None:
    """Write the configuration (0600) and become the node."""
    settings = load_settings()
    folder = private_folder(settings.home / "spark" / "node")
    conf = sorted(conf_of(settings).items())
    write_private(folder / "spark-defaults.conf", "".join(f"{key} {value}\n" for key, value in conf))
    node = command(role, os.environ, private_folder(settings.home / "spark" / "work"))
    os.execve(node[0], node, {**os.environ, "SPARK_CONF_DIR": str(folder), "PYSPARK_PYTHON": sys.executable})  # noqa: S606


if __name__ == "__main__":
    if sys.argv[1:] not in (["master"], ["worker"]):
        sys.exit(__doc__)
    with told_on_stderr():
        main(sys.argv[1])
