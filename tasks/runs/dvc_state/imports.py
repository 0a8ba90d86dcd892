"""The modules that DVC itself imports late, when they are first used. Who imports this module has paid for all of them.

A worker starts the process of a scheduled run some seconds before the run is due. What the process imports by then is
no part of the time from due to done.
"""

from __future__ import annotations

import configobj  # type: ignore[import-untyped]  # noqa: F401
import dulwich.ignore  # noqa: F401
import dvc.cachemgr
import dvc.data_cloud
import dvc.dirs
import dvc.lock
import dvc.repo.artifacts
import dvc.repo.datasets
import dvc.repo.experiments.utils
import dvc.repo.open_repo
import dvc.repo.plots
import dvc.repo.stage
import dvc.rwlock
import dvc.scm
import dvc.utils.strictyaml  # noqa: F401
import dvc_data.fs
import dvc_data.hashfile.db.local  # noqa: F401
import fsspec.implementations.memory  # type: ignore[import-untyped]  # noqa: F401
import pygit2  # noqa: F401
import pyparsing  # noqa: F401
import ruamel.yaml  # noqa: F401
import scmrepo.fs  # noqa: F401
