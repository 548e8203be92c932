"""Which W&B server there is, who we are there, and where the client may write. Nothing here imports ``wandb``."""

from __future__ import annotations

import base64
import configparser
import json
import netrc
import os
import threading
import urllib.parse
from pathlib import Path

#: The server of an account that names no other.
PUBLIC_SERVER = "https://api.wandb.ai"

#: Seconds within which a server must answer to be used.
PROBE_S = 3.0

#: Folder inside the run folder for everything that the client keeps beside its runs.
DATA = "wandb-data"

#: These would tie runs that share an environment, such as those of one sweep, to one W&B run or another folder.
_FOREIGN = ("WANDB_RUN_ID", "WANDB_RESUME", "WANDB_DIR", "WANDB_MODE", "WANDB_NAME")


def isolate(folder: Path) -> None:
    """Change this process's environment so that the client writes inside ``folder`` only, and reports its errors to nobody."""
    # The settings of `wandb login` lie where WANDB_CONFIG_DIR points now; the server they name would be forgotten.
    if (url := base_url()) != PUBLIC_SERVER:
        os.environ["WANDB_BASE_URL"] = url
    os.environ |= {"WANDB_ERROR_REPORTING": "false", "WANDB_SILENT": "true"}
    for name in ("WANDB_DATA_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR"):
        os.environ[name] = str(folder / DATA)
    for name in _FOREIGN:
        os.environ.pop(name, None)
    # The W&B service of a parent process: it may be gone, and would keep this run's id as in use when this process is killed. The
    # service that this process has started itself it also knows without the variable.
    os.environ.pop("WANDB_SERVICE", None)


def base_url() -> str:
    """Return the server that the client would use: ``$WANDB_BASE_URL``, else the one of ``wandb login``, else the public one."""
    if url := os.environ.get("WANDB_BASE_URL"):
        return url.rstrip("/")
    folder = os.environ.get("WANDB_CONFIG_DIR") or str(Path.home() / ".config" / "wandb")
    settings = configparser.ConfigParser()
    try:
        settings.read(Path(folder) / "settings")
        return settings.get("default", "base_url", fallback=PUBLIC_SERVER).rstrip("/")
    except (configparser.Error, OSError):
        return PUBLIC_SERVER


def api_key(url: str) -> str | None:
    """Return the key for the server at ``url``: ``$WANDB_API_KEY``, else the one in the netrc file, else ``None``."""
    if key := os.environ.get("WANDB_API_KEY"):
        return key
    host = urllib.parse.urlsplit(url).hostname or ""
    for path in (os.environ.get("NETRC"), str(Path.home() / ".netrc"), str(Path.home() / "_netrc")):
        try:
            entry = netrc.netrc(path).authenticators(host) if path else None
        except (OSError, netrc.NetrcParseError):
            continue
        if entry and entry[2]:
            return entry[2]
    return None


def probe() -> str | None:
    """Ask the server once who we are; return why it cannot be used, or ``None`` when it answered within :data:`PROBE_S` seconds."""
    url, limit_s = base_url(), PROBE_S
    key = api_key(url)
    if key is None:
        return f"there is no API key for {url} (`wandb login`, or WANDB_API_KEY)"
    outcome: list[str | None] = []
    # A thread, since looking up a host's name has no time limit of its own; on a node without a network it can take a minute.
    asking = threading.Thread(target=lambda: outcome.append(_ask(url, key, limit_s)), daemon=True, name="wandb-probe")
    asking.start()
    asking.join(limit_s)
    return outcome[0] if outcome else f"{url} did not answer within {limit_s:g} s"


def _ask(url: str, key: str, limit_s: float) -> str | None:
    import urllib.error
    import urllib.request

    body = json.dumps({"query": "query Viewer { viewer { id } }", "operationName": "Viewer"}).encode()
    credentials = base64.b64encode(f"api:{key}".encode()).decode()
    headers = {"Content-Type": "application/json", "Authorization": f"Basic {credentials}"}
    try:
        request = urllib.request.Request(f"{url}/graphql", data=body, headers=headers)
        with urllib.request.urlopen(request, timeout=limit_s) as answer:
            viewer = (json.loads(answer.read()).get("data") or {}).get("viewer")
    except urllib.error.HTTPError as error:
        return f"{url} answered {error.code} {error.reason}"
    except (OSError, ValueError, AttributeError) as error:
        return f"{url} cannot be reached ({getattr(error, 'reason', error)})"
    return None if viewer else f"{url} does not know the API key"
