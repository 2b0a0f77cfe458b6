"""JupyterHub for a class on one machine (notebooks/jupyterhub.md). Root runs it; servers run as students."""

import os
from pathlib import Path

COURSE = Path(__file__).resolve().parents[2]
PASSWORD = os.environ.get("TIANJI_TRIAL_PASSWORD", "")  # one for all, to try it; never where others get in

c = get_config()  # noqa: F821  JupyterHub defines it
c.JupyterHub.bind_url = "http://127.0.0.1:8000"  # a web server with HTTPS stands before it
c.JupyterHub.concurrent_spawn_limit = 5  # a class comes all at once ...
c.Spawner.start_timeout = c.Spawner.http_timeout = 180  # ... and a busy machine takes its time
if PASSWORD:
    c.JupyterHub.authenticator_class = "dummy"
    c.DummyAuthenticator.password = PASSWORD
    c.Authenticator.allow_all = True
else:
    c.JupyterHub.authenticator_class = "pam"  # accounts of this machine ...
    c.PAMAuthenticator.allowed_groups = {"class"}  # ... in this group

# a limit of each process, as this spawner has none of its own: lesson 5 needs 6 GB
c.Spawner.cmd = ["prlimit", "--data=8000000000", str(COURSE / ".venv/bin/jupyterhub-singleuser")]
# kernels listen in the student's home instead of on ports of the machine, and end after an hour without work
c.Spawner.args = ["--KernelManager.transport=ipc", "--MappingKernelManager.cull_idle_timeout=3600"]
c.Spawner.default_url = "/lab"
c.Spawner.environment = {
    "JUPYTER_CONFIG_PATH": str(COURSE / "configs/jupyter"),
    "TIANJI_MODELS_DIR": str(COURSE / "models"),  # one for all, read-only
    "TIANJI_OUTPUT_DIR": "~/outputs/default",  # each student's own
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "2",  # of the cores that all share
    "OMP_WAIT_POLICY": "PASSIVE",
}
