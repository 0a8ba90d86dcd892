"""The watch: do the images that arrive look like those that the model in production was tested on?"""

from __future__ import annotations

import os
from pathlib import Path

from prefect import flow, get_run_logger
from prefect.artifacts import create_markdown_artifact
from prefect.deployments import run_deployment
from prefect.events import emit_event
from prefect.runtime import flow_run

from flows.alerts import IMAGES_CHANGED, NIGHTLY
from flows.logs import shorten_errors
from flows.start import CLONE_VARIABLE, COMMIT_VARIABLE
from tasks.errors import RunError, SettingsError
from tasks.files import fingerprint
from tasks.params import load_settings
from tasks.runs.registry import fetch_registry, shared_remote
from tasks.runs.tidying import keep_untidied
from tasks.runs.version_folders import version_folder
from tasks.watch import PAGE
from tasks.watch import watch as compare
from tasks.watching.page import describe, watch_markdown
from tasks.workspace import EXPORT, PREPARED, Workspace

KEY = "watch"


@flow
def watch(source: str = "", retrain: bool = False) -> None:
    """Compare images with the test images of the model in production.

    Args:
        source: where the new images are, as `source.uri`: a folder, an archive, a table, s3://..., tfds:name.
        retrain: start a run of the nightly deployment if they differ.
    """
    shorten_errors()
    if not source:
        raise SettingsError("Name the source of the new images: the parameter `source` of this deployment.")
    log = get_run_logger()
    clone = Workspace.at(Path(os.environ.get(CLONE_VARIABLE, ".")))
    settings = load_settings(Path.cwd())
    with keep_untidied(clone, f"the watch {flow_run.name}", log.info):
        remote = shared_remote(clone.folder, os.environ.get(COMMIT_VARIABLE, "HEAD"))
        production = fetch_registry(clone.folder, remote, log.info).production
        if production is None:
            raise RunError("No version is in production. See: python -m tasks.registry list")
        out = clone.watches / fingerprint(source)
        with version_folder(clone.folder, production.commit, [EXPORT, PREPARED], log.info) as version:
            found = compare(version.export, source, out, settings, version)
    create_markdown_artifact(watch_markdown(found), key=KEY, description="Do new images look like the test images?")
    log.info("%s The page: %s", describe(found), out / PAGE)
    if found["alarm"]:
        resource = {"prefect.resource.id": "rootstock.images", "prefect.resource.name": "new images"}
        emit_event(IMAGES_CHANGED, resource, payload={"text": describe(found)})
        if retrain:
            run_deployment(f"pipeline/{NIGHTLY}", timeout=0, as_subflow=False, idempotency_key=str(flow_run.id))
